"""Detection datasets: registration, annotation files, mapping and data loaders.

Importing this package registers the digits dataset with detectron2.

    builtin.py  registers the digits dataset and other datasets in VOC layout
    voc.py      reads and writes VOC annotations
    digits.py   generates the digits dataset
    mapper.py   reads, resizes and augments one image
    loaders.py  training and test loaders
"""

from flowdet.data.detection.builtin import register_digits, register_voc
from flowdet.data.detection.loaders import (
    build_test_loader,
    build_train_loader,
    get_detection_dicts,
)
from flowdet.data.detection.mapper import FlowDatasetMapper
from flowdet.data.detection.voc import load_voc_dicts

__all__ = [
    "FlowDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "get_detection_dicts",
    "load_voc_dicts",
    "register_digits",
    "register_voc",
]
