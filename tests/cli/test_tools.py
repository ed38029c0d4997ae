"""The files in tools/: each runs the command of flowdet.cli that its name says."""

import logging
import os
import signal
import subprocess
import sys
import warnings

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.cli.conftest import LOGGERS, ROOT

TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
MODULES = {path.stem for path in (ROOT / "flowdet" / "cli").glob("*.py")}


def test_every_command_has_a_file():
    helpers = {"__init__", "common", "comparison_command", "process_options", "processes", "replay"}
    helpers |= {name for name in MODULES if name.startswith("run_")}
    names = {name.removesuffix(".py") for name in TOOLS}
    assert names == MODULES - helpers - {"train"} | {"train_net"}


@pytest.mark.parametrize("tool", TOOLS)
def test_help_starts_with_the_command_as_it_is_typed(run, tool):
    status, output = run(f"tools/{tool}", "--help")
    assert status == 0
    assert output.startswith(f"usage: tools/{tool} ")
    # the examples of the description
    assert f"\n    tools/{tool} " in output or f"\n    tools/{tool}\n" in output
    assert os.access(ROOT / "tools" / tool, os.X_OK)


def test_a_file_runs_as_a_process(tmp_path):
    folder = tmp_path / "digits"
    tool = ROOT / "tools" / "make_digits.py"
    words = [str(tool), "--output", str(folder), "--train", "2", "--test", "1"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}: wrote 2 training and 1 test images\n"
    assert (folder / "manifest.json").is_file()


def test_the_test_fixture_restores_the_process(run, tmp_path):
    def state():
        loggers = [logging.getLogger(name) for name in LOGGERS]
        return [
            (os.getcwd(), dict(os.environ), sys.argv, list(sys.path), set(DatasetCatalog)),
            [(x.handlers[:], x.level, x.propagate) for x in loggers],
            MetadataCatalog.get("digits_test").dirname,
            (signal.getsignal(signal.SIGTERM), list(warnings.filters)),
        ]

    before = state()
    words = ("tools/train_net.py", "--config-file", "digits_flow", "OUTPUT_DIR", tmp_path)
    # it fails after logging, environment and datasets have been set up
    status, output = run(*words, "MODEL.FLOW_DET.IN_FEATURES", "[res7]")
    assert status == 2 and str(run.datasets) not in MetadataCatalog.get("digits_test").dirname
    assert state() == before
