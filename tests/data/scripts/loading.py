"""Loads the scripts in datasets/, which are not part of a package."""

import importlib.util
from pathlib import Path

SCRIPTS = Path(__file__).parents[3] / "datasets"


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(script, monkeypatch, *words):
    """Runs the command line of a loaded script in this process."""
    monkeypatch.setattr("sys.argv", [f"{script.__name__}.py", *map(str, words)])
    script.main()
