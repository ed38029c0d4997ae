"""A model in several processes."""

from __future__ import annotations

import warnings

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch import nn


def distributed_model(model: nn.Module) -> nn.Module:
    """Returns a model whose gradients are averaged over all processes; itself with one process.

    A parameter that no process has used, such as those of a block that rests in schedule
    `alternate`, gets no gradient, as in one process. (With zeros, an optimizer with momentum or
    weight decay would change it.)
    """
    on_gpu = next(model.parameters()).is_cuda
    with warnings.catch_warnings():
        # `broadcast_buffers` has another name since torch 2.14
        warnings.simplefilter("ignore", FutureWarning)
        return create_ddp_model(
            model,
            broadcast_buffers=False,
            find_unused_parameters=True,
            **({} if on_gpu else {"device_ids": None}),
        )


def share_buffers(model: nn.Module) -> None:
    """Copies the buffers of the first process to all other processes.

    detectron2 turns their synchronization in DistributedDataParallel off. So every process has
    batch-norm statistics of its own images.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
