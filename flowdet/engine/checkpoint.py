"""Saves checkpoints, and loads those of flowdet and the ResNets of other programs."""

from __future__ import annotations

import logging
import os
from http.client import HTTPException
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import nn

from flowdet.engine.checkpoint_files import checksum_problem, newest_checkpoint, write_checkpoint
from flowdet.engine.downloads import quiet_downloads
from flowdet.engine.trunks import PixelForm, Trunk, check_fit, expected_form, find_trunk
from flowdet.engine.weight_files import check_url, read_weight_file

# a message names at most this many tensors
_LISTED = 3
_REINIT = "set MODEL.REINIT_CLASSES True to reinitialize their tensors, for fine-tuning"


def is_torchvision_vit(state: dict) -> bool:
    """Returns whether a state dict has the tensor names of torchvision's vision transformers."""
    return "class_token" in state and "encoder.pos_embedding" in state


def convert_torchvision_vit(state: dict) -> dict:
    """Renames the tensors of a torchvision vision transformer to the names of `ViTBackbone`.

    The classification head is dropped.
    """
    return {
        f"backbone.vit.{name}": value
        for name, value in state.items()
        if not name.startswith("heads.")
    }


def check_weights_exist(path: str) -> None:
    """Checks the path or URL of a checkpoint.

    Raises:
        FileNotFoundError: it is a local file that does not exist.
        ValueError: see `check_url`.
    """
    check_url(path)
    if path and "://" not in path and not os.path.isfile(path.split("?")[0]):
        raise FileNotFoundError(f"there is no checkpoint {path} (MODEL.WEIGHTS)")


class FlowDetCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, which also loads the ResNets in checkpoints of other models.

    It writes a checkpoint as a whole or not at all, and never one with weights that are not finite.

    Other models are those of torchvision, timm, DETR, MMDetection and detectron2's detectors, and
    torchvision's ViTs. It checks the shapes of the tensors, and the class names.

    Args:
        model, save_dir: see detectron2's checkpointer.
        reinit_classes: if the classes of a checkpoint differ from those of the model, do not load
            the tensors that depend on the classes. The model keeps its initial values, and a
            warning names the tensors.
        class_names: names of the model's classes. They are saved in checkpoints, and compared with
            the names in a loaded checkpoint. () turns both off.
        category_ids: the category ids of the classes, which are saved in checkpoints; () for none.
        checkpointables: further objects to save and load.

    Attributes:
        datasets: the `dataset_versions` of the training, which are saved in checkpoints.

    Raises (from `load`):
        FileNotFoundError: the file does not exist, or cannot be downloaded.
        ValueError: the file is not a checkpoint, contains no weights of the model, or has tensors
            of other shapes, of other classes or with values that are not finite.
    """

    _other_classes_hint = _REINIT

    def __init__(
        self,
        model,
        save_dir="",
        *,
        reinit_classes=False,
        class_names=(),
        category_ids=(),
        **checkpointables,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self._reinit_classes = reinit_classes
        self._class_names = list(class_names)
        self._category_ids = list(category_ids)
        self.datasets: dict[str, str] = {}

    def save(self, name, **kwargs):
        """Like detectron2's method, but a stop or a full disk leaves no partial file.

        Raises:
            FloatingPointError, OSError: see `write_checkpoint`.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        notes = {"class_names": self._class_names, "category_ids": self._category_ids}
        notes["datasets"] = self.datasets
        content = {"model": self.model.state_dict()}
        content |= {key: x.state_dict() for key, x in self.checkpointables.items()}
        content |= {key: x for key, x in notes.items() if x} | kwargs
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(path, content)

    def has_checkpoint(self):
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self):
        """Returns the newest undamaged checkpoint, see `newest_checkpoint`; "" without any."""
        return newest_checkpoint(self.save_dir) if self.save_dir else ""

    def load(self, path, *args, **kwargs):
        self._path = path
        check_weights_exist(path)
        try:
            with quiet_downloads():
                rest = super().load(path, *args, **kwargs)
            self._check_finite(path)
            return rest
        except AssertionError as error:
            # it is not a file: detectron2 leaves line breaks and a query out, and opens few URLs
            raise FileNotFoundError(
                f"{path} cannot be opened: MODEL.WEIGHTS must be a file whose path has no ? and no "
                "control characters, or a URL that begins with http:// or https://"
            ) from error
        except (OSError, HTTPException) as error:
            if "://" not in str(path):
                raise
            raise FileNotFoundError(
                f"{path} could not be downloaded ({error}). Set MODEL.WEIGHTS to a local file, or "
                'to "" to start from random weights'
            ) from error
        except torch.OutOfMemoryError:
            raise
        # the state of an optimizer or a scheduler can have any form in the file of somebody else
        except (RuntimeError, LookupError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise ValueError(
                f"{path} does not fit the training ({reason[:200]}): use a checkpoint of the same "
                "config, or start anew with it as MODEL.WEIGHTS"
            ) from error
        finally:
            # detectron2 does not reset this after an error, and the next call would fail
            self._parsed_url_during_load = None

    def _check_finite(self, path: str) -> None:
        """Checks the model after loading, and its moving average.

        Raises:
            ValueError: a value is not finite. A detector would silently detect nothing.
        """
        models = [self.model, self.checkpointables.get("ema")] if path else []
        bad = []
        for model in models:
            if isinstance(model, nn.Module):
                bad += [n for n, x in model.named_parameters() if not bool(x.isfinite().all())]
                # a buffer may be infinite, such as a mask
                bad += [n for n, x in model.named_buffers() if bool(x.isnan().any())]
        if bad:
            more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
            raise ValueError(
                f"{path} has weights that are NaN or infinite ({', '.join(bad[:_LISTED])}{more}): "
                "use a checkpoint from before its training diverged"
            )

    def _load_file(self, filename):
        # not detectron2's method, which runs the code in pickles
        loaded = read_weight_file(filename)
        # other programs may leave the checksums out, so this is no error
        problem = checksum_problem(filename)
        if problem:
            self.logger.warning("%s %s: its numbers may be wrong", filename, problem)
        options = parse_qs(urlsplit(str(self._path)).query)
        if options.pop("matching_heuristics", None) == ["True"]:
            loaded["matching_heuristics"] = True
        if options:
            raise ValueError(f"{self._path}: a checkpoint has no option {min(options)!r}")
        if is_torchvision_vit(loaded["model"]):
            loaded["model"] = convert_torchvision_vit(loaded["model"])
        return loaded

    def _load_model(self, checkpoint):
        self._use_trunk(checkpoint)
        self._check_class_names(checkpoint)
        by_suffix = checkpoint.get("matching_heuristics", False)
        loaded_shapes = {name: tuple(np.shape(x)) for name, x in checkpoint["model"].items()}
        incompatible = super()._load_model(checkpoint)
        mismatches = list(incompatible.incorrect_shapes)
        own = self.model.state_dict()
        if by_suffix:
            # detectron2 does not load tensors of another shape, and only logs a warning
            mismatches += [
                (name, loaded_shapes[suffix], tuple(tensor.shape))
                for suffix in incompatible.unexpected_keys
                for name, tensor in own.items()
                if suffix in loaded_shapes and name.endswith(f".{suffix}")
            ]
        self._check_shapes(mismatches)
        if parameter_names(self.model) <= {*incompatible.missing_keys}:
            raise ValueError(
                f"{self._path} contains none of the model's weights: its first tensors are "
                f"{incompatible.unexpected_keys[:3]}. Set MODEL.WEIGHTS to a checkpoint with the "
                "same backbone (MODEL.BACKBONE.NAME)"
            )
        return incompatible

    def _use_trunk(self, checkpoint: dict) -> None:
        """Renames the ResNet in the checkpoint of another model to the names in this model.

        The other tensors of that checkpoint are removed. One log message says what is used and what
        is not. The checkpoint is changed in place.

        Raises:
            ValueError: the ResNet does not fit the model's.
        """
        own_state = self.model.state_dict()
        try:
            own = find_trunk(own_state)
        except ValueError:
            # a model with several ResNets: the names must be those of the model
            return
        author = checkpoint.get("__author__", "")
        if author == "Caffe2":
            self._convert_ndarray_to_tensor(checkpoint["model"])
            state, _ = convert_c2_detectron_names(checkpoint["model"])
        else:
            state = checkpoint["model"] = _without_wrapper(checkpoint["model"], own_state, own)
        if own is None:
            return
        # a checkpoint of the same kind of model
        is_same_model = _other_names(own_state, own) & {*state}
        try:
            trunk = find_trunk(state)
            if trunk is None:
                return
            check_fit(trunk, own, author)
        except ValueError as error:
            raise ValueError(f"{self._path} does not fit the model: {error}") from error
        if is_same_model:
            return
        # such as the feature pyramid of detectron2's detectors
        shared = {name: value for name, value in state.items() if name in own_state}
        checkpoint["model"] = shared | {
            own.prefix + name: value for name, value in trunk.tensors.items() if name in own.tensors
        }
        checkpoint.pop("matching_heuristics", None)
        self._log_trunk(trunk, [name for name in trunk.other if name not in shared])
        self._compare_pixels(expected_form(trunk, state, author), _pixel_form(self.model, own))

    def _compare_pixels(self, expected: PixelForm | None, actual: PixelForm) -> None:
        """Warns if the backbone was trained with other pixels or strides than the config has."""
        differing = expected.differences(actual) if expected and actual.mean else ""
        if differing:
            logging.getLogger(__name__).warning(
                "%s was trained with other pixels or strides than the config has: set %s",
                self._path,
                differing,
            )

    def _log_trunk(self, trunk: Trunk, unused: list[str]) -> None:
        """Logs that a ResNet initializes the backbone, and which tensors are not used."""
        parts = ", ".join(sorted({name.split(".")[0] for name in unused}))
        logging.getLogger(__name__).info(
            "%s: its %s (%s*) initializes the backbone%s",
            self._path,
            trunk,
            trunk.prefix,
            f"; {len(unused)} other tensors are not used ({parts})" if unused else "",
        )

    def _check_class_names(self, checkpoint: dict) -> None:
        """Compares the class names of the checkpoint with those of the model.

        If they differ, `reinit_classes` removes the class-dependent tensors from the checkpoint.
        Names are compared only if there are equally many: another number of classes changes
        shapes, which `_check_shapes` compares.

        Raises:
            ValueError: the names differ, and `reinit_classes` is off.
        """
        loaded, expected = checkpoint.get("class_names", []), self._class_names
        if self._reinit_classes and not loaded:
            logging.getLogger(__name__).warning(
                "%s does not contain class names: class-dependent tensors are reinitialized only "
                "if the number of classes differs",
                self._path,
            )
        if not expected or len(loaded) != len(expected) or loaded == expected:
            return
        pairs = zip(loaded, expected, strict=True)
        differences = ", ".join(f"{a} (model: {b})" for a, b in pairs if a != b)
        if not self._reinit_classes:
            raise ValueError(
                f"{self._path} has other classes than the model, or another order: {differences}. "
                f"{self._other_classes_hint}"
            )
        removed = [name for name in checkpoint["model"] if name.startswith(self._class_prefixes)]
        for name in removed:
            del checkpoint["model"][name]
        logging.getLogger(__name__).warning(
            "%s has other classes than the model, %s. Tensors that are reinitialized: %s",
            self._path,
            differences,
            ", ".join(removed),
        )

    def _check_shapes(self, mismatches: list[tuple]) -> None:
        """Handles tensors whose shapes differ.

        Args:
            mismatches: (name, shape in the checkpoint, shape in the model) of each such tensor.

        Raises:
            ValueError: there are such tensors, unless only the number of classes differs and
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
                "%s has another number of classes than the model. Tensors that are reinitialized: "
                "%s",
                self._path,
                listed,
            )
            return
        hint = (
            f"It has another number of classes: {self._other_classes_hint}"
            if only_classes
            else "Use the config of its training: it probably has another backbone "
            "(MODEL.RESNETS.*, MODEL.VIT.*), image size (INPUT.FIXED_SIZE, for a ViT), number of "
            "classes, queries or dimensions (MODEL.FLOW_DET.*, MODEL.FLOW_CLS.*)"
        )
        raise ValueError(f"{self._path} does not fit the model: {listed}. {hint}")

    @property
    def _class_prefixes(self) -> tuple[str, ...]:
        """The prefixes of the model's tensors whose shape depends on the number of classes."""
        return tuple(getattr(self.model, "class_tensors", ()))


def _without_wrapper(state: dict, own_state: dict, own: Trunk | None) -> dict:
    """Removes the prefix of a program that wraps models, such as "model." or "_orig_mod.".

    Args:
        state: the state dict of a checkpoint.
        own_state: the state dict of the model.
        own: the ResNet in it; None for another backbone.
    """
    for first in sorted(_other_names(own_state, own)):
        prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
        if first not in state and len(prefixes) == 1:
            return {name.removeprefix(prefixes[0]): value for name, value in state.items()}
    return state


def _other_names(own_state: dict, own: Trunk | None) -> set[str]:
    """Returns the names of the model's tensors that are not in its backbone."""
    backbone = ("backbone.", own.prefix) if own and own.prefix else "backbone."
    return {name for name in own_state if not name.startswith(backbone)}


def _pixel_form(model: nn.Module, own: Trunk) -> PixelForm:
    """Returns the form of pixels that the config gives to the ResNet of a model."""
    if not hasattr(model, "pixel_mean"):
        return PixelForm("", (), (), None)
    mean, std = model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()
    stride = None
    # the first block of res3 halves the size of the feature map, in one of two convolutions
    if own.has_bottlenecks and len(own.blocks) > 1:
        stride = model.get_submodule(f"{own.prefix}res3")[0].conv1.stride != (1, 1)
    return PixelForm("", tuple(mean), tuple(std), stride)


def parameter_names(model: nn.Module) -> set[str]:
    """Returns the names of the parameters of a model."""
    return {name for name, _ in model.named_parameters()}
