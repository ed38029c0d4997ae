"""Fills in what a config leaves to the machine and the dataset: device, classes, iterations."""

from __future__ import annotations

import difflib
import itertools
import logging
import math

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import log_first_n

from flowdet.data.classification.datasets import download
from flowdet.engine.task_builders import CLASSIFICATION, task_of

logger = logging.getLogger(__name__)


def resolve_model(cfg: CfgNode) -> CfgNode:
    """Fills in what a model needs that gets no images of a dataset: device and classes. In place.

    Names and number of the classes are those of a run, where the config is one that a run has
    written; else those of its datasets.

    Raises:
        KeyError, ValueError, FileNotFoundError: as `resolve_config`.
    """
    _resolve_device(cfg)
    task, names = task_of(cfg), cfg.MODEL.CLASS_NAMES
    if names:
        count = task.keys(cfg).NUM_CLASSES
        if count != len(names):
            raise ValueError(
                f"MODEL.{task.node}.NUM_CLASSES is {count}, but MODEL.CLASS_NAMES are {len(names)}"
            )
        return cfg
    try:
        _resolve_classes(cfg)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; or give the config.yaml that the training wrote: it holds the class names"
        ) from error
    return cfg


def resolve_config(cfg: CfgNode, training: bool = True) -> CfgNode:
    """Fills in the device, the classes and, for training, what is counted in epochs. In place.

    With `DATASETS.DOWNLOAD` it fetches missing classification datasets.

    Raises:
        KeyError: there is no such `MODEL.META_ARCHITECTURE`.
        ValueError: the class count of the config is not the dataset's, or no dataset is named.
    """
    _resolve_device(cfg)
    if cfg.DATASETS.DOWNLOAD and task_of(cfg) is CLASSIFICATION:
        download([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    _resolve_classes(cfg)
    if training:
        _resolve_epochs(cfg)
    return cfg


def _resolve_device(cfg: CfgNode) -> None:
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        log_first_n(logging.WARNING, "no GPU here: MODEL.DEVICE is set to cpu", name=__name__)
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        log_first_n(logging.WARNING, "SOLVER.AMP needs a GPU: switched off", name=__name__)
        cfg.SOLVER.AMP.ENABLED = False


def _resolve_classes(cfg: CfgNode) -> None:
    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    task = task_of(cfg)
    node, key = task.keys(cfg), f"MODEL.{task.node}.NUM_CLASSES"
    if not datasets:
        if not node.NUM_CLASSES:
            raise ValueError(f"DATASETS.TRAIN is empty, and {key} is not set")
        cfg.MODEL.CLASS_NAMES = [str(index) for index in range(node.NUM_CLASSES)]
        return
    for name in datasets:
        classes = dataset_classes(name)
        _check_kind(cfg, name)
        if node.NUM_CLASSES == 0:
            node.NUM_CLASSES = len(classes)
        if node.NUM_CLASSES != len(classes):
            raise ValueError(
                f"{key} is {node.NUM_CLASSES}, but dataset {name!r} has {len(classes)} classes: "
                "set it to 0 to take it from the dataset"
            )
        if classes != dataset_classes(datasets[0]):
            raise ValueError(
                f"datasets {datasets[0]!r} and {name!r} have different classes, or another order "
                f"of them: {_first_difference(dataset_classes(datasets[0]), classes)}"
            )
    classes = dataset_classes(datasets[0])
    if cfg.MODEL.CLASS_NAMES and cfg.MODEL.CLASS_NAMES != classes:
        raise ValueError(
            f"MODEL.CLASS_NAMES are other classes than those of {datasets[0]!r}: "
            f"{_first_difference(cfg.MODEL.CLASS_NAMES, classes)}. To train on other classes than "
            "a run did, take the config that it was started with, not its config.yaml"
        )
    cfg.MODEL.CLASS_NAMES = classes


def _check_kind(cfg: CfgNode, name: str) -> None:
    kind, kinds = MetadataCatalog.get(name).get("evaluator_type"), task_of(cfg).evaluator_types
    # one without a kind can be trained on
    if kind is not None and kind not in kinds:
        raise ValueError(
            f"dataset {name!r} has evaluator_type {kind!r}, and a {cfg.MODEL.META_ARCHITECTURE} "
            f"needs {' or '.join(map(repr, kinds))} (in the dataset's metadata)"
        )


def _first_difference(one: list[str], other: list[str]) -> str:
    pairs = enumerate(itertools.zip_longest(one, other))
    index, a, b = next((i, a, b) for i, (a, b) in pairs if a != b)
    return f"class {index} is {a!r} in the one and {b!r} in the other"


def dataset_classes(name: str) -> list[str]:
    """Class names of a registered dataset.

    Raises:
        ValueError: it is not registered, or has no class names.
    """
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        raise ValueError(f"unknown dataset {name!r} (DATASETS.TRAIN / TEST); near are {near}")
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        # some of detectron2's datasets fill in their metadata when they are read
        DatasetCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        raise ValueError(f"dataset {name!r} has no thing_classes in its metadata")
    return list(metadata.thing_classes)


def _resolve_epochs(cfg: CfgNode) -> None:
    task = task_of(cfg)
    images = task.count_training_images(cfg)
    if cfg.SOLVER.IMS_PER_BATCH < 1:
        raise ValueError(f"SOLVER.IMS_PER_BATCH must be at least 1, got {cfg.SOLVER.IMS_PER_BATCH}")
    per_epoch = max(images / cfg.SOLVER.IMS_PER_BATCH, 1)

    def iterations(epochs: int) -> int:
        return max(round(epochs * per_epoch), 1)

    solver, node = cfg.SOLVER, task.keys(cfg)
    if node.SCHEDULE == "alternate" and node.ITERS_PER_EPOCH not in (0, iterations(1)):
        logger.warning(
            "MODEL.%s.ITERS_PER_EPOCH is %d, but %d iterations are a pass over the data: set it to 0 "
            "to take that",
            task.node,
            node.ITERS_PER_EPOCH,
            iterations(1),
        )
    node.ITERS_PER_EPOCH = node.ITERS_PER_EPOCH or iterations(1)
    if solver.MAX_EPOCHS > 0:
        solver.MAX_ITER = iterations(solver.MAX_EPOCHS)
        solver.STEPS = tuple(s for s in solver.STEPS if s < solver.MAX_ITER)
    if solver.STEP_EPOCHS:
        solver.STEPS = tuple(iterations(epoch) for epoch in solver.STEP_EPOCHS)
    if solver.WARMUP_EPOCHS > 0:
        solver.WARMUP_ITERS = iterations(solver.WARMUP_EPOCHS)
    # rounded up, or the last period would end just before the training and both do the same
    if solver.CHECKPOINT_EPOCHS > 0:
        solver.CHECKPOINT_PERIOD = math.ceil(solver.CHECKPOINT_EPOCHS * per_epoch)
    if cfg.TEST.EVAL_EPOCHS > 0:
        cfg.TEST.EVAL_PERIOD = math.ceil(cfg.TEST.EVAL_EPOCHS * per_epoch)
    _cap_warmup(solver)
    logger.info(
        "%d training images, %.1f iterations per epoch, %d iterations in all",
        images,
        per_epoch,
        solver.MAX_ITER,
    )


def _cap_warmup(solver: CfgNode) -> None:
    """A warm-up that fills a training would end where the learning rate is 0 again."""
    if solver.WARMUP_ITERS > solver.MAX_ITER // 2:
        shorter = solver.MAX_ITER // 10
        logger.warning(
            "the warm-up of %d iterations is too long for a training of %d: shortened to %d "
            "(SOLVER.WARMUP_EPOCHS, WARMUP_ITERS)",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
            shorter,
        )
        solver.WARMUP_ITERS = shorter
