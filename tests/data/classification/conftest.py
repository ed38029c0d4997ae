"""Fixtures of the tests of augmentation and loaders."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.config import add_flowdet_config
from tests.data.classification.batches import COUNT


@pytest.fixture
def register():
    """Registers dicts as a dataset of two classes; returns its name."""

    def add(name, records, classes=("even", "odd")):
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=list(classes))
        return name

    return add


@pytest.fixture
def cfg(register):
    """A config with ten noise images of 12 x 12 pixels, ids 100 to 109, in batches of 4."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 12, 12, 3), dtype=np.uint8)
    records = [{"image_id": 100 + i, "label": i % 2, "image": x} for i, x in enumerate(pixels)]
    cfg = get_cfg()
    add_flowdet_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (register("noise", records),)
    cfg.INPUT.FIXED_SIZE = [12, 12]
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.TEST.BATCH_SIZE = 4
    cfg.SEED = 11
    return cfg
