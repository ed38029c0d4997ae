"""Measures what detectors of different methods cost: parameters, activations, inference time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from itertools import cycle, islice

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from flowdet.engine import Trainer, load_trained
from flowdet.engine.config import with_keys
from flowdet.experiments.comparison import Run
from flowdet.experiments.comparison_table import trained_parameters
from flowdet.experiments.memory import measure_step
from flowdet.experiments.recorded_runs import measured_here, method_columns
from flowdet.experiments.timing import interleaved_seconds

ROUNDS = 30
WARM_UP_ROUNDS = 3
# test images that are timed in turn
IMAGES = 16
# without a cache: it would compute the features of an image once for all rounds
_NO_CACHE = {"MODEL.FLOW_DET.FEATURE_CACHE_GIB": 0.0, "MODEL.FLOW_DET.FEATURE_CACHE_DIR": ""}


def cost_rows(runs: Mapping[str, Run], recorded: Mapping[str, list[dict]]) -> dict[str, list[dict]]:
    """Measures trained parameters, activations of a training step, and inference time.

    The inference time is measured on single test images with the weights of the runs; the methods
    run in turn, in one process. If the checkpoint of a run does not exist any more, the recorded
    rows of all methods are kept, if they are complete; otherwise its model has its initial weights,
    and the row says so (`weights`).

    Args:
        runs: a run of each method, by name.
        recorded: the rows that were measured before, by method.

    Returns:
        The rows of each method.
    """
    trained = all(_checkpoint_exists(run) for run in runs.values())
    if not trained and all(method in recorded for method in runs):
        return {method: recorded[method] for method in runs}
    rows = {method: _step_rows(method, run) for method, run in runs.items()}
    for method, row in _inference_rows(runs).items():
        rows[method].append(row)
    return rows


def _checkpoint_exists(run: Run) -> bool:
    return (run.folder / "model_final.pth").is_file()


def _columns(method: str, run: Run) -> dict:
    """Returns the columns of a method's rows: those of a run without its schedule."""
    columns = method_columns(method, run)
    del columns["epochs"], columns["base_lr"]
    return columns | measured_here()


def _step_rows(method: str, run: Run) -> list[dict]:
    # some of detectron2's models log scalars, which needs a storage
    with EventStorage():
        activation = measure_step(run.cfg, run.budget.batch_size).activation
    values = {
        "trained_parameters": trained_parameters(run.cfg),
        "activation_bytes": activation,
    }
    common = _columns(method, run)
    return [
        common | {"metric": name, "mean": value, "std": None, "n": 1}
        for name, value in values.items()
    ]


def _inference_rows(runs: Mapping[str, Run]) -> dict[str, dict]:
    """Times the inference of all methods in turn; returns the row `ms_per_image` of each."""
    calls = []
    for run in runs.values():
        cfg = with_keys(run.cfg, _NO_CACHE)
        images = _test_images(cfg)
        calls.append(partial(_detect_next, _load_model(cfg, run), cycle(images)))
    rows = {}
    for (method, run), seconds in zip(
        runs.items(), interleaved_seconds(calls, ROUNDS, WARM_UP_ROUNDS)
    ):
        milliseconds = [1000 * x for x in seconds]
        rows[method] = _columns(method, run) | {
            "metric": "ms_per_image",
            "batch_size": 1,
            "weights": "trained" if _checkpoint_exists(run) else "initial",
            "threads": torch.get_num_threads(),
            "mean": round(statistics.fmean(milliseconds), 2),
            "std": round(statistics.stdev(milliseconds), 2),
            "median": round(statistics.median(milliseconds), 2),
            "n": len(milliseconds),
        }
    return rows


def _test_images(cfg: CfgNode) -> list[dict]:
    loader = Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    return list(islice((record for batch in loader for record in batch), IMAGES))


def _load_model(cfg: CfgNode, run: Run) -> nn.Module:
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    if not _checkpoint_exists(run):
        return model
    average = load_trained(cfg, model, str(run.folder / "model_final.pth"))
    return model if average is None else average.module.eval()


@torch.no_grad()
def _detect_next(model: nn.Module, images) -> None:
    model([next(images)])
