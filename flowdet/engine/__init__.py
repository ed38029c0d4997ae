"""Trainer, optimizer, checkpoints, and how a config becomes a run."""

from flowdet.engine.checkpoint import FlowDetCheckpointer, WholeModelCheckpointer
from flowdet.engine.optimizer import build_optimizer
from flowdet.engine.predictor import Predictor
from flowdet.engine.setup import keep_freed_memory, load_config, resolve_config
from flowdet.engine.trainer import Trainer

__all__ = [
    "FlowDetCheckpointer",
    "Predictor",
    "Trainer",
    "WholeModelCheckpointer",
    "build_optimizer",
    "keep_freed_memory",
    "load_config",
    "resolve_config",
]
