"""The built wheel, installed outside of the checkout and used from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowdet.data.detection.digits import make_digits
from tests.cli.commands import FOUR_IMAGES, SMALL
from tests.cli.conftest import ROOT

pytestmark = pytest.mark.slow

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "flowdet_install.py")

LIST_AND_LOAD = """
import contextlib, importlib.metadata, io, json, runpy, sys
import flowdet
from flowdet.config.config_files import configs_folder
names = flowdet.list_configs()
output = io.StringIO()
script = sys.argv[1]
sys.argv = [script, "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(output):
    runpy.run_path(script, run_name="__main__")
print(json.dumps({
    "package": flowdet.__file__,
    "configs": str(configs_folder()),
    "architectures": {x: flowdet.get_config(x).MODEL.META_ARCHITECTURE for x in names},
    "help": output.getvalue(),
    "commands": [
        entry.name
        for entry in importlib.metadata.distribution("flowdet").entry_points
        if callable(entry.load())
    ],
}))
"""

# calls console scripts in one process, because its start takes seconds
CALL_IN_TURN = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    # built from a copy, so that no build products are left in the checkout
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    for name in ("flowdet", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run([*pip, *build], cwd=folder, check=True)
    (wheel,) = (folder / "dist").glob("flowdet-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", folder / "site", wheel], cwd=folder, check=True
    )
    return folder / "site"


@pytest.fixture(scope="module")
def installed(site, tmp_path_factory):
    """Runs Python code in a folder that holds a dataset only."""
    folder = tmp_path_factory.mktemp("empty")
    make_digits(folder / "datasets" / "digits", num_train=8, num_test=4)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("DETECTRON2_DATASETS", None)

    def run(code, argument):
        done = subprocess.run(
            [sys.executable, "-c", code, str(argument)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.folder = folder
    return run


def test_configs_and_commands_are_in_the_wheel(installed, site):
    script = site / "bin" / "flowdet-train"
    content = json.loads(installed(LIST_AND_LOAD, script))
    assert Path(content["package"]).is_relative_to(site)
    assert Path(content["configs"]) == site / "flowdet" / "configs"
    architectures = content["architectures"]
    assert architectures["voc_flow_r50"] == "FlowMatchingDetector"
    assert architectures["paper/voc_backprop_r50"] == "BackpropDetector"
    assert architectures["cls/digits_flow_vit"] == "FlowMatchingClassifier"
    # all leaves of the checkout, none of the bases
    files = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")]
    leaves = {
        file.with_suffix("").as_posix()
        for file in files
        if not {"bases", "ablations"} & set(file.parts) and file.name != "recipe.yaml"
    }
    assert architectures.keys() == leaves
    assert sorted(content["commands"]) == [
        "flowdet-check-data",
        "flowdet-demo",
        "flowdet-export",
        "flowdet-install-detectron2",
        "flowdet-report",
        "flowdet-train",
    ]
    text = content["help"]
    assert text.startswith("usage: flowdet-train ")
    assert "    flowdet-train --config-file configs/digits_flow.yaml\n" in text
    assert "tools/" not in text


def test_a_config_by_its_name_trains_and_detects(installed, site):
    words = [*SMALL, *FOUR_IMAGES, "SOLVER.MAX_ITER", 2, "MODEL.DEVICE", "cpu"]
    words += ["MODEL.FLOW_DET.NUM_BLOCKS", 2, "MODEL.FLOW_DET.SCORE_THRESHOLD", 0.0]
    train = ("--config-file", "digits_flow", *words, "OUTPUT_DIR", "run")
    image = next((installed.folder / "datasets/digits/JPEGImages").glob("test_*.jpg"))
    demo = ("--config-file", "run/config.yaml", "--weights", "run/model_final.pth")
    demo += ("--input", image, "--output", "detections.png", "--json", "detections.json")
    calls = [
        [str(word) for word in (site / "bin" / command, *words)]
        for command, words in (("flowdet-train", train), ("flowdet-demo", demo))
    ]
    installed(CALL_IN_TURN, json.dumps(calls))
    run = installed.folder / "run"
    results = json.loads((run / "results.json").read_text())
    assert results["command"].startswith("flowdet-train --config-file digits_flow ")
    assert {row["dataset"] for row in results["rows"]} == {"digits_test"}
    # the template of the report is in the wheel, too
    assert "flowdet-train --config-file digits_flow" in (run / "report.html").read_text()

    assert (installed.folder / "detections.png").is_file()
    detections = json.loads((installed.folder / "detections.json").read_text())
    assert {row["image_id"] for row in detections} == {image.stem}
