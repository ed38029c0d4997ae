"""Exports trained models as single files: ONNX, or torch.export.

`graphs` turns a model into a function of tensors, `suppression` has the NMS operator of the graphs,
`formats` writes and runs files, and `check` compares files with the PyTorch model.
"""

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
