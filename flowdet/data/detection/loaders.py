"""Data loaders for training and evaluation."""

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from flowdet.config.errors import ConfigError
from flowdet.data.detection.mapper import FlowDatasetMapper
from flowdet.data.detection.voc import load_voc_dicts
from flowdet.data.workers import SharedSamples

__all__ = [
    "build_test_loader",
    "build_train_loader",
    "check_image_ids",
    "check_registered",
    "common_classes",
    "get_detection_dicts",
]


def get_detection_dicts(dataset_name: str, keep_difficult: bool) -> list[dict]:
    """Returns the dataset dicts of a registered dataset, in detectron2's format.

    Args:
        dataset_name: name in detectron2's catalogs.
        keep_difficult: whether objects marked difficult are kept; only for datasets with
            evaluator_type "pascal_voc".

    Raises:
        FileNotFoundError: a file of the dataset does not exist.
        ValueError: the dataset is not registered, is empty, has a malformed file, or has a class
            index outside of its classes.
    """
    check_registered(dataset_name)
    meta = MetadataCatalog.get(dataset_name)
    if meta.get("evaluator_type") == "pascal_voc" and meta.get("dirname"):
        return load_voc_dicts(meta.dirname, meta.split, meta.thing_classes, keep_difficult)
    records = DatasetCatalog.get(dataset_name)
    if not len(records):
        raise ValueError(f"dataset {dataset_name!r} has no image")
    _check_class_indices(dataset_name, records, meta.get("thing_classes"))
    if keep_difficult or meta.get("evaluator_type") != "pascal_voc":
        return records
    return [
        {**r, "annotations": [a for a in r["annotations"] if not a["difficult"]]} for r in records
    ]


def check_image_ids(dataset_name: str, records: list[dict]) -> None:
    """Checks that no two images of a dataset have the same id, by which an evaluation tells them
    apart. In a training, an image may be there several times.

    Raises:
        ValueError: two images have the same id.
    """
    counts = Counter(record["image_id"] for record in records)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"dataset {dataset_name!r} has {counts[twice[0]]} images with the image id "
            f"{twice[0]!r}, and cannot be evaluated: leave out those that are there twice, or give "
            "them other ids"
        )


def _check_class_indices(
    dataset_name: str, records: list[dict], classes: Sequence[str] | None
) -> None:
    count = math.inf if classes is None else len(classes)
    for record in records:
        for annotation in record.get("annotations", ()):
            if not 0 <= annotation["category_id"] < count:
                raise ValueError(
                    f"dataset {dataset_name!r}: an object in image {record['image_id']} has the "
                    f"class index {annotation['category_id']}, but there are {count} classes "
                    "(thing_classes in the metadata)"
                )


def check_registered(dataset_name: str) -> None:
    """Checks that a dataset is registered.

    Raises:
        ConfigError: the dataset is not registered; the message lists similar names.
    """
    registered = DatasetCatalog.list()
    if dataset_name not in registered:
        similar = difflib.get_close_matches(dataset_name, registered, n=5, cutoff=0.5)
        hint = f"similar names: {', '.join(similar)}" if similar else "no name is similar"
        raise ConfigError(f"dataset {dataset_name!r} is not registered; {hint}")


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> DataLoader | IterableDataset:
    """Builds the infinite loader of training batches.

    With `SEED` >= 0 the images, their order and their augmentation depend only on the seed and the
    iteration. They do not depend on the number of workers, nor on whether the training was resumed.
    With `DATALOADER.ASPECT_RATIO_GROUPING` a resumed training may group images into other batches.

    Args:
        cfg: the config.
        start_iter: the first iteration; the samples of earlier iterations are skipped.

    Returns:
        A loader of lists of dicts, see `FlowDatasetMapper`, one per image of this process.

    Raises:
        FileNotFoundError: a file of a dataset does not exist.
        ValueError: a dataset is not registered, the datasets have different classes or no object,
            or a key has an invalid value.
    """
    records = _training_dicts(cfg)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    mapper = FlowDatasetMapper(cfg, is_train=True)
    samples = MapDataset(DatasetFromList(records, copy=False), mapper)
    per_process, rest = divmod(cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size())
    if per_process < 1 or rest:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, but must be a multiple of the "
            f"number of processes, {comm.get_world_size()}"
        )
    return build_detection_train_loader(
        SharedSamples(_SeededSamples(samples, seed)),
        mapper=None,
        sampler=_PositionSampler(
            _training_sampler(cfg, records, seed), len(records), start_iter * per_process
        ),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        # a separate generator: the loader starts during an iteration, and must not change the
        # state of the generator that draws the model's noise
        generator=torch.Generator().manual_seed(seed),
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Builds the loader of an evaluation dataset: every image once, in order, unannotated.

    Args:
        cfg: the config; `TEST.BATCH_SIZE` is the number of images per process and batch.
        dataset_name: name in detectron2's catalogs.

    Returns:
        A loader of lists of dicts, see `FlowDatasetMapper`.

    Raises:
        FileNotFoundError: a file of the dataset does not exist.
        ValueError: the dataset is not registered or empty, or the batch size is below 1.
    """
    if cfg.TEST.BATCH_SIZE < 1:
        raise ValueError(f"TEST.BATCH_SIZE must be at least 1, got {cfg.TEST.BATCH_SIZE}")
    records = get_detection_dicts(dataset_name, keep_difficult=True)
    images = [{k: v for k, v in record.items() if k != "annotations"} for record in records]
    mapped = MapDataset(DatasetFromList(images, copy=False), FlowDatasetMapper(cfg, is_train=False))
    return build_detection_test_loader(
        SharedSamples(mapped),
        mapper=None,
        batch_size=cfg.TEST.BATCH_SIZE,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def common_classes(names: tuple[str, ...]) -> list[str]:
    """Returns the class names that registered datasets have in common.

    Raises:
        ValueError: the classes or their order differ, or a dataset has no class names.
    """
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    first = classes[names[0]]
    for name, other in classes.items():
        if other is None:
            raise ValueError(f"dataset {name!r} has no thing_classes in its metadata")
        if list(other) != list(first):
            raise ValueError(
                f"DATASETS.TRAIN: {names[0]!r} and {name!r} have different classes: "
                f"{list(first)} and {list(other)}"
            )
    return list(first)


def _training_dicts(cfg: CfgNode) -> list[dict]:
    """Returns the dicts of all datasets in DATASETS.TRAIN; logs the objects per class."""
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ConfigError("DATASETS.TRAIN is empty: name at least one dataset")
    keep_difficult = cfg.DATASETS.TRAIN_ON_DIFFICULT
    records = [r for name in names for r in get_detection_dicts(name, keep_difficult)]
    classes = common_classes(names)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    if not any(record.get("annotations") for record in records):
        raise ValueError(f"DATASETS.TRAIN ({', '.join(names)}) has no annotated object")
    print_instances_class_histogram(records, classes)
    return records


def _training_sampler(cfg: CfgNode, records: list[dict], seed: int) -> Sampler:
    """Builds the detectron2 sampler that DATALOADER.SAMPLER_TRAIN names, with a seed."""
    name, size = cfg.DATALOADER.SAMPLER_TRAIN, len(records)
    if name == "TrainingSampler":
        return TrainingSampler(size, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(size, ratio, seed_shuffle=seed, seed_subset=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise ConfigError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}; give TrainingSampler, "
        "RandomSubsetTrainingSampler or RepeatFactorTrainingSampler"
    )


class _PositionSampler(Sampler):
    """Adds the position in the training to the indices of an infinite sampler.

    Yields `position * size + index`, from which a dataset of `size` samples computes position and
    index. The position counts the samples of the whole training, over all processes.

    Args:
        sampler: yields the indices of this process.
        size: number of samples in the dataset.
        skip: number of indices of this process to skip.
    """

    def __init__(self, sampler: Sampler, size: int, skip: int):
        self._sampler = sampler
        self._size = size
        self._skip = skip
        # read here, because the loader's workers iterate over this object and have no process group
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        for number, index in itertools.islice(enumerate(self._sampler), self._skip, None):
            yield (number * self._world_size + self._rank) * self._size + index


class _SeededSamples(Dataset):
    """Mapped samples whose random augmentation depends only on the seed and the position.

    detectron2's augmentations use numpy's global generator. It is seeded before each sample and
    restored afterwards. The index of a sample is a value of `_PositionSampler`.

    Args:
        samples: the mapped dataset, indexed as usual.
        seed: seed of the augmentation.
    """

    def __init__(self, samples: Dataset, seed: int):
        self._samples = samples
        self._seed = seed

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: int) -> dict:
        position, index = divmod(key, len(self._samples))
        state = np.random.get_state()
        np.random.seed([self._seed % 2**32, position % 2**32])
        try:
            return self._samples[index]
        finally:
            np.random.set_state(state)
