"""Measures how much blocks read the target from an interpolated state instead of the image.

An interpolated state `z_t = (1 - t) z_0 + t z_1` contains the target z_1. A block that reads the
target from the state has a low anchor loss (all losses except the flow loss) without using the
image, and passes little gradient to the backbone.
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

# by name: the label in tables and figures
METRICS = {
    "anchor_loss": "anchor loss",
    "anchor_loss_other_image": "anchor loss, features of another image",
    "feature_gradient": "gradient at the features (norm)",
}


class StatesAtTime(InterpolatedStates):
    """Interpolated states of all blocks at the same time `t`, in [0, 1)."""

    def __init__(self, t: float, *args):
        super().__init__(*args)
        self.t = t

    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        t = torch.full_like(self.initial.t, self.t)
        return replace(self.initial, z=self.ensemble.path.sample(self.initial.z, z_1, t).z_t, t=t)


def with_interpolated_states(cfg: CfgNode) -> CfgNode:
    """Returns a copy of a flow config that trains on interpolated states only."""
    node = f"MODEL.{task_of(cfg).node}"
    keys = {"TRAINING_STATES": "interpolated", "LEARN_AT_START": False, "SCHEDULE": "joint"}
    return with_keys(cfg, {f"{node}.{key}": value for key, value in keys.items()})


def anchor_losses(model: nn.Module, batch: list[dict], t: float) -> tuple[float, float, float]:
    """Computes the anchor loss (eq. 17-18) on interpolated states at time `t`, a mean over blocks.

    Args:
        model: a flow model in training mode.
        batch: at least two inputs with their targets.
        t: the time of the states, in [0, 1).

    Returns:
        The loss, the loss with the features of another image of the batch, and the norm of the
        gradient of the first loss with respect to the features. Both losses use the same noise;
        each has its own matching of queries and objects.
    """
    make_states = partial(StatesAtTime, t)
    if isinstance(model, FlowMatchingDetector):
        features, targets = model.encode(batch), model.prepare_targets(batch)
    else:
        features = model.reader(model.backbone(model.images_of(batch)))
        targets = model.labels_of(batch)
    seed = int(torch.randint(2**31, ()))

    def anchor_loss(change: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns the loss with the features that `change` returns, and these features."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            block_losses, (*tensors, z_1) = model.block_losses(features, targets, make_states)
            tensors = [change(x) for x in tensors]
            losses = [block_losses(k, [*tensors, z_1]) for k in range(model.flow.num_blocks)]
        anchors = [x for block in losses for name, x in block.items() if name != "loss_flow"]
        return sum(anchors) / len(losses), tensors

    loss, leaves = anchor_loss(lambda x: x.detach().requires_grad_())
    gradients = torch.autograd.grad(loss, leaves)
    with torch.no_grad():
        other_loss, _ = anchor_loss(lambda x: x.roll(1, dims=0))
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return loss.item(), other_loss.item(), norm.item()


def leak_rows(
    cfg: CfgNode, num_batches: int, iterations: Sequence[int], times: Sequence[float]
) -> Iterator[dict]:
    """Measures every metric at every time; yields rows of a result file, one by one.

    Args:
        cfg: the resolved config of a flow model, see `with_interpolated_states`.
        num_batches: the number of batches to average each value over.
        iterations: the numbers of training iterations after which it is measured.
        times: the times t of the states, each in [0, 1).
    """
    training = ShortTraining(cfg, num_batches)
    for iteration in sorted(set(iterations)):
        training.train_until(iteration)
        for t in times:
            values_by_batch = []
            for number, batch in enumerate(training.batches):
                # the same noise at every time
                seed_all_rng(number)
                values_by_batch.append(anchor_losses(training.model, batch, t))
            for metric, values in zip(METRICS, torch.tensor(values_by_batch).T):
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
    """Draws the two losses and the gradient norm over t, with a line per number of iterations."""
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
        # both change by orders of magnitude
        axes.set(xlabel="t", title=title, yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
