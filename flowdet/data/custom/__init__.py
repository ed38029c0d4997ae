"""Datasets that are a folder, in VOC or COCO format: found, read, checked and registered by path.

`DATASETS.PATH` names such a folder; docs/own_data.md shows what may be in it.
"""

from flowdet.data.custom.dataset import CustomDataset, register_custom

__all__ = ["CustomDataset", "register_custom"]
