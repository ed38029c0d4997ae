"""Measures the memory of a training step over the number of blocks (5.2, B.4, Figure 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowdet.engine import build_optimizer
from flowdet.engine.config import with_keys
from flowdet.engine.model_builder import build_model
from flowdet.experiments.method_keys import MEMORY_METHODS
from flowdet.experiments.training_steps import (
    synthetic_batch,
    total_loss,
    train_step,
    without_feature_cache,
)


@dataclass
class StepMemory:
    """Memory of one training step, in bytes.

    Attributes:
        activation: peak of the tensors that are kept for the backward pass.
        parameter: parameters and buffers.
        gradient: gradients of the parameters.
        optimizer: state of the optimizer.
        peak: peak of the memory allocated on a GPU, which includes all of the above and temporary
            tensors; None on a CPU.
    """

    activation: int
    parameter: int
    gradient: int
    optimizer: int
    peak: int | None


class SavedBytes:
    """Counts the bytes of the tensors that autograd keeps for the backward pass.

    A storage that several autograd nodes keep is counted once. Tensors that gradient checkpointing
    recomputes in the backward pass are counted too. Parameters and buffers are not counted.

        with SavedBytes(model).counting() as saved:
            sum(model(batch).values()).backward()
        print(saved.peak)

    Attributes:
        live: the bytes that are kept at present, without recomputed tensors.
        peak: the largest number of bytes kept at the same time, with recomputed tensors.
    """

    def __init__(self, model: nn.Module):
        parameters = [*model.parameters(), *model.buffers()]
        self._ignored = {x.untyped_storage().data_ptr() for x in parameters}
        self._uses: dict[int, int] = {}
        self._recomputed: dict[int, tuple[StorageWeakRef, int]] = {}
        self.live = 0
        self.peak = 0

    @contextmanager
    def counting(self) -> Iterator[SavedBytes]:
        """Counts the tensors of the forward and backward passes inside this context."""
        hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor)
        with hooks, _RecomputationCounter(self):
            yield self

    def _pack(self, x: Tensor) -> _SavedTensor:
        pointer, size = x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()
        if pointer in self._ignored:
            return _SavedTensor(x, None, 0, 0)
        uses = self._uses.get(pointer, 0)
        self._uses[pointer] = uses + 1
        if not uses:
            self.live += size
            self.peak = max(self.peak, self.live)
        return _SavedTensor(x, self, pointer, size)

    def release(self, pointer: int, size: int) -> None:
        """Records that an autograd node has released the storage at `pointer`, of `size` bytes."""
        self._uses[pointer] -= 1
        if not self._uses[pointer]:
            del self._uses[pointer]
            self.live -= size

    def add_recomputed(self, x: Tensor) -> None:
        """Counts a tensor that checkpointing recomputed, which the autograd hooks do not see."""
        storage = x.untyped_storage()
        pointer = storage.data_ptr()
        alive = {p: entry for p, entry in self._recomputed.items() if not entry[0].expired()}
        if pointer not in self._ignored and pointer not in self._uses:
            alive[pointer] = (StorageWeakRef(storage), storage.nbytes())
        self._recomputed = alive
        self.peak = max(self.peak, self.live + sum(size for _, size in alive.values()))


class _SavedTensor:
    """A saved tensor that reports its release to the counter."""

    __slots__ = ("tensor", "_counter", "_pointer", "_size")

    def __init__(self, tensor: Tensor, counter: SavedBytes | None, pointer: int, size: int):
        self.tensor = tensor
        self._counter, self._pointer, self._size = counter, pointer, size

    def __del__(self):
        if self._counter:
            self._counter.release(self._pointer, self._size)


class _RecomputationCounter(TorchDispatchMode):
    """Counts the results of operations that gradient checkpointing recomputes.

    These are the operations inside a backward pass for which gradients are enabled.
    """

    def __init__(self, counter: SavedBytes):
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # -1 outside of a backward pass; the operations of the backward pass itself have no gradient
        if torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled():
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self.counter.add_recomputed(x)
        return result


def with_method(cfg: CfgNode, method: str, num_blocks: int) -> CfgNode:
    """Returns a copy of a flow config for a method and T blocks.

    Args:
        cfg: a flow config.
        method: a key of `MEMORY_METHODS`.
        num_blocks: T, at least 1.

    Raises:
        ValueError: the method is unknown, or `num_blocks` is below 1.
    """
    if method not in MEMORY_METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(MEMORY_METHODS)}")
    if num_blocks < 1:
        raise ValueError(f"the number of blocks T must be at least 1, got {num_blocks}")
    return with_keys(cfg, MEMORY_METHODS[method] | {"MODEL.FLOW_DET.NUM_BLOCKS": num_blocks})


def measure_step(cfg: CfgNode, batch_size: int) -> StepMemory:
    """Measures the memory of one training step on synthetic inputs.

    Args:
        cfg: a resolved config. Images have the size `INPUT.FIXED_SIZE`, or 256x256 if it is not
            set. The step runs on `MODEL.DEVICE`.
        batch_size: images in the step.
    """
    cfg = without_feature_cache(cfg)
    torch.manual_seed(max(cfg.SEED, 0))
    model = build_model(cfg).train()
    batch = synthetic_batch(cfg, batch_size)
    optimizer = build_optimizer(cfg, model)
    _create_optimizer_state(model, optimizer)
    with SavedBytes(model).counting() as saved:
        total_loss(model, batch, cfg.SOLVER.AMP.ENABLED).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    state = [x for values in optimizer.state.values() for x in values.values()]
    memory = StepMemory(
        activation=saved.peak,
        parameter=_bytes([*model.parameters(), *model.buffers()]),
        gradient=_bytes(gradients),
        optimizer=_bytes(x for x in state if isinstance(x, Tensor)),
        peak=None,
    )
    optimizer.zero_grad(set_to_none=True)
    del gradients, saved
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        train_step(model, batch, optimizer, cfg.SOLVER.AMP.ENABLED)
        memory.peak = torch.cuda.max_memory_allocated(model.device)
    return memory


def _create_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Creates the optimizer's state of all parameters, also of blocks that the schedule `alternate`
    does not train in the first iteration."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _bytes(tensors) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def memory_rows(
    cfg: CfgNode, methods: Sequence[str], blocks: Sequence[int], batch_sizes: Sequence[int]
) -> Iterator[dict]:
    """Measures every method with every number of blocks and every batch size.

    It yields rows of a result file, one by one.

    Args:
        cfg: a resolved flow config.
        methods: keys of `MEMORY_METHODS`.
        blocks: numbers of blocks T.
        batch_sizes: images per step.

    Raises:
        ValueError: a method is unknown, or a number is below 1.
    """
    # check all arguments before the first measurement
    variants = [
        (batch, method, count, with_method(cfg, method, count))
        for batch in batch_sizes
        for method in methods
        for count in blocks
    ]
    if min(batch_sizes, default=1) < 1:
        raise ValueError(f"a batch size must be at least 1, got {min(batch_sizes)}")
    for batch, method, count, variant in variants:
        memory = measure_step(variant, batch)
        row = {"method": method, "num_blocks": count, "batch_size": batch}
        for name, size in dataclasses.asdict(memory).items():
            if size is not None:
                yield row | {"metric": f"{name}_bytes", "mean": size, "std": None, "n": 1}


def slope_rows(rows: Sequence[dict]) -> list[dict]:
    """Fits the least-squares slope over T of the activations, and on a GPU of the peak memory.

    Returns:
        A row per method, batch size and metric; no row if there is only one T.
    """
    slopes = []
    for metric in ("activation_bytes", "peak_bytes"):
        for (batch, method), points in memory_lines(rows, metric).items():
            if len(points) > 1:
                name = {"method": method, "batch_size": batch, "metric": f"{metric}_per_block"}
                slope = round(np.polyfit(*zip(*points), 1)[0])
                slopes.append(name | {"mean": slope, "std": None, "n": len(points)})
    return slopes


def memory_lines(
    rows: Sequence[dict], metric: str = "activation_bytes"
) -> dict[tuple[int, str], list[tuple[int, int]]]:
    """Returns the points (T, bytes) of a metric, by (batch size, method)."""
    lines: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for row in rows:
        if row["metric"] == metric:
            key = (row["batch_size"], row["method"])
            lines.setdefault(key, []).append((row["num_blocks"], row["mean"]))
    return {key: sorted(points) for key, points in lines.items()}


def memory_figure(rows: Sequence[dict]) -> Figure:
    """Draws the activation memory over T, with one panel per batch size."""
    lines = memory_lines(rows)
    slopes = {
        (row["batch_size"], row["method"]): row["mean"]
        for row in slope_rows(rows)
        if row["metric"].startswith("activation")
    }
    batch_sizes = sorted({batch for batch, _ in lines})
    figure = Figure(figsize=(4.5 * len(batch_sizes), 3.6), layout="constrained")
    for axes, batch in zip(figure.subplots(1, len(batch_sizes), squeeze=False)[0], batch_sizes):
        for (line_batch, method), points in lines.items():
            if line_batch == batch:
                x, y = zip(*points)
                style = "--" if method == "flow_alternate" else "-"
                slope = slopes.get((batch, method), 0) / 2**20
                label = f"{method}: {slope:+.2f} MiB per block"
                axes.plot(x, np.array(y) / 2**20, style, marker="o", label=label)
        axes.set(
            title=f"batch size {batch}",
            xlabel="number of blocks T",
            ylabel="peak activations (MiB)",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
