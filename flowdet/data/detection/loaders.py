"""Data loaders for training and evaluation."""

import difflib
import itertools
from collections.abc import Iterator

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

from flowdet.data.detection.mapper import FlowDatasetMapper
from flowdet.data.detection.voc import load_voc_dicts

__all__ = [
    "build_test_loader",
    "build_train_loader",
    "check_registered",
    "common_classes",
    "get_detection_dicts",
]


def get_detection_dicts(dataset_name: str, keep_difficult: bool) -> list[dict]:
    """The dataset dicts (detectron2's format) of a registered dataset.

    keep_difficult: whether objects marked difficult stay, in datasets in VOC layout.
    Raises ValueError for an unknown or empty dataset, and what `load_voc_dicts` raises.
    """
    check_registered(dataset_name)
    meta = MetadataCatalog.get(dataset_name)
    if meta.get("evaluator_type") == "pascal_voc" and meta.get("dirname"):
        return load_voc_dicts(meta.dirname, meta.split, meta.thing_classes, keep_difficult)
    records = DatasetCatalog.get(dataset_name)
    if not len(records):
        raise ValueError(f"Dataset {dataset_name!r} has no image.")
    if keep_difficult or meta.get("evaluator_type") != "pascal_voc":
        return records
    return [
        {**r, "annotations": [a for a in r["annotations"] if not a["difficult"]]} for r in records
    ]


def check_registered(dataset_name: str) -> None:
    """Raise ValueError that lists near names for a dataset that is not registered."""
    known = DatasetCatalog.list()
    if dataset_name not in known:
        near = difflib.get_close_matches(dataset_name, known, n=5, cutoff=0.5)
        hint = f"near names: {', '.join(near)}" if near else "no registered name is near"
        raise ValueError(f"Dataset {dataset_name!r} is not registered; {hint}.")


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> DataLoader | IterableDataset:
    """The endless loader of training batches (lists of mapped dicts), from `start_iter` on.

    With `cfg.SEED` >= 0 the images, their order and their augmentation depend on the seed and
    the iteration only: not on the number of workers, nor on whether the training was resumed
    (with DATALOADER.ASPECT_RATIO_GROUPING a resumed training groups its batches anew).
    Raises ValueError for an unknown dataset or sampler, datasets of different classes and
    datasets without any object.
    """
    records = _training_dicts(cfg)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    mapper = FlowDatasetMapper(cfg, is_train=True)
    samples = MapDataset(DatasetFromList(records, copy=False), mapper)
    per_process = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    return build_detection_train_loader(
        _SeededSamples(samples, seed),
        mapper=None,
        sampler=_PositionSampler(
            _training_sampler(cfg, records, seed), len(records), start_iter * per_process
        ),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        # of its own: the loader's start, which falls into an iteration, must not draw from the
        # generator that the model draws noise from
        generator=torch.Generator().manual_seed(seed),
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """The loader of one evaluation dataset, `cfg.TEST.BATCH_SIZE` images per process and batch.

    Every image once, in the order of the dataset; annotations never enter it.
    Raises ValueError for an unknown or empty dataset and a batch size below 1.
    """
    if cfg.TEST.BATCH_SIZE < 1:
        raise ValueError(f"TEST.BATCH_SIZE must be at least 1, got {cfg.TEST.BATCH_SIZE}")
    records = get_detection_dicts(dataset_name, keep_difficult=True)
    blind = [{k: v for k, v in record.items() if k != "annotations"} for record in records]
    return build_detection_test_loader(
        blind,
        mapper=FlowDatasetMapper(cfg, is_train=False),
        batch_size=cfg.TEST.BATCH_SIZE,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def common_classes(names: tuple[str, ...]) -> list[str]:
    """The class names that the datasets share; raises ValueError when they differ."""
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    first = classes[names[0]]
    for name, other in classes.items():
        if other is None:
            raise ValueError(f"Dataset {name!r} has no thing_classes in its metadata.")
        if list(other) != list(first):
            raise ValueError(
                f"DATASETS.TRAIN: {names[0]!r} and {name!r} have different classes: "
                f"{list(first)} and {list(other)}."
            )
    return list(first)


def _training_dicts(cfg: CfgNode) -> list[dict]:
    """The dicts of all of DATASETS.TRAIN, with a table of their classes in the log."""
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty; name at least one dataset.")
    keep_difficult = cfg.DATASETS.TRAIN_ON_DIFFICULT
    records = [r for name in names for r in get_detection_dicts(name, keep_difficult)]
    classes = common_classes(names)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    if not any(record.get("annotations") for record in records):
        raise ValueError(f"DATASETS.TRAIN ({', '.join(names)}) holds no annotated object.")
    print_instances_class_histogram(records, classes)
    return records


def _training_sampler(cfg: CfgNode, records: list[dict], seed: int) -> Sampler:
    """detectron2's sampler DATALOADER.SAMPLER_TRAIN, seeded."""
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
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}; give TrainingSampler, "
        "RandomSubsetTrainingSampler or RepeatFactorTrainingSampler."
    )


class _PositionSampler(Sampler):
    """Numbers the indices of an endless sampler and skips the first `skip` of this process.

    Yields `position * size + index`, so that a dataset of `size` samples learns both. position
    counts the samples of the whole training, over all processes.
    """

    def __init__(self, sampler: Sampler, size: int, skip: int):
        self._sampler = sampler
        self._size = size
        self._skip = skip
        # Asked here, as loader workers, which iterate this, do not know of the process group.
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        for number, index in itertools.islice(enumerate(self._sampler), self._skip, None):
            yield (number * self._world_size + self._rank) * self._size + index


class _SeededSamples(Dataset):
    """Mapped samples whose random augmentation depends on the seed and the position only.

    Indexed by the numbers of `_PositionSampler`. detectron2's augmentations draw from numpy's
    global generator, so that is seeded for each sample and put back afterwards.
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
