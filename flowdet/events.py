"""What models report while they run: scalars for the trainer's event storage, and warnings."""

from __future__ import annotations

import logging
from functools import cache

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from flowdet.flow import InferencePlan, StateSettings


def log_scalars(scalars: dict[str, Tensor]) -> None:
    """Writes scalars to the event storage, if there is one, with a single copy to the host."""
    if has_event_storage() and scalars:
        values = torch.stack([x.float() for x in scalars.values()]).tolist()
        get_event_storage().put_scalars(**dict(zip(scalars, values, strict=True)))


@cache
def warn_of_untrained_blocks(
    plan: InferencePlan, states: StateSettings, num_blocks: int, node: str
) -> None:
    """Warns, once per set of arguments, if inference evaluates blocks at t = 0 that were never
    trained there: their estimates are arbitrary.

    Args:
        plan: the inference mode.
        states: the training states of the model.
        num_blocks: T.
        node: `MODEL.FLOW_DET` or `MODEL.FLOW_CLS`, for the message.
    """
    blocks = plan.untrained_blocks(states, num_blocks)
    if blocks:
        logging.getLogger(__name__).warning(
            "inference mode %s evaluates block%s %s at t = 0, but the model was not trained there "
            "(TRAINING_STATES rollout without LEARN_AT_START): expect poor results. Set "
            "%s.INFERENCE_MODE multi_step, or train with %s.LEARN_AT_START True",
            plan.name,
            "s" if len(blocks) > 1 else "",
            ", ".join(map(str, blocks)),
            node,
            node,
        )
