"""Data loaders for classification. They load and augment a whole batch at a time."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from flowdet.config.errors import ConfigError
from flowdet.data.classification.augmentation import (
    NUM_NUMBERS,
    BatchAugmentation,
    build_resized_crop,
    transform_each,
)
from flowdet.data.classification.datasets import get_classification_dicts
from flowdet.data.classification.images import ImageStore, resize_and_crop
from flowdet.data.detection.loaders import common_classes
from flowdet.data.workers import SharedSamples

__all__ = [
    "BatchAugmentation",
    "RecordLoader",
    "build_test_loader",
    "build_train_loader",
    "count_training_images",
    "labels_of",
]

logger = logging.getLogger(__name__)

# a message lists at most this many classes
_LISTED = 10


def count_training_images(cfg: CfgNode) -> int:
    """Counts the images of all datasets in DATASETS.TRAIN.

    Raises:
        ValueError, FileNotFoundError: as `build_train_loader`.
    """
    return len(_records(_training_names(cfg)))


def labels_of(dataset_name: str) -> dict[int | str, int]:
    """Returns the class index of every image id of a registered dataset, for the evaluation.

    Raises:
        ValueError, FileNotFoundError: as `get_classification_dicts`.
    """
    # .data has the registered function; DatasetCatalog.get would call it and read the dataset
    return _cached_labels(dataset_name, DatasetCatalog.data.get(dataset_name))


# the registered function is in the cache key for the reason given at `_cached_store`
@lru_cache(maxsize=4)
def _cached_labels(dataset_name: str, registered: Callable | None) -> dict[int | str, int]:
    return {r["image_id"]: r["label"] for r in get_classification_dicts(dataset_name)}


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> RecordLoader:
    """Builds the infinite loader of training batches.

    Every image is used once per epoch. With `SEED` >= 0 the images, their order and their
    augmentation depend only on the seed and the iteration. They do not depend on the number of
    workers, nor on whether the training was resumed. Several processes split the batches that one
    process would get.

    Args:
        cfg: the config.
        start_iter: the first iteration.

    Returns:
        A loader of lists of dicts, one per image of this process, with `image` (uint8 [3, H, W] of
        INPUT.FIXED_SIZE, channels in INPUT.FORMAT), `label` (class index) and `image_id`. With
        INPUT.SECOND_VIEW, `image2` is the image in another augmentation.

    Raises:
        ValueError: a dataset is not registered, empty or not for classification, the datasets have
            different classes, or a key has an invalid value.
        FileNotFoundError: the files of a dataset are missing.
        OSError: an image cannot be read (during iteration, if images are not kept in memory).
    """
    augmentation = BatchAugmentation(cfg)
    names = _training_names(cfg)
    store = _store(cfg, names, keep_resized=cfg.INPUT.RESIZED_CROP_AREA == 0)
    _tell_absent_classes(common_classes(names), store.labels)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    batches = _TrainingBatches(cfg, store, augmentation, seed)
    return RecordLoader(_loader(cfg, batches, _Iterations(start_iter)))


def build_test_loader(
    cfg: CfgNode, dataset_name: str, indices: Sequence[int] | None = None
) -> RecordLoader:
    """Builds the loader of an evaluation dataset: every image once, in order, without labels.

    Each process gets a consecutive part of the dataset.

    Args:
        cfg: the config; `TEST.BATCH_SIZE` is the number of images per process and batch.
        dataset_name: name in detectron2's catalogs.
        indices: the images to load, in this order, in every process; None for all images.

    Returns:
        A loader of lists of dicts with `image` and `image_id` as in training. Images are not
        augmented.

    Raises:
        ValueError, FileNotFoundError, OSError: as `build_train_loader`.
    """
    if cfg.TEST.BATCH_SIZE < 1:
        raise ValueError(f"TEST.BATCH_SIZE must be at least 1, got {cfg.TEST.BATCH_SIZE}")
    store = _store(cfg, (dataset_name,), keep_resized=True)
    images = InferenceSampler(len(store)) if indices is None else indices
    order = BatchSampler(images, cfg.TEST.BATCH_SIZE, drop_last=False)
    return RecordLoader(_loader(cfg, _TestBatches(cfg, store), order))


class RecordLoader:
    """Yields the batches of a loader as lists of dicts, one per image.

    The batches are split in the main process, because workers pass one tensor faster than many
    small ones.

    Args:
        loader: yields dicts of values of length B, such as `image` [B, 3, H, W] and `image_id`.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            yield [dict(zip(batch, values)) for values in zip(*batch.values())]


def _training_names(cfg: CfgNode) -> tuple[str, ...]:
    """Returns DATASETS.TRAIN; raises ValueError if it is empty."""
    names = tuple(cfg.DATASETS.TRAIN)
    if not names:
        raise ConfigError("DATASETS.TRAIN is empty: name at least one dataset")
    return names


def _tell_absent_classes(classes: Sequence[str], labels: Sequence[int]) -> None:
    """Logs a warning if there are classes without training images, or fewer than two with some."""
    present = set(labels)
    absent = [name for label, name in enumerate(classes) if label not in present]
    if absent:
        more = f" and {len(absent) - _LISTED} more" if len(absent) > _LISTED else ""
        listed = f"{', '.join(absent[:_LISTED])}{more}"
        logger.warning("classes without training images, which cannot be learned: %s", listed)
    if len(present) < 2:
        logger.warning(
            "all training images are of the class %s: every prediction of it is right",
            classes[labels[0]],
        )


def _records(names: Sequence[str]) -> list[dict]:
    """Returns the dicts of all datasets; raises ValueError if their classes differ."""
    records = [record for name in names for record in get_classification_dicts(name)]
    common_classes(names)
    return records


def _store(cfg: CfgNode, names: tuple[str, ...], keep_resized: bool) -> ImageStore:
    """Returns the images of datasets; `keep_resized` as in `ImageStore`."""
    size = tuple(cfg.INPUT.FIXED_SIZE)
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(
            f"INPUT.FIXED_SIZE must be the (height, width) of the model input, got {size}"
        )
    limit = cfg.DATALOADER.IN_MEMORY_GIB * 2**30
    # .data has the registered function; DatasetCatalog.get would call it and read the dataset
    registered = tuple(DatasetCatalog.data.get(name) for name in names)
    value_range = tuple(cfg.INPUT.VALUE_RANGE)
    return _cached_store(names, registered, size, limit, keep_resized, value_range)


# Every evaluation builds a new loader; with the cache the images are read only once. The registered
# functions are part of the key, so that a dataset that is registered again is read again.
@lru_cache(maxsize=4)
def _cached_store(
    names: tuple[str, ...],
    registered: tuple[Callable | None, ...],
    size: tuple[int, int],
    limit: float,
    keep_resized: bool,
    value_range: tuple[float, ...],
) -> ImageStore:
    store = ImageStore(_records(names), size, limit, keep_resized, value_range)
    logger.info(
        "%s: %d images at %d x %d pixels, %s",
        ", ".join(names),
        len(store),
        *store.size,
        "in memory" if store.in_memory else "read for each batch",
    )
    return store


def _loader(cfg: CfgNode, batches: Dataset, order: Sampler) -> DataLoader:
    return DataLoader(
        SharedSamples(batches),
        batch_size=None,
        sampler=order,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_unchanged,
        # a separate generator: the loader starts during an iteration, and must not change the
        # state of the generator that draws the model's noise
        generator=torch.Generator().manual_seed(0),
    )


def _unchanged(batch: dict) -> dict:
    return batch


class _Iterations(Sampler):
    """Yields the numbers of the iterations from `start` on, without end."""

    def __init__(self, start: int):
        self._start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start)


class _TrainingBatches(Dataset):
    """Maps the number of an iteration to the part of its batch that this process gets."""

    def __init__(self, cfg: CfgNode, store: ImageStore, augmentation: BatchAugmentation, seed: int):
        self._store = store
        self._augmentation = augmentation
        self._resized_crop = build_resized_crop(cfg)
        self._to_input = _InputFormat(cfg)
        self._seed = seed
        self._batch_size = cfg.SOLVER.IMS_PER_BATCH
        self._views = 2 if cfg.INPUT.SECOND_VIEW else 1
        # computed here, because the loader's workers have no process group
        self._share = _share_of_batch(self._batch_size, comm.get_rank(), comm.get_world_size())

    def __getitem__(self, iteration: int) -> dict:
        rng = np.random.default_rng([self._seed, 1, iteration])
        # drawn for the whole batch, so that they do not depend on the number of processes
        size = (self._views, self._batch_size, NUM_NUMBERS)
        numbers = torch.from_numpy(rng.integers(2**62, size=size))[:, self._share]
        first = iteration * self._batch_size
        positions = range(first, first + self._batch_size)[self._share]
        indices = [self._index(position) for position in positions]
        views = [self._view(indices, x) for x in numbers]
        return {
            **dict(zip(("image", "image2"), views)),
            "label": [self._store.labels[i] for i in indices],
            "image_id": [self._store.ids[i] for i in indices],
        }

    def _view(self, indices: list[int], numbers: Tensor) -> Tensor:
        """Returns the images in the augmentation that the random numbers decide."""
        images = self._augmentation(self._load(indices, numbers[:, 4]), numbers)
        return self._to_input(images)

    def _index(self, position: int) -> int:
        """Returns the index of an image from its position in the sequence of all epochs."""
        epoch, position = divmod(position, len(self._store))
        return int(_epoch_order(self._seed, epoch, len(self._store))[position])

    def _load(self, indices: list[int], seeds: Tensor) -> Tensor:
        if self._resized_crop is None:
            return self._store.batch(indices)
        images = [self._store.original(i) for i in indices]
        return transform_each(self._resized_crop, images, seeds)


def _share_of_batch(batch_size: int, rank: int, world_size: int) -> slice:
    """Returns the part of a batch that a process gets."""
    if batch_size < 1 or batch_size % world_size:
        raise ConfigError(
            "SOLVER.IMS_PER_BATCH must be a positive multiple of the number of processes, "
            f"{world_size}, got {batch_size}"
        )
    size = batch_size // world_size
    return slice(rank * size, (rank + 1) * size)


@lru_cache(maxsize=2)  # a batch may contain images of two epochs
def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(size)


class _TestBatches(Dataset):
    """Maps the indices of images to a batch without labels."""

    def __init__(self, cfg: CfgNode, store: ImageStore):
        self._store = store
        self._to_input = _InputFormat(cfg)

    def __getitem__(self, indices: list[int]) -> dict:
        return {
            "image": self._to_input(self._store.batch(indices)),
            "image_id": [self._store.ids[i] for i in indices],
        }


class _InputFormat:
    """Converts images to INPUT.FIXED_SIZE and INPUT.FORMAT.

    Maps uint8 RGB [B, 3, h, w] to uint8 [B, 3, H, W].
    """

    def __init__(self, cfg: CfgNode):
        self._size = tuple(cfg.INPUT.FIXED_SIZE)
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"unknown INPUT.FORMAT {cfg.INPUT.FORMAT!r}: use RGB or BGR")
        self._bgr = cfg.INPUT.FORMAT == "BGR"

    def __call__(self, images: Tensor) -> Tensor:
        images = resize_and_crop(images, self._size)
        return (images.flip(1) if self._bgr else images).contiguous()
