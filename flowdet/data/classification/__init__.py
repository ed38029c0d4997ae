"""Classification datasets: registration, image reading, augmentation and data loaders.

Importing this package registers the datasets with detectron2.

    datasets.py      registers and reads the datasets
    images.py        reads and resizes images, and keeps them in memory if they fit
    augmentation.py  augments batches of images
    loaders.py       training and test loaders
"""

from flowdet.data.classification.datasets import (
    get_classification_dicts,
    register_classification_datasets,
    register_image_folder,
)

__all__ = [
    "get_classification_dicts",
    "register_classification_datasets",
    "register_image_folder",
]
