"""What an import of the package loads and changes, each in a process of its own."""

import importlib
import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "torchvision", "detectron2", "numpy", "scipy", "sklearn", "matplotlib", "cv2"]

IMPORT_FLOWDET = f"""
import json, os, sys
before = dict(os.environ)
import flowdet
print(json.dumps({{
    "loaded": [name for name in {HEAVY} if name in sys.modules],
    "environment_is_unchanged": dict(os.environ) == before,
}}))
"""

IMPORT_FLOW = """
import sys

class Blocked:
    names = {"detectron2", "torchvision", "scipy", "sklearn", "matplotlib", "cv2"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import torch
import flowdet.flow
print(len(flowdet.flow.INFERENCE_MODES), sorted(Blocked.names & set(sys.modules)))
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_flowdet_imports_nothing_heavy_and_sets_no_environment_variable():
    assert json.loads(run(IMPORT_FLOWDET)) == {"loaded": [], "environment_is_unchanged": True}


def test_the_flow_package_needs_torch_alone():
    assert run(IMPORT_FLOW) == "4 []\n"


def test_a_package_has_only_its_exports():
    for package in ("config", "export", "inference"):
        module = importlib.import_module(f"flowdet.{package}")
        assert all(getattr(module, name) is not None for name in module.__all__)
        with pytest.raises(AttributeError, match=f"flowdet.{package}' has no attribute 'nothing'"):
            module.nothing  # noqa: B018
