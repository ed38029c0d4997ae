"""Checks the values of config keys of training that must fit the values of other keys."""

from __future__ import annotations

from flowdet.config.conditions import DETECTORS, META_ARCHITECTURE, flowdet_models
from flowdet.engine.model_relations import (
    Values,
    check_loss_weights,
    check_synchronized_norms,
    require,
)


def check_training_relations(values: Values) -> None:
    """Checks the relations that only matter for training.

    Args:
        values: the values of a config by full name, each of which is valid by itself.

    Raises:
        ValueError: a value does not fit that of another key.
    """
    _check_learning_rate(values)
    _check_batches(values)
    check_loss_weights(values)
    check_synchronized_norms(values)
    if flowdet_models(values[META_ARCHITECTURE]) & {*DETECTORS}:
        _check_image_sizes(values)
        _check_crop(values)


def _check_learning_rate(values: Values) -> None:
    if values["SOLVER.MAX_EPOCHS"] == 0:
        key, count = "SOLVER.MAX_ITER", values["SOLVER.MAX_ITER"]
        must = "at least 1 without SOLVER.MAX_EPOCHS"
        require(count >= 1, key, count, must, "SOLVER.MAX_ITER 40000")
    base, end = values["SOLVER.BASE_LR"], values["SOLVER.BASE_LR_END"]
    must = f"at most SOLVER.BASE_LR, {base}"
    require(end <= base, "SOLVER.BASE_LR_END", end, must, "SOLVER.BASE_LR_END 0")
    if values["SOLVER.OPTIMIZER"] == "SGD" and values["SOLVER.NESTEROV"]:
        momentum = values["SOLVER.MOMENTUM"]
        must = "above 0 with SOLVER.NESTEROV True"
        require(momentum > 0, "SOLVER.MOMENTUM", momentum, must, "SOLVER.MOMENTUM 0.9")


def _check_batches(values: Values) -> None:
    batch, processes = values["SOLVER.IMS_PER_BATCH"], values["SOLVER.REFERENCE_WORLD_SIZE"]
    require(
        not processes or batch % processes == 0,
        "SOLVER.REFERENCE_WORLD_SIZE",
        processes,
        f"a divisor of SOLVER.IMS_PER_BATCH, {batch}, or 0",
        "SOLVER.REFERENCE_WORLD_SIZE 0",
    )
    key, sampler = "DATALOADER.SAMPLER_TRAIN", values["DATALOADER.SAMPLER_TRAIN"]
    known = "DATALOADER.RANDOM_SUBSET_RATIO" in values
    must = "another one: this version of detectron2 has no DATALOADER.RANDOM_SUBSET_RATIO"
    fits = known or sampler != "RandomSubsetTrainingSampler"
    require(fits, key, sampler, must, f"{key} TrainingSampler")


def _check_image_sizes(values: Values) -> None:
    key, sizes = "INPUT.MIN_SIZE_TRAIN", values["INPUT.MIN_SIZE_TRAIN"]
    if values["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range":
        must = "(smallest, largest) with INPUT.MIN_SIZE_TRAIN_SAMPLING range"
        fits = len(sizes) == 2 and sizes[0] <= sizes[1]
        require(fits, key, sizes, must, f'{key} "[480, 800]"')


def _check_crop(values: Values) -> None:
    """The size of a crop is a fraction of the image, or a number of pixels."""
    if not values["INPUT.CROP.ENABLED"]:
        return
    key, size, kind = "INPUT.CROP.SIZE", values["INPUT.CROP.SIZE"], values["INPUT.CROP.TYPE"]
    if kind.startswith("relative"):
        must = f"2 values, each above 0 and at most 1, with INPUT.CROP.TYPE {kind}"
        require(max(size) <= 1, key, list(size), must, f'{key} "[0.9, 0.9]"')
        return
    must = f"2 numbers of pixels with INPUT.CROP.TYPE {kind}"
    write = f'{key} "[384, 512]"'
    require(all(isinstance(x, int) for x in size), key, list(size), must, write)
    if kind == "absolute_range":
        must = f"[smallest, largest] number of pixels with INPUT.CROP.TYPE {kind}"
        require(size[0] <= size[1], key, list(size), must, write)
