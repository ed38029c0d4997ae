"""What the tests of augmentation and loaders have in common."""

import itertools

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from flowdet.data.classification.datasets import register_image_folder
from flowdet.data.classification.loaders import build_train_loader

# images in the dataset "noise" of the fixture `cfg`
COUNT = 10
ALL_AUGMENTATIONS = {
    "INPUT.CROP_PADDING": 2,
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.AUTO_AUGMENT": "cifar10",
    "INPUT.RANDOM_ERASING": 0.7,
    "INPUT.RANDOM_ROTATION": 20.0,
}


def set_keys(cfg, keys):
    cfg.merge_from_list([word for pair in keys.items() for word in pair])


def batches(cfg, count, start_iter=0):
    """Returns the first `count` training batches."""
    return list(itertools.islice(build_train_loader(cfg, start_iter), count))


def ids(batches):
    return [record["image_id"] for batch in batches for record in batch]


def assert_same(actual, expected):
    """Checks that two lists of batches have the same images, to the bit, and labels."""
    assert ids(actual) == ids(expected)
    for a, b in zip(sum(actual, []), sum(expected, []), strict=True):
        assert a.get("label") == b.get("label")
        assert torch.equal(a["image"], b["image"])


def pixels_of(name):
    """Returns the images of a registered dataset by image id."""
    return {r["image_id"]: torch.tensor(r["image"]) for r in DatasetCatalog.get(name)}


def write_folder(folder, sizes, suffix="png"):
    """Writes and registers one image per (width, height), in alternating classes a and b."""
    rng = np.random.default_rng(1)
    for i, (width, height) in enumerate(sizes):
        path = folder / "ab"[i % 2] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    register_image_folder("folder", folder)
    return "folder"
