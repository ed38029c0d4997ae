"""From a config to a trained model.

- `config`, `config_reader`, `renamed_keys`, `resolve`: the config of a run.
- `config_types`, `config_values`, `model_relations`, `training_relations`: how the values of a
  config are converted and checked. `config_effects`: keys without effect.
- `model_builder`: the model of a config. `trainer`, `optimizer`: the training loop.
- `hooks`: seeds, idle gradients, the moving average of the weights (EMA).
- `log_file`: log.txt. `logging_hooks`: what is logged in training. `progress`: the live line and
  bars on a terminal.
- `interruption`: Ctrl-C and SIGTERM in a training.
- `task_builders`: what differs between detection and classification.
- `checkpoint`: saving, loading, resuming. `resumed_keys`, `resumed_state`, `dataset_versions`: what
  a resumed training may change. `run_start`: what a training logs and writes first.
- `trunks`: the ResNets in checkpoints of other models.
- `allocator`: a setting of the C library for training on a CPU.

Importing this package registers the models and datasets with detectron2.
"""

import flowdet

flowdet.register()

# isort: split
from flowdet.engine.allocator import keep_freed_memory
from flowdet.engine.checkpoint import FlowDetCheckpointer
from flowdet.engine.config import load_config
from flowdet.engine.optimizer import build_optimizer
from flowdet.engine.resolve import resolve_config
from flowdet.engine.trainer import Trainer, evaluate
from flowdet.engine.whole_model import WholeModelCheckpointer, load_trained

__all__ = [
    "FlowDetCheckpointer",
    "Trainer",
    "WholeModelCheckpointer",
    "build_optimizer",
    "evaluate",
    "keep_freed_memory",
    "load_config",
    "load_trained",
    "resolve_config",
]
