"""Data loaders for classification, which make whole batches at a time."""

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

from flowdet.data.classification.augmentation import (
    NUM_NUMBERS,
    BatchAugmentation,
    build_resized_crop,
    transform_each,
)
from flowdet.data.classification.datasets import get_classification_dicts
from flowdet.data.classification.images import ImageStore, fit
from flowdet.data.detection.loaders import common_classes

__all__ = [
    "BatchAugmentation",
    "RecordLoader",
    "build_test_loader",
    "build_train_loader",
    "count_training_images",
    "labels_of",
]

logger = logging.getLogger(__name__)


def count_training_images(cfg: CfgNode) -> int:
    """The number of images in all of DATASETS.TRAIN.

    Raises:
        ValueError, FileNotFoundError: as `build_train_loader`.
    """
    return len(_records(_training_names(cfg)))


def labels_of(dataset_name: str) -> dict[int | str, int]:
    """The label of every image id of a dataset, for its evaluation.

    Raises:
        ValueError, FileNotFoundError: as `get_classification_dicts`.
    """
    # .data, as DatasetCatalog.get would read the dataset
    return _cached_labels(dataset_name, DatasetCatalog.data.get(dataset_name))


# as for the images below
@lru_cache(maxsize=4)
def _cached_labels(dataset_name: str, registered: Callable | None) -> dict[int | str, int]:
    return {r["image_id"]: r["label"] for r in get_classification_dicts(dataset_name)}


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> RecordLoader:
    """The endless loader of training batches, from iteration `start_iter` on.

    Gives lists of dicts with `image` (uint8 [3, H, W] of INPUT.FIXED_SIZE, channels in
    INPUT.FORMAT), `label` and `image_id`. Every image comes once per epoch. With SEED >= 0
    images, order and augmentation depend on the seed and the iteration only: not on the number
    of workers, nor on whether the training was resumed; and several processes share the
    batches that one alone would get.

    Raises:
        ValueError: a dataset is unknown, empty or not for classification, the datasets have
            different classes, or a key is out of range.
        FileNotFoundError: the files of a dataset are missing.
        OSError: an image cannot be read (while iterating, if images are not kept in memory).
    """
    augmentation = BatchAugmentation(cfg)
    store = _store(cfg, _training_names(cfg), keep_resized=cfg.INPUT.RESIZED_CROP_AREA == 0)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    batches = _TrainingBatches(cfg, store, augmentation, seed)
    return RecordLoader(_loader(cfg, batches, _Iterations(start_iter)))


def build_test_loader(cfg: CfgNode, dataset_name: str) -> RecordLoader:
    """The loader of one evaluation dataset, TEST.BATCH_SIZE images per process and batch.

    Gives dicts as in training, but without label and augmentation: every image once, in the
    order of the dataset, of which each process gets a consecutive part.

    Raises:
        ValueError, FileNotFoundError, OSError: as `build_train_loader`.
    """
    if cfg.TEST.BATCH_SIZE < 1:
        raise ValueError(f"TEST.BATCH_SIZE must be at least 1, got {cfg.TEST.BATCH_SIZE}")
    store = _store(cfg, (dataset_name,), keep_resized=True)
    order = BatchSampler(InferenceSampler(len(store)), cfg.TEST.BATCH_SIZE, drop_last=False)
    return RecordLoader(_loader(cfg, _TestBatches(cfg, store), order))


class RecordLoader:
    """Splits batches into lists of dicts, one per image.

    It does so behind the loader's workers, as one tensor passes between processes faster than
    its parts.

    Args:
        loader: gives dicts of equally long values, such as `image` [B, 3, H, W] and
            `image_id` [B].
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            yield [dict(zip(batch, values)) for values in zip(*batch.values())]


def _training_names(cfg: CfgNode) -> tuple[str, ...]:
    """DATASETS.TRAIN."""
    names = tuple(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError("DATASETS.TRAIN is empty; name at least one dataset")
    return names


def _records(names: Sequence[str]) -> list[dict]:
    """The dicts of datasets that have the same classes."""
    records = [record for name in names for record in get_classification_dicts(name)]
    common_classes(names)
    return records


def _store(cfg: CfgNode, names: tuple[str, ...], keep_resized: bool) -> ImageStore:
    size = tuple(cfg.INPUT.FIXED_SIZE)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"INPUT.FIXED_SIZE must be (height, width) of the images to classify, got {size}"
        )
    limit = cfg.DATALOADER.IN_MEMORY_GIB * 2**30
    # .data, as DatasetCatalog.get would read the dataset
    registered = tuple(DatasetCatalog.data.get(name) for name in names)
    return _cached_store(names, registered, size, limit, keep_resized)


# An evaluation builds its loader anew each time. What the catalog holds is part of the key, so
# that a dataset which was registered anew is read anew.
@lru_cache(maxsize=4)
def _cached_store(
    names: tuple[str, ...],
    registered: tuple[Callable | None, ...],
    size: tuple[int, int],
    limit: float,
    keep_resized: bool,
) -> ImageStore:
    store = ImageStore(_records(names), size, limit, keep_resized)
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
        batches,
        batch_size=None,
        sampler=order,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_unchanged,
        # of its own: the loader's start, which falls into an iteration, must not draw from the
        # generator that the model draws noise from
        generator=torch.Generator().manual_seed(0),
    )


def _unchanged(batch: dict) -> dict:
    return batch


class _Iterations(Sampler):
    """The numbers of the iterations from `start` on, without end."""

    def __init__(self, start: int):
        self._start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start)


class _TrainingBatches(Dataset):
    """This process's part of the batch of an iteration, by the number of the iteration."""

    def __init__(self, cfg: CfgNode, store: ImageStore, augmentation: BatchAugmentation, seed: int):
        self._store = store
        self._augmentation = augmentation
        self._resized_crop = build_resized_crop(cfg)
        self._finish = _Finish(cfg)
        self._seed = seed
        self._batch_size = cfg.SOLVER.IMS_PER_BATCH
        # asked here, as loader workers do not know of the process group
        self._share = _share_of_batch(self._batch_size, comm.get_rank(), comm.get_world_size())

    def __getitem__(self, iteration: int) -> dict:
        rng = np.random.default_rng([self._seed, 1, iteration])
        # drawn for the batch of all processes, as if there was one
        numbers = torch.from_numpy(rng.integers(2**62, size=(self._batch_size, NUM_NUMBERS)))
        numbers = numbers[self._share]
        first = iteration * self._batch_size
        places = range(first, first + self._batch_size)[self._share]
        indices = [self._index(place) for place in places]
        images = self._augmentation(self._load(indices, numbers[:, 4]), numbers)
        return {
            "image": self._finish(images),
            "label": [self._store.labels[i] for i in indices],
            "image_id": [self._store.ids[i] for i in indices],
        }

    def _index(self, place: int) -> int:
        """The index of an image by its place in the sequence of all epochs."""
        epoch, place = divmod(place, len(self._store))
        return int(_epoch_order(self._seed, epoch, len(self._store))[place])

    def _load(self, indices: list[int], seeds: Tensor) -> Tensor:
        if self._resized_crop is None:
            return self._store.batch(indices)
        images = [self._store.original(i) for i in indices]
        return transform_each(self._resized_crop, images, seeds)


def _share_of_batch(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of a batch that a process gets."""
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            "SOLVER.IMS_PER_BATCH must be a positive multiple of the number of processes, "
            f"{world_size}, got {batch_size}"
        )
    size = batch_size // world_size
    return slice(rank * size, (rank + 1) * size)


@lru_cache(maxsize=2)  # a batch may lie in two epochs
def _epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(size)


class _TestBatches(Dataset):
    """Batches of images without their labels, by the images' indices."""

    def __init__(self, cfg: CfgNode, store: ImageStore):
        self._store = store
        self._finish = _Finish(cfg)

    def __getitem__(self, indices: list[int]) -> dict:
        return {
            "image": self._finish(self._store.batch(indices)),
            "image_id": [self._store.ids[i] for i in indices],
        }


class _Finish:
    """Brings RGB images [B, 3, h, w] to INPUT.FIXED_SIZE and INPUT.FORMAT."""

    def __init__(self, cfg: CfgNode):
        self._size = tuple(cfg.INPUT.FIXED_SIZE)
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"unknown INPUT.FORMAT {cfg.INPUT.FORMAT!r}: use RGB or BGR")
        self._bgr = cfg.INPUT.FORMAT == "BGR"

    def __call__(self, images: Tensor) -> Tensor:
        images = fit(images, self._size)
        return (images.flip(1) if self._bgr else images).contiguous()
