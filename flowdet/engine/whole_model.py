"""Loads the checkpoint of a training into its whole model, for inference and evaluation."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flowdet.config.config_files import config_path
from flowdet.config.errors import ConfigError
from flowdet.engine.checkpoint import FlowDetCheckpointer, parameter_names
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.hooks import average_of


class NotTrainedError(ValueError):
    """The weights are not those of a training of the model.

    Args:
        message: the message.
        weights: path of the weights; "" for none.
    """

    def __init__(self, message: str, weights: str = ""):
        super().__init__(message)
        self.weights = weights


class NoWeightsError(NotTrainedError, ConfigError):
    """No weights are given."""


@contextlib.contextmanager
def checkpoint_beside(config_file: str, option: str) -> Iterator[None]:
    """Adds the checkpoint in the folder of a config to the error that trained weights are missing.

    Args:
        config_file: path or name of the config.
        option: the option or key that takes the checkpoint.

    Raises:
        NotTrainedError: the one of the block.
    """
    try:
        yield
    except NotTrainedError as error:
        checkpoint = ""
        # all of them are damaged
        with contextlib.suppress(ValueError):
            checkpoint = newest_checkpoint(Path(config_path(config_file)).parent)
        if not checkpoint:
            raise
        if os.path.isfile(error.weights) and os.path.samefile(checkpoint, error.weights):
            raise
        advice = f"give {option} {shlex.quote(checkpoint)}, from the folder of the config"
        raise type(error)(f"{error}; {advice}", error.weights) from error


class WholeModelCheckpointer(FlowDetCheckpointer):
    """Loads only checkpoints that contain all weights that inference with the model uses.

    With the weights of a backbone alone, a detector would run and detect nothing. The tensors that
    only training uses are loaded if they fit, without a message if they do not.

    Raises (from `load`):
        FileNotFoundError, ValueError: as `FlowDetCheckpointer`.
        NotTrainedError: the path is empty, or weights are missing.
        ValueError: a checkpoint of flowdet has weights that inference with the model does not use.
    """

    _other_classes_hint = (
        "use the config.yaml that its training wrote, and datasets with the same classes"
    )

    def load(self, path, *args, **kwargs):
        if not path:
            raise NoWeightsError("no weights are given: set MODEL.WEIGHTS to a trained checkpoint")
        return super().load(path, *args, **kwargs)

    def _load_model(self, checkpoint):
        self._fit_training_tensors(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        for names in (incompatible.missing_keys, incompatible.unexpected_keys):
            names[:] = [name for name in names if not name.startswith(self._training_prefixes)]
        missing = parameter_names(self.model) & {*incompatible.missing_keys}
        if missing:
            parts = ", ".join(sorted({name.split(".")[0] for name in missing}))
            raise NotTrainedError(
                f"{self._path} lacks {len(missing)} of the model's weights (in {parts}): use the "
                "checkpoint that a training with this config wrote, not the one it started from",
                str(self._path),
            )
        # files of other programs may have any tensors
        if incompatible.unexpected_keys and checkpoint.get("class_names"):
            names = incompatible.unexpected_keys
            raise ValueError(
                f"{self._path} has {len(names)} weights that the model does not use, such as "
                f"{names[0]}: the config differs from that of its training, for example in the "
                "number of blocks. Use the config.yaml that its training wrote"
            )
        self._fit_average(checkpoint)
        return incompatible

    @property
    def _training_prefixes(self) -> tuple[str, ...]:
        """The prefixes of the model's tensors that only training uses."""
        return tuple(getattr(self.model, "training_tensors", ()))

    def _fit_training_tensors(self, state: dict) -> None:
        """Removes tensors that only training uses and whose shape differs from the model's."""
        for name, own in self.model.state_dict().items():
            if name.startswith(self._training_prefixes) and name in state:
                if np.shape(state[name]) != own.shape:
                    del state[name]

    def _fit_average(self, checkpoint: dict) -> None:
        """Gives the averaged weights of a checkpoint the names of the model's tensors.

        Tensors that the average lacks or has with another shape are those of the model.

        Raises:
            ValueError: inference uses such a tensor.
        """
        average = self.checkpointables.get("ema")
        if average is None or "ema" not in checkpoint:
            return
        own, state = average.state_dict(), checkpoint["ema"]
        fitting = {n: state[n] for n, x in own.items() if n in state and state[n].shape == x.shape}
        needed = {
            f"module.{name}"
            for name in parameter_names(self.model)
            if not name.startswith(self._training_prefixes)
        }
        # tensors of another shape are in the model too, where `_check_shapes` reports them
        missing = needed - {*state}
        if missing:
            raise ValueError(
                f"{self._path} lacks {len(missing)} of the model's averaged weights, such as "
                f"{min(missing)}: use the config of its training, or set SOLVER.EMA_DECAY 0"
            )
        checkpoint["ema"] = own | fitting


def load_trained(
    cfg: CfgNode, model: nn.Module, path: str, class_names: Sequence[str] = ()
) -> AveragedModel | None:
    """Loads the checkpoint of a training into its model.

    Args:
        cfg: the config of the training.
        model: the model, in place.
        path: path of the checkpoint.
        class_names: must equal the names in the checkpoint, if it has any; () accepts all names.

    Returns:
        The moving average of the weights; None without `SOLVER.EMA_DECAY`, or if the checkpoint
        does not contain it.

    Raises:
        FileNotFoundError, ValueError: as `WholeModelCheckpointer`.
    """
    if not cfg.SOLVER.EMA_DECAY:
        WholeModelCheckpointer(model, class_names=class_names).load(path)
        return None
    average = average_of(model, cfg.SOLVER.EMA_DECAY)
    WholeModelCheckpointer(model, class_names=class_names, ema=average).load(path)
    return average if int(average.n_averaged) else None
