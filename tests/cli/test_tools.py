"""The files in tools/: each runs the command of flowdet.cli that its name says."""

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
MODULES = {path.stem for path in (ROOT / "flowdet" / "cli").glob("*.py")}


def test_every_command_has_a_file():
    helpers = {"__init__", "common", "comparison_command"}
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
