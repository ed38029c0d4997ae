"""Where the time goes: the parts of a call of the detector, and of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from flowdet.detection.base_detector import BaseDetector
from flowdet.engine import build_optimizer
from flowdet.engine.model_builder import build_model
from flowdet.experiments.speed.setup import SEED, WARM_UP_ROUNDS, build_detector, spread
from flowdet.experiments.speed.tables import REST
from flowdet.experiments.training_steps import synthetic_batch, train_step

# a function whose time is measured: its owner, and its name there
Function = tuple[object, str]


def profile_rows(
    cfg: CfgNode, name: str, batch_sizes: Sequence[int], rounds: int, call: str
) -> list[dict]:
    """Measures the share of each part in the time of the whole.

    Args:
        cfg: the config of a FlowMatchingDetector, see `bench_config`.
        name: the name of the config, a column of the rows.
        batch_sizes: images per call.
        rounds: measurements.
        call: `inference` or `training`.
    """
    rows = []
    for size in batch_sizes:
        model, run = _training(cfg, size) if call == "training" else _inference(cfg, size)
        shares: dict[str, list[float]] = {}
        with measured_parts(parts_of(model)) as seconds, EventStorage():
            for number in range(WARM_UP_ROUNDS + rounds):
                seconds.update(dict.fromkeys(seconds, 0.0))
                start = _clock()
                run()
                total = _clock() - start
                if number >= WARM_UP_ROUNDS:
                    parts = {**seconds, REST: total - sum(seconds.values())}
                    for part, value in parts.items():
                        shares.setdefault(part, []).append(100 * value / total)
        columns = {"part": "profile", "config": name, "call": call, "batch_size": size}
        for part, values in shares.items():
            if any(values):
                rows.append(columns | {"function": part, "metric": "percent"} | spread(values))
    return rows


def _inference(cfg: CfgNode, size: int) -> tuple[BaseDetector, Callable[[], object]]:
    model = build_detector(cfg)
    return model, torch.no_grad()(partial(model, synthetic_batch(cfg, size)))


def _training(cfg: CfgNode, size: int) -> tuple[BaseDetector, Callable[[], object]]:
    torch.manual_seed(SEED)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    batch = synthetic_batch(cfg, size)
    return model, partial(train_step, model, batch, optimizer, cfg.SOLVER.AMP.ENABLED)


def parts_of(model: BaseDetector) -> dict[str, list[Function]]:
    """Returns the functions of a FlowMatchingDetector whose time is measured, by the name of the
    part. What a function spends in another one counts for the inner one only."""
    blocks = list(model.flow.blocks)
    readers = [block.point_reader for block in blocks if block.point_reader is not None]
    parts: dict[str, list[Function]] = {
        "backbone": [(model.backbone, "forward")],
        "neck": [(model.neck, "forward")],
        "blocks, without the point reader": [
            (x, y) for x in blocks for y in ("forward", "prepare")
        ],
        "point reader": [(x, y) for x in readers for y in ("forward", "narrow")],
        "heads": [(model.heads, y) for y in ("forward", "boxes")],
        "postprocessing": [(model.postprocess, "forward")],
        "matching": [(model.matcher, "forward")],
        "criterion": [(model.criterion, "forward")],
        "gradients of the blocks": [(torch.autograd, "grad")],
        "gradients of backbone and neck": [(torch.Tensor, "backward")],
        "update": [(torch.optim.AdamW, "step")],
    }
    if model.denoising is not None:
        parts["denoising queries"] = [(model.denoising, "extend")]
    if model.proposal_network is not None:
        parts["proposals for denoising"] = [(model.proposal_network, "forward")]
    return parts


@contextmanager
def measured_parts(parts: Mapping[str, Sequence[Function]]) -> Iterator[dict[str, float]]:
    """Within this context, the seconds of the functions of every part are added to its entry."""
    seconds = dict.fromkeys(parts, 0.0)
    running: list[str] = []
    since = [0.0]

    def timed(part: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            switch(lambda: running.append(part))
            try:
                return function(*args, **kwargs)
            finally:
                switch(running.pop)

        return call

    def switch(change: Callable[[], object]) -> None:
        now = _clock()
        if running:
            seconds[running[-1]] += now - since[0]
        change()
        since[0] = now

    replaced = [(owner, name, part) for part, of_part in parts.items() for owner, name in of_part]
    originals = [vars(owner).get(name) for owner, name, _ in replaced]
    for owner, name, part in replaced:
        _set(owner, name, timed(part, getattr(owner, name)))
    try:
        yield seconds
    finally:
        for (owner, name, _), original in zip(replaced, originals, strict=True):
            if original is None:
                delattr(owner, name)
            else:
                _set(owner, name, original)


def _set(owner: object, name: str, value: object) -> None:
    if isinstance(owner, nn.Module):
        # a function in the place of a module
        object.__setattr__(owner, name, value)
    else:
        setattr(owner, name, value)


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    # other programs have little part in the time of this thread
    return time.thread_time()
