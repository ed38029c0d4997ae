"""Detection datasets: registration, loading, mapping and data loaders."""

from .build import build_test_loader, build_train_loader, get_detection_dicts
from .builtin import register_digits, register_voc
from .mapper import FlowDatasetMapper
from .voc import load_voc_dicts

__all__ = [
    "FlowDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "get_detection_dicts",
    "load_voc_dicts",
    "register_digits",
    "register_voc",
]
