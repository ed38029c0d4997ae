"""Runs the examples of docs/extending.md as they are printed."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils.events import EventStorage

from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.formats import FORMAT_REGISTRY
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.detection.build import DETECTION_BLOCK_REGISTRY
from flowdet.engine import Trainer, load_config
from flowdet.flow import INFERENCE_MODES, FlowEnsemble, solve
from tests.data.custom.example_datasets import write_image
from tests.detection.tiny import record
from tests.flow.toy import DIM, IdentityTime, TimesBlock, constants

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE, re.S))
ALL_COMMANDS = [
    shlex.split(x.replace("\\\n", "")) for x in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
]
# the last example is a dataset format, the others are parts of a model
COMMANDS = ALL_COMMANDS[:-1]


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Writes all examples to the working directory; removes afterwards what they register."""
    registries = [
        BACKBONE_REGISTRY._obj_map,
        DETECTION_BLOCK_REGISTRY._obj_map,
        FORMAT_REGISTRY._obj_map,
        INFERENCE_MODES,
    ]
    before = [dict(registry) for registry in registries]
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


def test_every_example_has_a_command():
    assert len(EXAMPLES) == 4
    imports = [command[command.index("IMPORTS") + 1] for command in ALL_COMMANDS]
    assert imports == [f"['{name}.py']" for name in EXAMPLES]


@pytest.mark.parametrize("command", COMMANDS, ids=list(EXAMPLES)[:-1])
def test_example_trains_and_detects(in_folder, command):
    assert command[:2] == ["tools/train_net.py", "--config-file"]
    small = ["MODEL.DEVICE", "cpu", "MODEL.FLOW_DET.HIDDEN_DIM", "32"]
    small += ["MODEL.FLOW_DET.NUM_CLASSES", "3", "MODEL.FLOW_DET.NUM_QUERIES", "5"]
    small += ["MODEL.FLOW_DET.SCORE_THRESHOLD", "0"]
    model = Trainer.build_model(load_config(str(ROOT / command[2]), [*command[3:], *small]))
    inputs = [record(seed=i) for i in range(2)]
    with EventStorage():
        losses = model.train()(inputs)
        sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert any(p.grad.abs().sum() > 0 for p in model.flow.blocks[-1].parameters())
    results = model.eval()(inputs)
    assert len(results) == 2 and all(len(result["instances"]) for result in results)


def test_heun_is_exact_where_the_velocity_of_each_block_is_constant(in_folder):
    exec(EXAMPLES["my_solver"], {})
    z_1 = solve(constants(2.0, 4.0), torch.zeros(1, DIM), None, "heun", num_steps=3).z_1
    torch.testing.assert_close(z_1, torch.full_like(z_1, 3.0), rtol=0, atol=1e-5)


def test_heun_is_more_exact_than_euler(in_folder):
    exec(EXAMPLES["my_solver"], {})
    ensemble = FlowEnsemble([TimesBlock()], IdentityTime())

    def error(mode):
        # the velocity 3 t^2 leads from 0 to 1
        return (solve(ensemble, torch.zeros(1, DIM), None, mode, num_steps=8).z_1 - 1).abs().max()

    assert error("heun") < error("multi_step") / 3


def test_a_dataset_format_is_read_checked_and_registered(in_folder, tmp_path):
    root = tmp_path / "boxes"
    root.mkdir()
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            write_image(root / f"{split}{number}.png")
        lines = [f"{split}{number}.png|cat|1.5|2|30|20.25" for number in range(count)]
        (root / f"{split}.boxes").write_text("\n".join(lines))
    config, *words = ALL_COMMANDS[-1][2:]
    assert words.pop(0) == "--data" and words.pop(0) == "path/to/dataset"
    cfg = load_config(str(ROOT / config), [*words, "DATASETS.PATH", str(root)])
    (record,) = get_detection_dicts(cfg.DATASETS.TEST[0], keep_difficult=True)
    assert record["annotations"][0]["bbox"] == [1.5, 2, 30, 20.25]
    with open(root / "val.boxes", "a", encoding="utf-8") as file:
        file.write("\nval0.png|cat|a lot")
    (problem,) = check_dataset(root).problems
    assert problem.where == f"{root / 'val.boxes'}:2"
