"""How far the answer in an interpolated state spares a block from looking at the image.

An interpolated `z_t = (1 - t) z_0 + t z_1` contains the target. A block that reads it there gets a
low anchor loss without the image, and passes the backbone little gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from matplotlib.figure import Figure
from torch import Tensor, nn

from flowdet.detection import FlowMatchingDetector
from flowdet.engine.config import with_keys
from flowdet.engine.task_builders import task_of
from flowdet.experiments.training_steps import ShortTraining
from flowdet.flow import FlowState, InterpolatedStates

METRICS = {
    "anchor_loss": "anchor loss",
    "anchor_loss_other_image": "anchor loss, features of another image",
    "feature_gradient": "gradient at the features (norm)",
}


class StatesAt(InterpolatedStates):
    """Interpolated states of one time."""

    def __init__(self, t: float, *args):
        super().__init__(*args)
        self.t = t

    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        t = torch.full_like(self.initial.t, self.t)
        return replace(self.initial, z=self.ensemble.path.sample(self.initial.z, z_1, t).z_t, t=t)


def interpolated(cfg: CfgNode) -> CfgNode:
    """A flow config that trains on interpolated states alone."""
    node = f"MODEL.{task_of(cfg).node}"
    keys = {"TRAINING_STATES": "interpolated", "LEARN_AT_START": False, "SCHEDULE": "joint"}
    return with_keys(cfg, {f"{node}.{key}": value for key, value in keys.items()})


def anchor_losses(model: nn.Module, batch: list[dict], t: float) -> tuple[float, float, float]:
    """The mean over the blocks of the anchor loss (eq. 17-18) at time `t`, the same with the
    features of another image of the batch, and the norm of the former's gradient at the features.
    """
    make = partial(StatesAt, t)
    if isinstance(model, FlowMatchingDetector):
        seen, wanted = model.encode(batch), model.prepare_targets(batch)
    else:
        seen = model.reader(model.backbone(model.images_of(batch)))
        wanted = model.labels_of(batch)
    seed = int(torch.randint(2**31, ()))

    def anchor_loss(change: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """And the features, as `change` made them. Both calls have the same noise, but match
        queries and objects anew."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            block_losses, (*features, z_1) = model.block_losses(seen, wanted, make)
            features = [change(x) for x in features]
            found = [block_losses(k, [*features, z_1]) for k in range(model.flow.num_blocks)]
        anchors = [x for losses in found for name, x in losses.items() if name != "loss_flow"]
        return sum(anchors) / len(found), features

    own, leaves = anchor_loss(lambda x: x.detach().requires_grad_())
    gradients = torch.autograd.grad(own, leaves)
    with torch.no_grad():
        other, _ = anchor_loss(lambda x: x.roll(1, dims=0))
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return own.item(), other.item(), norm.item()


def leak_rows(
    cfg: CfgNode, num_batches: int, iterations: Sequence[int], times: Sequence[float]
) -> Iterator[dict]:
    """Rows of a result file, while it measures: every metric at every time.

    Args:
        cfg: resolved, of a flow model; see `interpolated`.
        num_batches: over which is averaged.
        iterations: of training after which it is measured.
        times: t, each in [0, 1).
    """
    training = ShortTraining(cfg, num_batches)
    for iteration in sorted(set(iterations)):
        training.train_until(iteration)
        for t in times:
            found = []
            for number, batch in enumerate(training.batches):
                # the same noise at every time
                seed_all_rng(number)
                found.append(anchor_losses(training.model, batch, t))
            for metric, values in zip(METRICS, torch.tensor(found).T):
                yield {
                    "method": "flow_interpolated",
                    "dataset": cfg.DATASETS.TRAIN[0],
                    "num_blocks": task_of(cfg).keys(cfg).NUM_BLOCKS,
                    "iterations": iteration,
                    "t": t,
                    "metric": metric,
                    "mean": float(values.mean()),
                    "std": float(values.std()) if len(values) > 1 else None,
                    "n": len(values),
                }


def leak_figure(rows: Sequence[dict]) -> Figure:
    """The losses, and the gradient, over t; a line for each number of iterations."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, iteration in enumerate(sorted({row["iterations"] for row in rows})):
        for metric, label in METRICS.items():
            points = [
                (row["t"], row["mean"])
                for row in rows
                if (row["iterations"], row["metric"]) == (iteration, metric)
            ]
            axes = right if metric == "feature_gradient" else left
            style = "--" if metric == "anchor_loss_other_image" else "-"
            label = f"{label}, {iteration} iterations"
            axes.plot(*zip(*points), style, marker="o", color=f"C{color}", label=label)
    for axes, title in ((left, "anchor loss"), (right, METRICS["feature_gradient"])):
        # both fall by orders of magnitude
        axes.set(xlabel="t", title=title, yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
