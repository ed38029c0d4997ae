"""Fixtures that several folders share."""

import os

# Small models are faster in one thread, several times so where other processes run beside them.
# Read when torch is loaded, and by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# isort: split
import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng

from flowdet.data.detection.builtin import register_voc
from flowdet.data.detection.voc import write_voc_annotation


@pytest.fixture(autouse=True)
def the_same_random_numbers_every_time():
    seed_all_rng(0)


@pytest.fixture(autouse=True)
def no_dataset_outlives_its_test():
    """The catalogs are global: a name that stays registered would fail a later test."""
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def voc_folder(tmp_path):
    """Writes a VOC dataset: call with {image id: [(xyxy box, class name, difficult), ...]}."""

    def write(images, split="train", size=(48, 64), folder="voc"):
        root = tmp_path / folder
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / name).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for image_id, objects in images.items():
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "JPEGImages" / f"{image_id}.jpg"), pixels)
            write_voc_annotation(
                root / "Annotations" / f"{image_id}.xml",
                f"{image_id}.jpg",
                size,
                np.array([box for box, _, _ in objects]),
                [name for _, name, _ in objects],
                [difficult for _, _, difficult in objects],
            )
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        listing.write_text("".join(f"{image_id}\n" for image_id in images))
        return root

    return write


@pytest.fixture
def voc_dataset(voc_folder):
    """Writes and registers a VOC dataset of the classes cat, dog, owl; returns its name."""

    def write(images, name="pets", **settings):
        root = voc_folder(images, folder=name, **settings)
        register_voc(name, root, settings.get("split", "train"), ["cat", "dog", "owl"])
        return name

    return write
