"""Exports a trained model as a single file: ONNX, or torch.export.

`graphs` turns a model into a function of tensors. `suppression` defines the NMS operator of the
graphs. `formats` writes and runs files. `check` compares a file with the PyTorch model. `metadata`
describes inputs and outputs for the users of a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowdet.lazy_exports import lazy_exports

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

# graphs load torch, `suffixes` does not
__getattr__ = lazy_exports(
    __name__,
    {
        "check": ("Difference", "export", "measure_difference"),
        "formats": ("FORMATS",),
        "graphs": ("ClassificationGraph", "DetectionGraph", "Graph", "graph_of"),
        "metadata": ("metadata_of",),
    },
)
