"""Loads checkpoints of flowdet, detectron2 and torchvision, with clear errors."""

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

_REINIT = "set MODEL.REINIT_CLASSES True to initialize their tensors anew, for fine-tuning"

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
    """Renames the state dict of a torchvision ResNet to detectron2's names, without the classifier.

    torchvision's weights expect `INPUT.FORMAT RGB`, `MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]`,
    `MODEL.PIXEL_STD [58.395, 57.12, 57.375]` and `MODEL.RESNETS.STRIDE_IN_1X1 False`.
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
    """Renames the state dict of a torchvision vision transformer to the names of `ViTBackbone`,
    without the classification head."""
    return {
        f"backbone.vit.{name}": value
        for name, value in state.items()
        if not name.startswith("heads.")
    }


class FlowDetCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer. It also reads torchvision's ResNets and ViTs, and checks shapes
    and class names.

    Args:
        model, save_dir: as of detectron2's checkpointer.
        reinit_classes: tensors of the checkpoint that depend on the classes are left out if its
            classes differ from those of the model: the model keeps its initial values, and a
            warning names them.
        class_names: of the model. They are saved, and compared with those of the checkpoint. ()
            does neither.
        checkpointables: further objects to save and load.

    Raises (from `load`):
        FileNotFoundError: the file does not exist, or cannot be downloaded.
        ValueError: the file is not a checkpoint, holds no weights of the model, has tensors of
            other shapes, or has other classes.
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
                f"{path} could not be downloaded ({error}). Set MODEL.WEIGHTS to a local file, or "
                'to "" to start from random weights'
            ) from error
        finally:
            # detectron2 leaves it set after an error, and the next call would fail
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
            # the first sentence: torch adds many lines of advice that does not apply here
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
        loaded_shapes = {name: tuple(np.shape(x)) for name, x in checkpoint["model"].items()}
        incompatible = super()._load_model(checkpoint)
        mismatches = list(incompatible.incorrect_shapes)
        own = self.model.state_dict()
        if by_suffix:
            # detectron2 only warns of tensors of another shape, and leaves them out
            mismatches += [
                (name, loaded_shapes[suffix], tuple(tensor.shape))
                for suffix in incompatible.unexpected_keys
                for name, tensor in own.items()
                if suffix in loaded_shapes and name.endswith(f".{suffix}")
            ]
        self._check_shapes(mismatches)
        if _parameter_names(self.model) <= {*incompatible.missing_keys}:
            raise ValueError(
                f"{self._path} holds none of the model's weights: its first tensors are "
                f"{incompatible.unexpected_keys[:3]}"
            )
        return incompatible

    def _check_class_names(self, checkpoint: dict) -> None:
        """Compares the class names of the checkpoint with those of the model, if both have as many.
        (Another number of classes shows in the shapes.)

        If they differ, `reinit_classes` removes the tensors of the classes from the checkpoint.

        Raises:
            ValueError: they differ, and `reinit_classes` is off.
        """
        loaded, expected = checkpoint.get("class_names", []), self._class_names
        if self._reinit_classes and not loaded:
            logging.getLogger(__name__).warning(
                "%s does not contain class names: its tensors of the classes are initialized anew "
                "only if the number of classes differs",
                self._path,
            )
        if not expected or len(loaded) != len(expected) or loaded == expected:
            return
        pairs = zip(loaded, expected, strict=True)
        differences = ", ".join(f"{a} (model: {b})" for a, b in pairs if a != b)
        if not self._reinit_classes:
            raise ValueError(
                f"{self._path} has other classes than the model, or another order: {differences}. "
                f"{_REINIT}"
            )
        removed = [name for name in checkpoint["model"] if name.startswith(self._class_prefixes)]
        for name in removed:
            del checkpoint["model"][name]
        logging.getLogger(__name__).warning(
            "%s has other classes than the model, %s. Tensors that are initialized anew: %s",
            self._path,
            differences,
            ", ".join(removed),
        )

    def _check_shapes(self, mismatches: list[tuple]) -> None:
        """Checks tensors whose shapes differ, given as (name, shape in the checkpoint, shape in the
        model).

        Raises:
            ValueError: there are any, unless only the number of classes differs and
                `reinit_classes` is on.
        """
        if not mismatches:
            return
        listed = ", ".join(f"{name} {a} (model: {b})" for name, a, b in mismatches[:6])
        only_classes = all(
            name.startswith(self._class_prefixes) and tuple(a)[1:] == tuple(b)[1:]
            for name, a, b in mismatches
        )
        if only_classes and self._reinit_classes:
            logging.getLogger(__name__).warning(
                "%s has another number of classes than the model. Tensors that are initialized "
                "anew: %s",
                self._path,
                listed,
            )
            return
        hint = (
            f"It has another number of classes: {_REINIT}"
            if only_classes
            else "Was it trained with another backbone (MODEL.RESNETS.*, MODEL.VIT.*), image size "
            "(INPUT.FIXED_SIZE, for a ViT), number of classes, queries or dimensions "
            "(MODEL.FLOW_DET.*, MODEL.FLOW_CLS.*)?"
        )
        raise ValueError(f"{self._path} does not fit the model: {listed}. {hint}")

    @property
    def _class_prefixes(self) -> tuple[str, ...]:
        """Prefixes of the model's tensors whose shape depends on the number of classes."""
        return tuple(getattr(self.model, "class_tensors", ()))


def _parameter_names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


class WholeModelCheckpointer(FlowDetCheckpointer):
    """Loads only checkpoints that hold every weight of the model: with those of a backbone alone a
    detector would run and detect nothing.

    Raises (from `load`): as `FlowDetCheckpointer`, and
        ValueError: the path is empty, or weights are missing.
    """

    def load(self, path, *args, **kwargs):
        if not path:
            raise ValueError("no weights are given: set MODEL.WEIGHTS to a trained checkpoint")
        return super().load(path, *args, **kwargs)

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        missing = _parameter_names(self.model) & {*incompatible.missing_keys}
        if missing:
            parts = ", ".join(sorted({name.split(".")[0] for name in missing}))
            raise ValueError(
                f"{self._path} lacks {len(missing)} of the model's weights (in {parts}): use the "
                "checkpoint that a training with this config wrote, not the one it started from"
            )
        return incompatible


def load_trained(
    cfg: CfgNode, model: nn.Module, path: str, class_names: Sequence[str] = ()
) -> AveragedModel | None:
    """Loads the checkpoint of a training into its model with `WholeModelCheckpointer`.

    Args:
        class_names: must equal those of the checkpoint, if it has any; () accepts all.

    Returns:
        The moving average of the weights; None without `SOLVER.EMA_DECAY`, or if the checkpoint
        holds none.
    """
    if not cfg.SOLVER.EMA_DECAY:
        WholeModelCheckpointer(model, class_names=class_names).load(path)
        return None
    average = average_of(model, cfg.SOLVER.EMA_DECAY)
    WholeModelCheckpointer(model, class_names=class_names, ema=average).load(path)
    return average if int(average.n_averaged) else None
