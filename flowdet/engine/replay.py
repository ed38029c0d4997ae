"""Files with a training step: the batch, the weights and the states of the random generators.

A training writes one when a step is not finite. Every value can be loaded with `weights_only`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from flowdet.engine.atomic_file import write_atomically
from flowdet.engine.checkpoint_files import checksum_problem, tensor_bytes
from flowdet.engine.weight_files import read_weight_file
from flowdet.flow.errors import NonFiniteError

# an entry of a dict that stands for an object of detectron2
_KIND = "__kind__"
# numbers in the state of numpy's generator
_NUMPY_KEYS = 624


@dataclass
class SavedStep:
    """A training step.

    Attributes:
        model: the state dict of the model before the step.
        batch: the batch, see `plain`.
        generators: the states of the random generators, see `generator_states`.
        iteration: number of the iteration, from 0.
        losses: the losses by name, as far as they were computed.
        problem: what was not finite.
    """

    model: dict
    batch: list
    generators: dict
    iteration: int
    losses: dict[str, float]
    problem: str


# types of the values in a file
_KINDS = {
    "model": dict,
    "batch": list,
    "generators": dict,
    "iteration": int,
    "losses": dict,
    "problem": str,
}
# what states, batches and models raise for values of another form than that of a training
_OTHER_FORM = (
    *(ValueError, RuntimeError, LookupError, TypeError),
    *(AttributeError, AssertionError, OverflowError),
)


def save_step(path: Path, step: SavedStep) -> None:
    """Writes a step to a file.

    Raises:
        OSError: the file cannot be written.
    """
    content = {field.name: getattr(step, field.name) for field in fields(step)}
    write_atomically(path, lambda file: torch.save(content, file), tensor_bytes(content))


def load_step(path: str | Path) -> SavedStep:
    """Reads a file of `save_step`.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, or is another file.
    """
    content = read_weight_file(path)
    problem = checksum_problem(path)
    if problem:
        raise ValueError(f"{path} {problem}")
    names = {field.name for field in fields(SavedStep)}
    if not names <= content.keys():
        raise ValueError(
            f"{path} is not the file of a training step: give the file that the message of the "
            "stopped training names"
        )
    step = SavedStep(**{name: content[name] for name in names})
    bad = [name for name, kind in _KINDS.items() if not isinstance(getattr(step, name), kind)]
    if bad or not all(isinstance(x, float) for x in step.losses.values()):
        raise ValueError(f"{path} has a damaged training step ({(bad or ['losses'])[0]})")
    return step


def plain(value: object) -> object:
    """Converts a batch to tensors, numbers, texts, lists and dicts; other values become texts."""
    if isinstance(value, Tensor):
        # a view would be saved with the whole tensor
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Boxes):
        return {_KIND: "Boxes", "tensor": plain(value.tensor)}
    if isinstance(value, Instances):
        return {
            _KIND: "Instances",
            "image_size": list(value.image_size),
            "fields": plain(value.get_fields()),
        }
    if isinstance(value, dict):
        return {str(name): plain(x) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)


def from_plain(value: object) -> object:
    """Converts what `plain` returned to the objects of detectron2."""
    if isinstance(value, list):
        return [from_plain(x) for x in value]
    if not isinstance(value, dict):
        return value
    if value.get(_KIND) == "Boxes":
        return Boxes(value["tensor"])
    if value.get(_KIND) == "Instances":
        content = {name: from_plain(x) for name, x in value["fields"].items()}
        return Instances(tuple(value["image_size"]), **content)
    return {name: from_plain(x) for name, x in value.items()}


def generator_states() -> dict:
    """Returns the states of the generators of Python, numpy and torch, in this process."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generator_states(states: dict) -> None:
    """Sets the generators to what `generator_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    # numpy does not check it, and would read other memory
    if not 0 <= rest[0] <= _NUMPY_KEYS:
        raise ValueError(f"the position of numpy's generator is {rest[0]}")
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def repeat_step(model: nn.Module, step: SavedStep, amp: bool = False) -> dict[str, Tensor]:
    """Repeats the forward and the backward pass of a step.

    Args:
        model: a model of the config of the training. It gets the weights, and its parameters get
            the gradients.
        step: the step.
        amp: whether the pass uses float16 on the GPU, as with `SOLVER.AMP`.

    Returns:
        The losses by name.

    Raises:
        NonFiniteError, FloatingPointError: the model finds a prediction that is not finite.
        ValueError: the weights, the batch or the states do not fit the model.
    """
    try:
        model.load_state_dict(step.model)
        model.train()
        model.zero_grad()
        batch = from_plain(step.batch)
        set_generator_states(step.generators)
        with torch.autocast("cuda", enabled=amp):
            losses = model(batch)
        sum(losses.values()).backward()
    except (NonFiniteError, torch.OutOfMemoryError):
        raise
    except _OTHER_FORM as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"the step does not fit the model of the config: {lines[-1].strip()}"
        ) from error
    return {name: loss.detach() for name, loss in losses.items()}
