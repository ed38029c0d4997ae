"""Fixtures for all tests."""

import gc
import os
import shutil
import signal

# Small models are faster with one thread, several times faster if other processes run. torch reads
# this when it is imported, also in the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# isort: split
import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng

from flowdet.data.detection.builtin import register_voc
from flowdet.data.detection.voc import write_voc_annotation


def pytest_configure():
    """Handles Ctrl-C, which shells let the programs in their background ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Leaves all that was imported out of garbage collections, which take half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed():
    """Seeds the global random generators before every test."""
    seed_all_rng(0)


@pytest.fixture(autouse=True)
def unregister_datasets():
    """Removes the datasets that a test registered: the catalogs are global."""
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture(scope="session")
def browser():
    """The program of a headless browser; skips the test without one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(names)})")
    return found


@pytest.fixture
def voc_folder(tmp_path):
    """Writes a split in VOC layout; returns the folder of the dataset.

    Call it with {image id: [(xyxy box, class name, difficult), ...]}.
    """

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
    """Writes and registers a VOC dataset with the classes cat, dog, owl; returns its name."""

    def write(images, name="pets", **settings):
        root = voc_folder(images, folder=name, **settings)
        register_voc(name, root, settings.get("split", "train"), ["cat", "dog", "owl"])
        return name

    return write
