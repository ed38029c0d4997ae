"""`python -m flowdet.collect_env`, with detectron2 and without it."""

import importlib.metadata
import runpy
import sys

import torch

import flowdet
from flowdet.collect_env import collect_env
from flowdet.config.config_files import configs_folder


def test_the_report_names_flowdet_its_configs_and_the_versions(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "flowdet.collect_env")
    runpy.run_module("flowdet.collect_env", run_name="__main__")
    text = capsys.readouterr().out
    assert text.startswith(f"flowdet {flowdet.__version__} in ")
    assert f"configs: {configs_folder()}\n" in text
    # detectron2's part
    assert torch.__version__ in text and "GPU available" in text


def test_without_detectron2_it_names_the_installer_and_the_versions(monkeypatch):
    for name in ("detectron2.utils.collect_env", "flowdet.config.config_files"):
        monkeypatch.setitem(sys.modules, name, None)
    text = collect_env()
    assert text.startswith(f"flowdet {flowdet.__version__} in ")
    assert "configs: unknown (ModuleNotFoundError" in text
    assert "detectron2 cannot be imported (ModuleNotFoundError" in text
    assert "flowdet-install-detectron2" in text
    assert f"torch {importlib.metadata.version('torch')}\n" in text


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "detectron2.utils.collect_env", None)
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "scipy is not installed" in collect_env()
