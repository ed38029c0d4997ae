"""Block-local losses as one autograd node (3.3, A.2, Algorithm 1).

The *forward* of the node builds the graph of block k, takes its gradients and frees it before
block k + 1 begins. Its *backward* returns the summed gradients. From outside the losses are
ordinary scalars: any trainer that calls `backward()` once on their sum works, with AMP and
DistributedDataParallel too, and only one block's activations are in memory at a time.

Here the gradient is stopped at the shared *features*. The *state* that a block is trained on passes
none to the block before it either: see `training_states`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Losses = dict[str, Tensor]
BlockLoss = Callable[[int, list[Tensor]], Losses]


class HalfPrecisionScale:
    """A loss scale for the inner gradients under float16 autocast.

    The trainer's gradient scaler acts when `backward()` is called, which is too late: the inner
    gradients are computed before that. The scale halves when they overflow (the trainer's scaler
    then skips the step, because of the non-finite gradients) and doubles after `growth_interval`
    iterations without overflow.
    """

    def __init__(self, value: float = 2.0**12, growth_interval: int = 1000):
        self.value = value
        self.growth_interval = growth_interval
        self.good = 0

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        all_finite = [torch.isfinite(g).all() for g in gradients if g is not None]
        # one copy to the host, not one per gradient
        finite = not all_finite or bool(torch.stack(all_finite).all())
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.good % self.growth_interval == 0:
            self.value *= 2


class _BlockLocalNode(torch.autograd.Function):
    """forward: computes the gradients of all blocks in turn; backward: returns them."""

    @staticmethod
    def forward(ctx, run: Callable[[], tuple[Losses, list[Tensor | None]]], *inputs: Tensor):
        ctx.dtypes = [x.dtype for x in inputs]
        losses, ctx.gradients = run()
        return tuple(losses.values())

    @staticmethod
    @once_differentiable
    def backward(ctx, *incoming: Tensor):
        if ctx.gradients is None:
            raise RuntimeError("block-local losses can be differentiated only once")
        first = incoming[0]
        for other in incoming[1:]:
            if other.data_ptr() != first.data_ptr() and not torch.equal(other, first):
                raise RuntimeError(
                    "block-local losses must be summed with equal weight before backward(): "
                    f"got gradients {[g.item() for g in incoming]}. Put the weights into the "
                    "block losses (the model's *_WEIGHT keys), not around the model"
                )
        gradients, ctx.gradients = ctx.gradients, None
        # scaled before the cast to half precision, or small gradients are lost
        return None, *[
            None if g is None else g.mul_(first).to(dtype)
            for g, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]


def block_local_losses(
    block_loss: BlockLoss,
    blocks: Sequence[int],
    features: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    half_scale: HalfPrecisionScale | None = None,
) -> Losses:
    """The losses of several blocks on shared features, each with its own graph.

    Args:
        block_loss: `block_loss(k, features)` returns block k's scalar losses by name, the
            same names for every k, on the features it is given (detached copies).
        blocks: the blocks to train, in this order.
        features: shared inputs of the blocks that get gradients, e.g. the backbone's output.
        parameters: every parameter that `block_loss` uses: of blocks, embeddings and heads.
            Parameters that no block used, or that are frozen, get no gradient.
        half_scale: scale of the inner losses, for float16 autocast.

    Returns:
        The losses summed over the blocks. Call `backward()` on their plain sum.

    Raises:
        ValueError: the names of the losses differ between blocks, or there is no block.
        RuntimeError: in backward, if the losses were weighted differently, or differentiated
            twice.
    """
    if not blocks:
        raise ValueError("no block to train")
    inputs = [*features, *parameters]
    trained = [i for i, x in enumerate(inputs) if x.requires_grad]
    if not torch.is_grad_enabled() or not trained:
        return _sum_losses(block_loss(k, list(features)) for k in blocks)
    scale = half_scale.value if half_scale else 1.0
    names: list[str] = []

    def run() -> tuple[Losses, list[Tensor | None]]:
        leaves = [_at_least_float32(f.detach()).requires_grad_(f.requires_grad) for f in features]
        sources = [*leaves, *parameters]
        gradients: list[Tensor | None] = [None] * len(inputs)
        results = []
        for k in blocks:
            with torch.enable_grad():
                losses = block_loss(k, leaves)
                total = sum(losses.values()) * scale
            block_gradients = torch.autograd.grad(
                total, [sources[i] for i in trained], allow_unused=True
            )
            results.append({name: loss.detach() for name, loss in losses.items()})
            # frees the graph of block k before the next one is built
            del losses, total
            for i, g in zip(trained, block_gradients, strict=True):
                if g is not None:
                    gradients[i] = g.clone() if gradients[i] is None else gradients[i].add_(g)
        summed = _sum_losses(results)
        names.extend(summed)
        _unscale(gradients, scale, half_scale)
        return summed, gradients

    values = _BlockLocalNode.apply(run, *inputs)
    return dict(zip(names, values, strict=True))


def _at_least_float32(x: Tensor) -> Tensor:
    """In half precision, small gradients would be lost when they are summed and unscaled."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _sum_losses(results) -> Losses:
    """Sums dicts of losses, which must have the same names."""
    results = list(results)
    for other in results[1:]:
        if other.keys() != results[0].keys():
            raise ValueError(
                f"blocks return different losses: {list(results[0])} and {list(other)}"
            )
    return {name: sum(losses[name] for losses in results) for name in results[0]}


def add_losses(total: Losses, losses: Losses) -> None:
    """Adds losses to those of the same name in `total`, in place."""
    for name, loss in losses.items():
        total[name] = total[name] + loss if name in total else loss


def _unscale(
    gradients: list[Tensor | None], scale: float, half_scale: HalfPrecisionScale | None
) -> None:
    """Divides the gradients by the loss scale, in place, and updates the scale."""
    for g in gradients:
        if g is not None and scale != 1.0:
            g.div_(scale)
    if half_scale:
        half_scale.update(gradients)
