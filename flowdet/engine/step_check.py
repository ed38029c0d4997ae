"""Ends a training at the first loss or gradient that is not finite, before the weights change."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.replay import SavedStep, generator_states, plain, save_step
from flowdet.flow.errors import NonFiniteError

# what a model or detectron2 raises for values that are not finite
NON_FINITE = (NonFiniteError, FloatingPointError)
# with AMP, a step with gradients that are not finite is skipped, and the loss scale is halved
MAX_SKIPPED_STEPS = 40
_LISTED = 5
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_BLOCK_SCALAR = re.compile(r"block(\d+)/")


class StepCheck(HookBase):
    """Checks the gradients of every step, and says which step was not finite.

    detectron2 reads the losses of every step, so the processor has already waited for the gradients
    when their norm is read. Register the hook with the inner trainer, which calls `after_backward`.

    Args:
        model: the model, without DistributedDataParallel.
        optimizer: its optimizer.
        folder: the folder of the run.
        amp: whether the training skips steps with gradients that are not finite (`SOLVER.AMP`).
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, folder: str, amp: bool = False
    ):
        self._model = model
        self._optimizer = optimizer
        self._folder = folder
        self._amp = amp
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # counters and means that the forward pass changes and that it may depend on
        saved = model.state_dict()
        self._counters = [
            name
            for name, buffer in model.named_buffers()
            if buffer.numel() == 1 and name in saved and not name.endswith("num_batches_tracked")
        ]
        self._skipped = 0
        self._forget()
        model.register_forward_pre_hook(self._remember_inputs)
        model.register_forward_hook(self._remember_losses)
        optimizer.register_step_pre_hook(self._check_gradients)

    def _forget(self) -> None:
        self._batch, self._generators, self._counts = None, None, {}
        self._losses: dict[str, Tensor] = {}
        self._norm: Tensor | None = None

    def _remember_inputs(self, model: nn.Module, inputs: tuple) -> None:
        if model.training:
            self._forget()
            self._batch, self._generators = inputs[0], generator_states()
            self._counts = {name: model.get_buffer(name).clone() for name in self._counters}

    def _remember_losses(self, model: nn.Module, inputs: tuple, losses: object) -> None:
        if model.training and isinstance(losses, dict):
            self._losses = {name: loss.detach() for name, loss in losses.items()}

    def after_backward(self):
        if self._amp:
            self._skipped += 1
            if self._skipped > MAX_SKIPPED_STEPS:
                raise NonFiniteError(
                    f"the gradients of {self._skipped} steps in a row are not finite in float16"
                )
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if gradients:
            self._norm = torch.stack(torch._foreach_norm(gradients)).sum()

    def _check_gradients(self, *_: object) -> None:
        """Called before the step of the optimizer; with AMP only if the gradients are finite."""
        self._skipped = 0
        norm, self._norm = self._norm, None
        # the norm of large finite gradients may overflow
        if norm is not None and not math.isfinite(norm.item()) and self._bad_gradients():
            raise NonFiniteError("gradients are not finite")

    def _bad_gradients(self) -> list[str]:
        return [
            name
            for name, p in self._model.named_parameters()
            if p.grad is not None and not bool(p.grad.isfinite().all())
        ]

    def report(self, error: Exception, iteration: int) -> str:
        """Writes the step to a file and describes it in one line.

        Args:
            error: one of `NON_FINITE`.
            iteration: number of the iteration.
        """
        losses = {name: float(loss) for name, loss in self._losses.items()}
        gradients = self._bad_gradients() if losses else []
        problem = _problem(error, losses, gradients)
        parts = [
            f"iteration {iteration}: {problem}",
            self._blocks(error, gradients, iteration),
            f"learning rate {self._learning_rates()}",
            f"images {_image_ids(self._batch)}",
            f"last good checkpoint {_last_checkpoint(self._folder)}",
        ]
        return (
            f"{'; '.join(filter(None, parts))}. The training has diverged, or an image or box is "
            "corrupt: lower SOLVER.BASE_LR, lengthen the warm-up (SOLVER.WARMUP_ITERS) or set "
            f"SOLVER.CLIP_GRADIENTS.ENABLED True. {self._save(iteration, losses, problem)}"
        )

    def _save(self, iteration: int, losses: dict[str, float], problem: str) -> str:
        if self._batch is None:
            return "The step was not saved"
        state = self._model.state_dict() | self._counts
        rank = f"_rank{comm.get_rank()}" if comm.get_world_size() > 1 else ""
        path = Path(self._folder, f"step_{iteration:07d}{rank}.pth")
        step = SavedStep(state, plain(self._batch), self._generators, iteration, losses, problem)
        try:
            save_step(path, step)
        except OSError as error:
            # the first problem is told nevertheless
            return f"The step was not saved: {error}"
        return f"--replay {path} repeats the step"

    def _blocks(self, error: Exception, gradients: list[str], iteration: int) -> str:
        """Names the blocks whose losses or gradients are not finite; "" if none is known."""
        block = getattr(error, "block", None)
        numbers = {block} if block is not None else _blocks_in_statistics(iteration)
        numbers = numbers or {int(found[1]) for x in gradients if (found := _BLOCK.search(x))}
        if not numbers:
            return ""
        listed = ", ".join(map(str, sorted(numbers)))
        return f"block {listed}" if len(numbers) == 1 else f"blocks {listed}"

    def _learning_rates(self) -> str:
        rates = sorted({group["lr"] for group in self._optimizer.param_groups})
        return ", ".join(f"{rate:.3g}" for rate in rates[-_LISTED:])


def _problem(error: Exception, losses: dict[str, float], gradients: list[str]) -> str:
    bad = [f"{name} is {loss}" for name, loss in losses.items() if not math.isfinite(loss)]
    if bad:
        return ", ".join(bad)
    if gradients:
        more = f" and {len(gradients) - _LISTED} more" if len(gradients) > _LISTED else ""
        return f"the gradients of {', '.join(gradients[:_LISTED])}{more} are not finite"
    return str(error).splitlines()[0].split(": ")[0]


def _blocks_in_statistics(iteration: int) -> set[int]:
    """Returns the blocks whose logged losses of an iteration are not finite."""
    if not has_event_storage():
        return set()
    return {
        int(found[1])
        for name, (value, i) in get_event_storage().latest().items()
        if i == iteration and not math.isfinite(value) and (found := _BLOCK_SCALAR.match(name))
    }


def _image_ids(batch: list[dict] | None) -> str:
    ids = [str(x.get("image_id", x.get("file_name", "?"))) for x in batch or []]
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return (", ".join(ids[:_LISTED]) or "unknown") + more


def _last_checkpoint(folder: str) -> str:
    try:
        return newest_checkpoint(folder) or "none"
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error)
        return "none"
