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
) -> dict[str, Tensor]:
    """Sums the detection losses of decoder layers, and logs those of every layer.

    Args:
        model: decodes the layers, and matches them as its `matching` says.
        layers: the query embeddings after every layer, each [B, M, d].
        weights: the weight of the losses of every layer.
        targets: the objects.
        first: the layers before this one have no loss.
    """
    normalizer = model.criterion.normalizer(targets, model.num_queries)
    total: dict[str, Tensor] = {}
    statistics: dict[str, Tensor] = {}
    for k in range(first, len(layers)):
        logits, boxes = model.heads(layers[k])
        if k == first or model.matching == "per_block":
            assigned = model.matcher(logits, boxes, targets)
        losses, stats = model.criterion(logits, boxes, targets, assigned, normalizer)
        losses = {name: weights[k] * loss for name, loss in losses.items()}
        add_losses(total, losses)
        for name, value in {**losses, **stats}.items():
            statistics[f"block{k}/{name.removeprefix('loss_')}"] = value.detach()
    log_scalars(statistics)
    return total
