"""Comparisons whose trainings are a short script."""

import sys

import pytest

from flowdet.experiments.comparison import Budget, Comparison, Run
from tests.detection.tiny import CONFIGS, SIZES

# replaces the training command: records that it ran, and fails for the seed FAIL_SEED
TRAIN = """
import json, os, sys, time
words = sys.argv[1:]
keys = dict(zip(words[3::2], words[4::2]))
folder = keys["OUTPUT_DIR"]
with open(os.path.join(folder, "calls"), "a") as calls:
    calls.write("x")
if keys["SEED"] == os.environ.get("FAIL_SEED"):
    sys.exit("error: out of luck")
if "SLEEP" in os.environ:
    open(os.path.join(folder, "model_0000001.pth"), "w").close()
    open(os.path.join(folder, "pid"), "w").write(str(os.getpid()))
    time.sleep(60)
open(os.path.join(folder, "threads"), "w").write(os.environ.get("OMP_NUM_THREADS", "all"))
print("resuming" if "--resume" in words else "starting")
rows = [
    {"dataset": "compared_pets", "metric": "AP50", "mean": 10.0 * int(keys["SEED"])},
    {"dataset": "compared_pets", "metric": "AP75", "mean": 5.0},
    {"dataset": "other_pets", "metric": "AP75", "mean": 99.0},
]
with open(os.path.join(folder, "results.json"), "w") as file:
    json.dump({"rows": rows}, file)
"""


@pytest.fixture
def overrides(voc_dataset):
    objects = {f"img{i}": [((1, 2, 20, 30), "dog", 0)] for i in range(8)}
    name = voc_dataset(objects, name="compared_pets")
    keys = SIZES | {
        "MODEL.FLOW_DET.NUM_BLOCKS": 1,
        "DATASETS.TRAIN": f"('{name}',)",
        "DATASETS.TEST": f"('{name}',)",
        "INPUT.FIXED_SIZE": "[32,32]",
    }
    return [str(word) for pair in keys.items() for word in pair]


@pytest.fixture
def compare(tmp_path, overrides):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)

    def build(budgets=("4:2",), seeds=(0, 1), methods=("flow", "backprop"), extra=(), jobs=1):
        runs = [
            Run.plan(
                str(CONFIGS / f"digits_{method}.yaml"),
                Budget.parse(budget),
                seed,
                tmp_path / "out",
                [*overrides, *extra],
            )
            for budget in budgets
            for seed in seeds
            for method in methods
        ]
        return Comparison(runs, [sys.executable, str(script)], jobs)

    return build
