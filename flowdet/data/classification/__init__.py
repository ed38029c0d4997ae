"""Classification datasets: registration, image reading, augmentation and data loaders.

Importing it registers the datasets with detectron2.
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
