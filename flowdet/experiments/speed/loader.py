"""How many images per second the training loader makes, relative to the training step."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from flowdet.data.detection.digits import make_digits
from flowdet.engine.config import with_keys
from flowdet.engine.task_builders import task_of
from flowdet.experiments.speed.setup import bench_config, spread
from flowdet.experiments.speed.training import training_call

# the side of the JPEG files in pixels, about that of the photos of VOC
IMAGE_SIDE = 480
IMAGES = 64
BATCHES = 6
# the batches that a worker of PyTorch's loader makes in advance
PREFETCHED = 2


def loader_rows(
    configs: Sequence[str], overrides: Sequence[str], workers: Sequence[int], rounds: int
) -> list[dict]:
    """Measures the loaders of configs, with their augmentations, for several numbers of workers.

    The images are generated JPEG files. Loader and training step are measured in turn; the workers
    do not run during the steps.

    Args:
        configs, overrides: see `bench_config`.
        workers: values of `DATALOADER.NUM_WORKERS`.
        rounds: measurements.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images"
        make_digits(data, num_train=IMAGES, num_test=1, image_size=IMAGE_SIDE)
        words = ["DATASETS.PATH", repr(str(data)), *overrides]
        return [
            {"part": "loader", "config": name} | row
            for name in configs
            for row in _rows(bench_config(name, words), workers, rounds)
        ]


def _rows(cfg: CfgNode, workers: Sequence[int], rounds: int) -> list[dict]:
    """Measures the loader of one config."""
    step = training_call(cfg, cfg.SOLVER.IMS_PER_BATCH)
    loaded: dict[int, list[float]] = {count: [] for count in workers}
    trained = []
    with EventStorage():
        step()
        for _ in range(rounds):
            for count, rates in loaded.items():
                rates.append(_images_per_second(cfg, count))
            start = time.perf_counter()
            step()
            trained.append(cfg.SOLVER.IMS_PER_BATCH / (time.perf_counter() - start))
    columns = {"batch_size": cfg.SOLVER.IMS_PER_BATCH}
    name = {"metric": "images_per_second"}
    rows = [columns | {"method": "training_step"} | name | spread(trained)]
    for count, rates in loaded.items():
        columns |= {"method": "loader", "workers": count}
        relative = [x / statistics.median(trained) for x in rates]
        rows.append(columns | name | spread(rates))
        rows.append(columns | {"metric": "loader_ratio_to_step"} | spread(relative))
    return rows


def _images_per_second(cfg: CfgNode, workers: int) -> float:
    """Loads batches in new worker processes.

    The first batch, for which they start, is left out, and so are those that each worker has made
    meanwhile.
    """
    cfg = with_keys(cfg, {"DATALOADER.NUM_WORKERS": workers})
    batches = iter(task_of(cfg).build_train_loader(cfg))
    deque(islice(batches, 1 + PREFETCHED * workers), maxlen=0)
    start = time.perf_counter()
    images = sum(len(batch) for batch in islice(batches, BATCHES))
    return images / (time.perf_counter() - start)
