"""Exports a trained model as a single file: ONNX, or torch.export.

`graphs` turns a model into a function of tensors. `suppression` defines the NMS operator of the
graphs. `formats` writes and runs files. `check` compares a file with the PyTorch model. `metadata`
describes inputs and outputs for the users of a file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdet.export.check import Difference, export, measure_difference
    from flowdet.export.formats import FORMATS
    from flowdet.export.graphs import ClassificationGraph, DetectionGraph, Graph, graph_of
    from flowdet.export.metadata import metadata_of

__all__ = [
    "FORMATS",
    "ClassificationGraph",
    "DetectionGraph",
    "Difference",
    "Graph",
    "export",
    "graph_of",
    "measure_difference",
    "metadata_of",
]

_MODULES = {
    "Difference": "flowdet.export.check",
    "export": "flowdet.export.check",
    "measure_difference": "flowdet.export.check",
    "FORMATS": "flowdet.export.formats",
    "ClassificationGraph": "flowdet.export.graphs",
    "DetectionGraph": "flowdet.export.graphs",
    "Graph": "flowdet.export.graphs",
    "graph_of": "flowdet.export.graphs",
    "metadata_of": "flowdet.export.metadata",
}


def __getattr__(name: str):
    """Imports an export when it is first used: graphs load torch, `suffixes` does not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
