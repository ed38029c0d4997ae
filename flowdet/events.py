"""Logs scalars and warnings of a model while it runs."""

from __future__ import annotations

import contextlib
import logging
import math
from contextlib import AbstractContextManager
from functools import cache

import torch
from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
from torch import Tensor

from flowdet.flow import InferencePlan, StateSettings


def log_scalars(scalars: dict[str, Tensor], means: dict[str, Tensor] | None = None) -> None:
    """Writes scalar tensors to detectron2's event storage, with a single copy to the host.

    Outside a training there is no event storage, and nothing is written.

    Args:
        scalars: by name.
        means: means over a set that may be empty, by name. Those that are NaN are not written.
    """
    named = scalars | (means or {})
    if has_event_storage() and named:
        values = torch.stack([x.float() for x in named.values()]).tolist()
        written = {
            name: value
            for name, value in zip(named, values, strict=True)
            if name in scalars or not math.isnan(value)
        }
        get_event_storage().put_scalars(**written)


def with_event_storage() -> AbstractContextManager:
    """Returns a context that has an event storage: that of the training, or a new one.

    Models of detectron2 log statistics and fail without an event storage.
    """
    return contextlib.nullcontext() if has_event_storage() else EventStorage()


@cache
def warn_of_untrained_blocks(
    plan: InferencePlan, states: StateSettings, num_blocks: int, node: str
) -> None:
    """Warns if inference evaluates blocks at t = 0 that were never trained at t = 0.

    The estimates of such blocks are arbitrary. The warning is logged once per set of arguments.

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
