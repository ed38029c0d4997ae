"""Numbers for the trainer's event storage."""

from __future__ import annotations

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor


def log_scalars(scalars: dict[str, Tensor]) -> None:
    """To the event storage, where there is one, with one copy to the host."""
    if has_event_storage() and scalars:
        values = torch.stack([x.float() for x in scalars.values()]).tolist()
        get_event_storage().put_scalars(**dict(zip(scalars, values, strict=True)))
