"""Commands run as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command on a digits set of 12 images; returns (exit status, output)."""
    folder = tmp_path_factory.mktemp("commands")
    environment = {**os.environ, "DETECTRON2_DATASETS": str(folder), "PYTHONPATH": str(ROOT)}

    def command(*words):
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    status, output = command(
        *("tools/make_digits.py", "--output", folder / "digits", "--train", 8, "--test", 4)
    )
    assert status == 0, output
    return command
