"""The detection losses of detectors that are trained end to end: one per layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowdet.detection.set_detector import SetDetector
from flowdet.detection.targets import Targets
from flowdet.events import log_scalars
from flowdet.flow import add_losses


def layer_losses(
    model: SetDetector,
    layers: Sequence[Tensor],
    weights: Sequence[float],
    targets: Targets,
    first: int = 0,
    denoised: Tensor | None = None,
) -> dict[str, Tensor]:
    """Sums the detection losses of decoder layers, and logs those of every layer.

    Args:
        model: decodes the layers, and matches them as its `matching` says.
        layers: the query embeddings after every layer, each [B, M, d], or [B, M + Q, d] with
            denoising queries.
        weights: the weight of the losses of every layer.
        targets: the objects.
        first: the layers before this one have no loss.
        denoised: index of the object of each denoising query, [B, Q]; None for none. Their losses
            are those of `model.denoising`.
    """
    normalizer = model.criterion.normalizer(targets, model.num_queries)
    total: dict[str, Tensor] = {}
    logged: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    count = model.num_queries
    for k in range(first, len(layers)):
        logits, boxes = model.heads(layers[k])
        own = logits[:, :count], boxes[:, :count]
        if k == first or model.matching == "per_block":
            assigned = model.matcher(*own, targets)
        losses, stats = model.criterion(*own, targets, assigned, normalizer)
        if denoised is not None:
            others = logits[:, count:], boxes[:, count:]
            further, further_stats = model.denoising.losses(*others, targets, denoised)
            add_losses(losses, further)
            stats |= further_stats
        losses = {name: weights[k] * loss for name, loss in losses.items()}
        add_losses(total, losses)
        # no "loss" in the name, or detectron2 prints all of them in every line
        logged |= {f"block{k}/{x.removeprefix('loss_')}": losses[x].detach() for x in losses}
        means |= {f"block{k}/{x}": stats[x] for x in stats}
    log_scalars(logged, means)
    return total
