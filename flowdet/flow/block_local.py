"""Block-local losses as one autograd node (3.3, A.2, Algorithm 1).

The *forward* pass of the node builds the graph of block k, computes its gradients and frees the
graph before block k + 1 starts. The *backward* pass returns the summed gradients. To the trainer,
the losses are ordinary scalars: it calls `backward()` once on their sum. This also works with AMP
and DistributedDataParallel. Only one block's activations are in memory at a time.

Here the gradient is stopped at the shared *features*. The *state* of a block passes no gradient to
the block before it either: see `training_states`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowdet.flow.errors import NonFiniteError

Losses = dict[str, Tensor]
BlockLoss = Callable[[int, list[Tensor]], Losses]


class HalfPrecisionScale:
    """A loss scale for the inner gradients under float16 autocast.

    The trainer's gradient scaler acts when `backward()` is called. That is too late: the inner
    gradients are computed before. This scale halves when they overflow. (The trainer's scaler then
    skips the step, because the gradients are not finite.) It doubles after every `growth_interval`
    iterations without overflow.

    Args:
        value: the initial scale.
        growth_interval: iterations without overflow until the scale doubles.

    Attributes:
        value: the current scale.
        good: number of iterations since the last overflow.
    """

    def __init__(self, value: float = 2.0**12, growth_interval: int = 1000):
        self.value = value
        self.growth_interval = growth_interval
        self.good = 0

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """Adapts the scale to the gradients of an iteration."""
        all_finite = [torch.isfinite(g).all() for g in gradients if g is not None]
        # one copy to the host, not one per gradient
        finite = not all_finite or bool(torch.stack(all_finite).all())
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.good % self.growth_interval == 0:
            self.value *= 2


class _BlockLocalNode(torch.autograd.Function):
    """Computes the gradients of all blocks in `forward` and returns them in `backward`."""

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
        # Without AMP the factor is 1, and nothing is copied. To read it on a GPU, the host would
        # wait.
        is_one = first.device.type == "cpu" and first.item() == 1
        for i, (g, dtype) in enumerate(zip(gradients, ctx.dtypes, strict=True)):
            if g is not None:
                # scaled before the cast to half precision, which would round small gradients to 0
                gradients[i] = (g if is_one else g * first).to(dtype)
        return None, *gradients


def block_local_losses(
    block_loss: BlockLoss,
    blocks: Sequence[int],
    features: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    half_scale: HalfPrecisionScale | None = None,
) -> Losses:
    """Computes the losses of several blocks on shared features, each block with its own graph.

    Args:
        block_loss: `block_loss(k, features)` returns the scalar losses of block k by name. The
            names must be the same for every k. It gets detached features, at least in float32.
        blocks: the blocks to train, in this order.
        features: inputs that all blocks share and that get gradients, e.g. the backbone's output.
        parameters: every parameter that `block_loss` uses, of blocks, embeddings and heads.
            Parameters that no block used, or that are frozen, get no gradient.
        half_scale: scale of the inner losses, for float16 autocast.

    Returns:
        The losses by name, summed over the blocks. Call `backward()` on their unweighted sum.

    Raises:
        ValueError: `blocks` is empty, or the names of the losses differ between blocks.
        RuntimeError: in `backward()`, if the losses have different weights, or if it is called
            twice.
    """
    if not blocks:
        raise ValueError("no block to train")
    inputs = [*features, *parameters]
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in inputs):
        return _sum_losses(block_loss(k, list(features)) for k in blocks)
    names: list[str] = []

    def run() -> tuple[Losses, list[Tensor | None]]:
        losses, gradients = _block_by_block(block_loss, blocks, features, parameters, half_scale)
        names.extend(losses)
        return losses, gradients

    values = _BlockLocalNode.apply(run, *inputs)
    return dict(zip(names, values, strict=True))


def _block_by_block(
    block_loss: BlockLoss,
    blocks: Sequence[int],
    features: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    half_scale: HalfPrecisionScale | None,
) -> tuple[Losses, list[Tensor | None]]:
    """Computes the summed losses of the blocks, and their gradients for features and parameters.

    For the arguments see `block_local_losses`. A gradient is None if no block used the tensor.
    """
    leaves = [_at_least_float32(f.detach()).requires_grad_(f.requires_grad) for f in features]
    sources = [*leaves, *parameters]
    trained = [i for i, x in enumerate(sources) if x.requires_grad]
    scale = half_scale.value if half_scale else 1.0
    gradients: list[Tensor | None] = [None] * len(sources)
    owned: set[int] = set()
    results = []
    for k in blocks:
        with torch.enable_grad():
            try:
                losses = block_loss(k, leaves)
            except NonFiniteError as error:
                error.block = k
                raise
            total = sum(losses.values()) * scale
        block_gradients = torch.autograd.grad(
            total, [sources[i] for i in trained], allow_unused=True
        )
        results.append({name: loss.detach() for name, loss in losses.items()})
        # frees the graph of block k before the next one is built
        del losses, total
        _accumulate(gradients, trained, block_gradients, owned)
        del block_gradients
    _unscale(gradients, scale, half_scale)
    return _sum_losses(results), gradients


def _accumulate(
    total: list[Tensor | None],
    indices: Sequence[int],
    gradients: Sequence[Tensor | None],
    owned: set[int],
) -> None:
    """Adds the gradients of a block to `total[indices]`, in place where `total` owns the memory.

    Autograd may return one tensor as the gradient of several inputs. So the first gradient is kept
    as it is, the second makes a new tensor, and all others are added to it. Most parameters belong
    to one block, and their gradients are not copied.

    Args:
        total: the summed gradients of all inputs.
        indices: index of each of the gradients in `total`.
        gradients: the gradients of the block.
        owned: the indices of the tensors in `total` that this function made.
    """
    for i, g in zip(indices, gradients, strict=True):
        if g is None:
            continue
        if total[i] is None:
            total[i] = g
        elif i in owned:
            total[i].add_(g)
        else:
            total[i] = total[i] + g
            owned.add(i)


def _at_least_float32(x: Tensor) -> Tensor:
    """Casts half precision to float32: sums of small gradients would be rounded to 0 in it."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _sum_losses(results) -> Losses:
    """Sums dicts of losses by name; raises ValueError if the names differ."""
    results = list(results)
    for other in results[1:]:
        if other.keys() != results[0].keys():
            raise ValueError(
                f"blocks return different losses: {list(results[0])} and {list(other)}"
            )
    return {name: sum(losses[name] for losses in results) for name in results[0]}


def add_losses(total: Losses, losses: Losses) -> None:
    """Adds losses to the losses of the same name in `total`, in place."""
    for name, loss in losses.items():
        total[name] = total[name] + loss if name in total else loss


def _unscale(
    gradients: list[Tensor | None], scale: float, half_scale: HalfPrecisionScale | None
) -> None:
    """Divides the gradients by the loss scale, and updates the scale."""
    if scale != 1.0:
        gradients[:] = [None if g is None else g / scale for g in gradients]
    if half_scale:
        half_scale.update(gradients)
