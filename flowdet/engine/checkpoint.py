"""Loads detectron2's, torchvision's and our own checkpoints, and says when it cannot."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Sequence

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flowdet.engine.hooks import average_of

_REINIT = "set MODEL.REINIT_CLASSES True to let their tensors start anew, for fine-tuning"

_TORCHVISION_NAMES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def is_torchvision_resnet(state: dict) -> bool:
    """Whether a state dict has the names of torchvision's ResNets."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state


def convert_torchvision_resnet(state: dict) -> dict:
    """A torchvision ResNet's state dict under detectron2's names.

    The classifier `fc` is left out. torchvision's weights expect RGB images scaled by
    `MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]` and `PIXEL_STD [58.395, 57.12, 57.375]`, and
    `MODEL.RESNETS.STRIDE_IN_1X1 False`.
    """
    converted = {}
    for name, value in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _TORCHVISION_NAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = value
    return converted


def is_torchvision_vit(state: dict) -> bool:
    """Whether a state dict has the names of torchvision's vision transformers."""
    return "class_token" in state and "encoder.pos_embedding" in state


def convert_torchvision_vit(state: dict) -> dict:
    """A torchvision vision transformer's state dict under the names of `ViTBackbone`.

    The classification head is left out.
    """
    return {
        f"backbone.vit.{name}": value
        for name, value in state.items()
        if not name.startswith("heads.")
    }


class FlowDetCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, for torchvision's ResNets and ViTs too, with clear errors.

    Args:
        model, save_dir: as of detectron2's.
        reinit_classes: leave out tensors that have other classes, or another number of them,
            than the model: they keep their initial values, with a warning that names them.
        class_names: of the model, saved with it; () neither saves nor compares them.
        checkpointables: what else is saved and loaded.

    Raises (from `load`):
        FileNotFoundError: the file is not there, or a zoo file cannot be downloaded.
        ValueError: it is no checkpoint, fits nothing in the model, or has other shapes.
    """

    def __init__(
        self, model, save_dir="", *, reinit_classes=False, class_names=(), **checkpointables
    ):
        super().__init__(model, save_dir, **checkpointables)
        self._reinit_classes = reinit_classes
        self._class_names = list(class_names)

    def save(self, name, **kwargs):
        super().save(
            name, **({"class_names": self._class_names} if self._class_names else {}), **kwargs
        )

    def load(self, path, *args, **kwargs):
        self._path = path
        if path and "://" not in path and not os.path.isfile(path.split("?")[0]):
            raise FileNotFoundError(f"there is no checkpoint {path} (MODEL.WEIGHTS)")
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:
            if "://" not in str(path):
                raise
            raise FileNotFoundError(
                f"{path} could not be downloaded ({error}). Give MODEL.WEIGHTS a local file, or "
                'MODEL.WEIGHTS "" to start from random weights'
            ) from error
        finally:
            # detectron2 leaves it set after an error, and then fails at the next file
            self._parsed_url_during_load = None

    def _load_file(self, filename):
        try:
            loaded = super()._load_file(filename)
        except (
            pickle.UnpicklingError,
            EOFError,
            LookupError,
            RuntimeError,
            TypeError,
        ) as error:
            # torch's explanation runs over many lines, with advice that does not fit here
            reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
            raise ValueError(f"{filename} is not a readable checkpoint ({reason})") from error
        state = loaded["model"]
        if not isinstance(state, dict):
            raise ValueError(f"{filename} holds a {type(state).__name__}, not a state dict")
        if is_torchvision_resnet(state):
            loaded["model"] = convert_torchvision_resnet(state)
            loaded["matching_heuristics"] = True
        elif is_torchvision_vit(state):
            loaded["model"] = convert_torchvision_vit(state)
        return loaded

    def _load_model(self, checkpoint):
        self._check_class_names(checkpoint)
        by_suffix = checkpoint.get("matching_heuristics", False)
        given = {name: tuple(np.shape(value)) for name, value in checkpoint["model"].items()}
        incompatible = super()._load_model(checkpoint)
        own = {
            name: tuple(value.shape)
            for name, value in self.model.state_dict().items()
            # those may be missing from a file without a word
            if not name.endswith("num_batches_tracked")
        }
        wrong = list(incompatible.incorrect_shapes)
        if by_suffix:
            # detectron2 leaves out what has another shape, with no more than a warning
            wrong += [
                (ours, given[name], shape)
                for name in incompatible.unexpected_keys
                for ours, shape in own.items()
                if name in given and ours.endswith(f".{name}")
            ]
        self._check_shapes(wrong)
        if own.keys() <= set(incompatible.missing_keys):
            raise ValueError(
                f"{self._path} holds none of the model's weights (its first names: "
                f"{incompatible.unexpected_keys[:3]})"
            )
        return incompatible

    def _check_class_names(self, checkpoint: dict) -> None:
        """Raises ValueError for as many classes of other names, unless they may start anew; the
        tensors of the classes are then taken out. Another number shows in the shapes."""
        there, here = checkpoint.get("class_names", []), self._class_names
        if self._reinit_classes and not there:
            logging.getLogger(__name__).warning(
                "%s does not say what its classes are called: only tensors of another number of "
                "classes start anew",
                self._path,
            )
        if not here or len(there) != len(here) or there == here:
            return
        differ = ", ".join(f"{a} (here {b})" for a, b in zip(there, here) if a != b)
        if not self._reinit_classes:
            raise ValueError(
                f"{self._path} has other classes, or another order of them: {differ}. {_REINIT}"
            )
        prefixes = tuple(getattr(self.model, "class_tensors", ()))
        taken_out = [name for name in checkpoint["model"] if name.startswith(prefixes)]
        for name in taken_out:
            del checkpoint["model"][name]
        logging.getLogger(__name__).warning(
            "%s has other classes, %s: these tensors start anew: %s",
            self._path,
            differ,
            ", ".join(taken_out),
        )

    def _check_shapes(self, wrong: list[tuple]) -> None:
        """Raises ValueError for tensors of another shape, (name, there, here), unless they are
        only those of other classes and may start anew."""
        if not wrong:
            return
        listed = ", ".join(f"{name} {there} (here {here})" for name, there, here in wrong[:6])
        prefixes = tuple(getattr(self.model, "class_tensors", ()))
        only_classes = all(
            name.startswith(prefixes) and tuple(there)[1:] == tuple(here)[1:]
            for name, there, here in wrong
        )
        if only_classes and self._reinit_classes:
            logging.getLogger(__name__).warning(
                "%s has other classes: these tensors start anew: %s", self._path, listed
            )
            return
        hint = (
            f"It has other classes: {_REINIT}"
            if only_classes
            else "Was it trained with another backbone (MODEL.RESNETS.*, MODEL.VIT.*), image size "
            "(INPUT.FIXED_SIZE, for a ViT), number of classes, queries or dimensions "
            "(MODEL.FLOW_DET.*, MODEL.FLOW_CLS.*)?"
        )
        raise ValueError(f"{self._path} does not fit the model: {listed}. {hint}")


class WholeModelCheckpointer(FlowDetCheckpointer):
    """Takes only weights of the whole model: a detector that starts from a backbone alone
    would run and find nothing.

    Raises (from `load`): also ValueError without a path.
    """

    def load(self, path, *args, **kwargs):
        if not path:
            raise ValueError("no weights are given: set MODEL.WEIGHTS to a trained checkpoint")
        return super().load(path, *args, **kwargs)

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        missing = {name for name, _ in self.model.named_parameters()} & {*incompatible.missing_keys}
        if missing:
            parts = ", ".join(sorted({name.split(".")[0] for name in missing}))
            raise ValueError(
                f"{self._path} lacks {len(missing)} of the model's weights (in {parts}): give the "
                "checkpoint that a training with this config wrote, not the one it started from"
            )
        return incompatible


def load_trained(
    cfg: CfgNode, model: nn.Module, path: str, class_names: Sequence[str] = ()
) -> AveragedModel | None:
    """Loads a training's checkpoint into its model, by `WholeModelCheckpointer`.

    Args:
        class_names: that the checkpoint must have, if it knows its own; () takes any.

    Returns:
        The average of the weights that the checkpoint holds; None without `SOLVER.EMA_DECAY`,
        or if it holds none.
    """
    if not cfg.SOLVER.EMA_DECAY:
        WholeModelCheckpointer(model, class_names=class_names).load(path)
        return None
    average = average_of(model, cfg.SOLVER.EMA_DECAY)
    WholeModelCheckpointer(model, class_names=class_names, ema=average).load(path)
    return average if int(average.n_averaged) else None
