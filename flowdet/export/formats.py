"""Exported files: writing a graph as one, and running it again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowdet.export.graphs import Graph
from flowdet.export.suppression import onnx_translations

# images, uint8 [B, 3, H, W], and noise [B, ..., d] or None, to the outputs of the graph
Runner = Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]

# what torch.onnx writes by itself: another one would be converted from it
OPSET = 18
EXTRA_FILE = "flowdet.json"


def write_onnx(graph: Graph, path: Path, metadata: dict[str, str], noise_input: bool) -> None:
    """Writes a graph as an ONNX file with metadata.

    With `noise_input` it has a second input `noise`, [1, ..., d] or [B, ..., d], that need not be
    given: the graph's own noise is its default.
    """
    import onnx

    program, shapes = _trace(graph, [graph.noise] if noise_input else [])
    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            # by name, so that the file calls it so
            dynamic_shapes=shapes | {"images": {0: "batch"}},
            input_names=list(shapes),
            output_names=list(graph.outputs),
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    model = written.model_proto
    if noise_input:
        _make_optional(model.graph, graph.noise)
    onnx.helper.set_model_props(model, metadata)
    model.doc_string = graph.description
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def _make_optional(graph, noise: Tensor) -> None:
    """An initializer of an input's name is its default in ONNX. It is traced for one noise that is
    expanded to the batch, which ONNX's Expand also takes for one per image."""
    from onnx.numpy_helper import from_array

    graph.initializer.append(from_array(noise.numpy(), "noise"))
    (value,) = (x for x in graph.input if x.name == "noise")
    value.type.tensor_type.shape.dim[0].dim_param = "batch or 1"


def write_torch(graph: Graph, path: Path, metadata: dict[str, str], noise_input: bool) -> None:
    """Writes a graph by `torch.export.save`; the metadata lie in it as the extra file
    `flowdet.json`. With `noise_input` its second argument is noise, [B, ..., d]."""
    noise = [graph.initial_noise(2, None).contiguous()] if noise_input else []
    program, _ = _trace(graph, noise)
    torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(metadata, indent=1)})


@torch.no_grad()
def _trace(graph: Graph, noise: list[Tensor]) -> tuple[torch.export.ExportedProgram, dict]:
    """The program for batches of any size, and which sizes of its inputs are free."""
    # a batch of one would be taken for a constant
    images = torch.zeros(2, 3, *graph.size, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    shapes: dict = {"images": {0: batch}}
    if noise:
        shapes["noise"] = {0: batch} if len(noise[0]) > 1 else {}
    fast = torch.backends.mha.get_fastpath_enabled()
    # fused attention is one operator that no other runtime knows
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        program = torch.export.export(
            graph.eval(), (images, *noise), dynamic_shapes=shapes, strict=False
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return program, shapes


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for every operator that is not computed beforehand."""
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def open_onnx(path: Path) -> Runner:
    """An ONNX file as a function, by ONNX Runtime on the CPU, in as many threads as torch uses."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    # no warning that noise with a default is no constant
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        given = {"images": images} | ({} if noise is None else {"noise": noise})
        outputs = session.run(None, {name: np.asarray(x) for name, x in given.items()})
        return tuple(map(torch.from_numpy, outputs))

    return run


def open_torch(path: Path) -> Runner:
    """A file of `write_torch` as a function."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        return module(images) if noise is None else module(images, noise)

    return run


@dataclass(frozen=True)
class Format:
    """A kind of exported file.

    Attributes:
        suffix: of its files.
        packages: that it needs beside torch.
        write: see `write_onnx` and `write_torch`.
        open: a file as a function.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Graph, Path, dict[str, str], bool], None]
    open: Callable[[Path], Runner]

    def check_packages(self) -> None:
        """Raises ValueError, saying what to install, if one is missing."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise ValueError(
                f"{self.suffix} files need {', '.join(missing)}: pip install {' '.join(missing)}"
            )


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, open_onnx),
    "torch": Format(".pt2", (), write_torch, open_torch),
}
