"""Trainer, optimizer, checkpoints, and how a config becomes a run."""

from flowdet.engine.checkpoint import FlowDetCheckpointer, WholeModelCheckpointer, load_trained
from flowdet.engine.optimizer import build_optimizer
from flowdet.engine.predictor import Predictor
from flowdet.engine.setup import keep_freed_memory, load_config, resolve_config
from flowdet.engine.trainer import Trainer, evaluate

__all__ = [
    "FlowDetCheckpointer",
    "Predictor",
    "Trainer",
    "WholeModelCheckpointer",
    "build_optimizer",
    "evaluate",
    "keep_freed_memory",
    "load_config",
    "load_trained",
    "resolve_config",
]
