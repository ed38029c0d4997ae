"""Sets the keys of a config that depend on the machine or the dataset."""

from __future__ import annotations

import difflib
import itertools
import logging
import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import log_first_n

from flowdet.config.errors import ConfigError
from flowdet.config.rules import CLASS_NAME, is_class_name
from flowdet.data.classification.datasets import download
from flowdet.data.custom import dataset_of
from flowdet.engine.category_ids import check_category_ids, resolve_category_ids
from flowdet.engine.checkpoint_notes import check_resumed_classes, check_resumed_split, run_notes
from flowdet.engine.config_values import check_device, check_training_values
from flowdet.engine.task_builders import CLASSIFICATION, DETECTION, task_of

logger = logging.getLogger(__name__)


def resolve_model(cfg: CfgNode) -> CfgNode:
    """Sets the device and the classes of a config, in place, for use without a dataset.

    The classes are `MODEL.CLASS_NAMES` and `MODEL.CATEGORY_IDS`, which a run saves in its config.
    If there are no class names, both are those of the datasets.

    Raises:
        KeyError, ValueError: as `resolve_config`.
        FileNotFoundError: the classes come from a dataset whose files are missing.
    """
    _resolve_device(cfg)
    task, names = task_of(cfg), cfg.MODEL.CLASS_NAMES
    if names:
        count = task.keys(cfg).NUM_CLASSES
        if count != len(names):
            raise ConfigError(
                f"MODEL.{task.node}.NUM_CLASSES is {count}, but MODEL.CLASS_NAMES has {len(names)} "
                "names"
            )
        check_category_ids(cfg)
        return cfg
    try:
        _resolve_classes(cfg)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; or use the config.yaml that the training wrote: it has the class names"
        ) from error
    return cfg


def resolve_config(cfg: CfgNode, training: bool = True, resume: bool = False) -> CfgNode:
    """Sets the device, the classes and, for training, all numbers of iterations of a config.

    The config is changed in place. With `DATASETS.DOWNLOAD`, missing classification datasets are
    downloaded.

    Args:
        cfg: the config.
        training: whether the config is for a training.
        resume: whether the training continues the run in `OUTPUT_DIR`, whose category ids are
            kept.

    Raises:
        KeyError: unknown `MODEL.META_ARCHITECTURE`.
        ValueError: a dataset is unknown, is for another task, or has other classes than the config,
            another dataset or the resumed run; neither datasets nor a number of classes are given;
            or a value that training needs is not valid.
    """
    if training:
        check_training_values(cfg)
    _resolve_device(cfg)
    if cfg.DATASETS.DOWNLOAD and task_of(cfg) is CLASSIFICATION:
        download([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    if resume:
        _check_resumed_run(cfg)
    _resolve_classes(cfg)
    if training:
        _resolve_epochs(cfg)
    return cfg


def _check_resumed_run(cfg: CfgNode) -> None:
    """Raises ValueError if the run has other classes; otherwise takes over its category ids."""
    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if datasets:
        check_resumed_classes(cfg.OUTPUT_DIR, dataset_classes(datasets[0]))
        dataset = dataset_of(datasets[0])
        if dataset is not None and dataset.holds_out:
            check_resumed_split(cfg)
    if not cfg.MODEL.CATEGORY_IDS:
        cfg.MODEL.CATEGORY_IDS = run_notes(cfg.OUTPUT_DIR).category_ids


def _resolve_device(cfg: CfgNode) -> None:
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        log_first_n(logging.WARNING, "there is no GPU: MODEL.DEVICE is set to cpu", name=__name__)
        cfg.MODEL.DEVICE = "cpu"
    check_device(cfg)
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        log_first_n(logging.WARNING, "SOLVER.AMP needs a GPU: it is turned off", name=__name__)
        cfg.SOLVER.AMP.ENABLED = False


def _check_names(dataset: str, classes: Sequence[str]) -> None:
    """Raises ValueError for a class name that MODEL.CLASS_NAMES cannot have."""
    wrong = next((name for name in classes if not is_class_name(name)), None)
    if wrong is not None:
        raise ValueError(
            f"dataset {dataset!r} has the class name {ascii(wrong[:50])}, but a class name must be "
            f"{CLASS_NAME.text}"
        )


def _resolve_classes(cfg: CfgNode) -> None:
    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    task = task_of(cfg)
    node, key = task.keys(cfg), f"MODEL.{task.node}.NUM_CLASSES"
    if not datasets:
        if not node.NUM_CLASSES:
            raise ConfigError(f"DATASETS.TRAIN is empty, and {key} is not set")
        cfg.MODEL.CLASS_NAMES = [str(index) for index in range(node.NUM_CLASSES)]
        check_category_ids(cfg)
        return
    for name in datasets:
        classes = dataset_classes(name)
        _check_names(name, classes)
        _check_own_classes(cfg, name, classes)
        _check_evaluator_type(cfg, name)
        if node.NUM_CLASSES == 0:
            node.NUM_CLASSES = len(classes)
        if node.NUM_CLASSES != len(classes):
            raise ConfigError(
                f"{key} is {node.NUM_CLASSES}, but dataset {name!r} has {len(classes)} classes: "
                "set it to 0 to take it from the dataset"
            )
        if classes != dataset_classes(datasets[0]):
            raise ValueError(
                f"datasets {datasets[0]!r} and {name!r} have different classes, or the same in "
                f"another order: {_first_difference(dataset_classes(datasets[0]), classes)}"
            )
    cfg.MODEL.CLASS_NAMES = classes = dataset_classes(datasets[0])
    if task is DETECTION:
        resolve_category_ids(cfg, datasets, classes)


def _check_own_classes(cfg: CfgNode, dataset: str, classes: list[str]) -> None:
    """Raises ConfigError if a dataset has other classes than `MODEL.CLASS_NAMES`."""
    own = list(cfg.MODEL.CLASS_NAMES)
    if own and own != classes:
        raise ConfigError(
            f"MODEL.CLASS_NAMES ({len(own)} classes) and dataset {dataset!r} ({len(classes)}) have "
            f"different classes: {_first_difference(own, classes)}. An evaluation needs a dataset "
            "with the classes of the model in the same order. To train on other classes than a "
            "run, use the config with which the run was started, not its config.yaml"
        )


def _check_evaluator_type(cfg: CfgNode, name: str) -> None:
    actual, expected = MetadataCatalog.get(name).get("evaluator_type"), task_of(cfg).evaluator_types
    # a dataset without evaluator_type can be used for training
    if actual is not None and actual not in expected:
        raise ConfigError(
            f"dataset {name!r} has evaluator_type {actual!r} in its metadata, but a "
            f"{cfg.MODEL.META_ARCHITECTURE} needs {' or '.join(map(repr, expected))}"
        )


def _first_difference(one: list[str], other: list[str]) -> str:
    pairs = enumerate(itertools.zip_longest(one, other))
    index, a, b = next((i, a, b) for i, (a, b) in pairs if a != b)
    first, second = ("missing" if x is None else repr(x) for x in (a, b))
    return f"class {index} is {first} in the first and {second} in the second"


def dataset_classes(name: str) -> list[str]:
    """Returns the class names of a dataset.

    Raises:
        ConfigError: the dataset is not registered.
        ValueError: it has no class names.
    """
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        hint = f"similar names: {', '.join(near)}" if near else "no name is similar"
        raise ConfigError(f"unknown dataset {name!r} (DATASETS.TRAIN, TEST); {hint}")
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        # some of detectron2's datasets set their metadata when they are read
        DatasetCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        raise ValueError(f"dataset {name!r} has no thing_classes in its metadata")
    return list(metadata.thing_classes)


def _resolve_epochs(cfg: CfgNode) -> None:
    task = task_of(cfg)
    images = task.count_training_images(cfg)
    per_epoch = max(images / cfg.SOLVER.IMS_PER_BATCH, 1)

    def iterations(epochs: int) -> int:
        return max(round(epochs * per_epoch), 1)

    solver, node = cfg.SOLVER, task.keys(cfg)
    if node.SCHEDULE != "alternate":
        # the config.yaml of a run has the number of that run's dataset and batch size
        node.ITERS_PER_EPOCH = 0
    if node.ITERS_PER_EPOCH not in (0, iterations(1)):
        logger.warning(
            "MODEL.%s.ITERS_PER_EPOCH is %d, but an epoch has %d iterations: set it to 0 to take "
            "the number from the dataset",
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
    # rounded up: otherwise the last period could end just before the end of the training, which
    # would then save or evaluate a second time
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
    """Shortens a warm-up that takes more than half of the training.

    It would end after the schedule has already lowered the learning rate.
    """
    if solver.WARMUP_ITERS > solver.MAX_ITER // 2:
        shorter = solver.MAX_ITER // 10
        logger.warning(
            "a warm-up of %d iterations is too long for a training of %d iterations: it is "
            "shortened to %d (SOLVER.WARMUP_EPOCHS, WARMUP_ITERS)",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
            shorter,
        )
        solver.WARMUP_ITERS = shorter
