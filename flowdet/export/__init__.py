"""Trained models as single files: ONNX, or torch.export.

`graphs` makes a model a function of tensors, `suppression` the operator that it needs, `formats`
writes and runs files, `check` compares them with the model.
"""

from flowdet.export.check import Difference, difference, export
from flowdet.export.formats import FORMATS
from flowdet.export.graphs import ClassificationGraph, DetectionGraph, Graph, graph_of
from flowdet.export.metadata import metadata_of

__all__ = [
    "FORMATS",
    "ClassificationGraph",
    "DetectionGraph",
    "Difference",
    "Graph",
    "difference",
    "export",
    "graph_of",
    "metadata_of",
]
