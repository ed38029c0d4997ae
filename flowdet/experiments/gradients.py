"""Measures the variance of the blocks' gradients over batches (Proposition 3, B.3, Figure 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from matplotlib.figure import Figure
from torch import nn

from flowdet.experiments.training_steps import ShortTraining, total_loss


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """Returns the T blocks of a flow or backprop detector."""
    return model.flow.blocks if hasattr(model, "flow") else model.blocks


def block_variances(
    blocks: Sequence[nn.Module], backward: Callable[[int], None], num_batches: int
) -> list[float]:
    """Computes the variance of each block's gradient over batches, averaged over its parameters.

    Args:
        blocks: the blocks.
        backward: `backward(i)` sets `.grad` of all parameters to the gradients of batch i.
        num_batches: the number of batches, at least 2.

    Returns:
        One variance per block.

    Raises:
        ValueError: `num_batches` is below 2.
    """
    if num_batches < 2:
        raise ValueError(f"a variance needs at least 2 batches, got {num_batches}")
    sums: list[torch.Tensor] = []
    squares: list[torch.Tensor] = []
    for number in range(num_batches):
        backward(number)
        gradients = [_flat_gradient(block).double() for block in blocks]
        if not sums:
            sums = [torch.zeros_like(g) for g in gradients]
            squares = [torch.zeros_like(g) for g in gradients]
        for g, total, square in zip(gradients, sums, squares):
            total += g
            square += g * g
    # the unbiased variance; the sums are in double precision, as their difference may be small
    return [
        float(((square - total * total / num_batches) / (num_batches - 1)).mean())
        for total, square in zip(sums, squares)
    ]


def _flat_gradient(block: nn.Module) -> torch.Tensor:
    """Returns the gradient of all P trained parameters, [P]; 0 for those without a gradient."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in block.parameters()
            if p.requires_grad
        ]
    )


class GradientStatistics(ShortTraining):
    """Measures the gradients of a detector's blocks during a short training."""

    def variances(self) -> list[float]:
        """Measures the gradient variance of each block, see `block_variances`.

        It changes neither weights nor buffers, such as the statistics of batch normalization.
        """
        buffers = {name: x.clone() for name, x in self.model.named_buffers()}
        variances = block_variances(blocks_of(self.model), self._backward, len(self.batches))
        self.optimizer.zero_grad(set_to_none=True)
        for name, x in self.model.named_buffers():
            x.copy_(buffers[name])
        return variances

    def _backward(self, number: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        seed_all_rng(number)
        total_loss(self.model, self.batches[number]).backward()


def variance_rows(
    variants: Sequence[tuple[str, CfgNode]], num_batches: int, iterations: Sequence[int]
) -> Iterator[dict]:
    """Measures the variance of each block, and the ratio of the first block's to the last block's.

    It yields rows of a result file, one by one.

    Args:
        variants: pairs of a method name and a resolved config.
        num_batches: the number of batches over which the variance is computed.
        iterations: the numbers of training iterations after which it is measured.
    """
    for name, cfg in variants:
        statistics = GradientStatistics(cfg, num_batches)
        for iteration in sorted(set(iterations)):
            statistics.train_until(iteration)
            variances = statistics.variances()
            common = {
                "method": name,
                "dataset": cfg.DATASETS.TRAIN[0],
                "num_blocks": cfg.MODEL.FLOW_DET.NUM_BLOCKS,
                "iterations": iteration,
            }
            n = {"std": None, "n": num_batches}
            for block, value in enumerate(variances):
                metric = {"metric": "gradient_variance", "block": block, "mean": value}
                yield common | metric | n
            ratio = variances[0] / variances[-1]
            yield common | {"metric": "gradient_variance_first_to_last", "mean": ratio} | n


def variance_figure(rows: Sequence[dict]) -> Figure:
    """Draws the variance of each block, with a panel per T and a line per method and iteration."""
    rows = [row for row in rows if row["metric"] == "gradient_variance"]
    counts = sorted({row["num_blocks"] for row in rows})
    iterations = sorted({row["iterations"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(4.5 * len(counts), 3.8), layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False, sharey=True)[0]
    for axes, count in zip(panels, counts):
        for color, method in enumerate(methods):
            for style, iteration in zip(np.resize(["-", "--", ":", "-."], 99), iterations):
                points = [
                    (row["block"] + 1, row["mean"])
                    for row in rows
                    if (row["method"], row["num_blocks"], row["iterations"])
                    == (method, count, iteration)
                ]
                label = f"{method}, {iteration} iterations"
                axes.plot(*zip(*points), style, marker="o", color=f"C{color}", label=label)
        axes.set(
            title=f"T = {count}",
            xlabel="block",
            ylabel="gradient variance",
            yscale="log",
            xticks=range(1, count + 1),
        )
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7
    )
    return figure
