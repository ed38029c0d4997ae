"""The file formats of exported models: writes graphs to files and runs the files."""

from __future__ import annotations

import io
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
from flowdet.export.suffixes import SUFFIXES
from flowdet.export.suppression import onnx_translations

# A function that runs a file. It takes images, uint8 [B, 3, H, W], and noise, [B, ..., d] or None,
# and returns the outputs of the graph.
Runner = Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]

# the opset that torch.onnx writes without a conversion
OPSET = 18
EXTRA_FILE = "flowdet.json"


def write_onnx(graph: Graph, path: Path, metadata: dict[str, str], noise_input: bool) -> None:
    """Writes a graph as an ONNX file.

    Args:
        graph: the graph.
        path: the path of the file.
        metadata: strings by key, stored as the model's properties.
        noise_input: whether to add an optional second input `noise`, [1, ..., d] or [B, ..., d],
            whose default is the noise of the graph.
    """
    import onnx

    program, shapes = _trace(graph, [graph.noise] if noise_input else [])
    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            # a string becomes the name of the dynamic dimension in the file
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
    """Gives the input `noise` of an ONNX graph a default: an initializer of the same name.

    The graph was traced with noise [1, ..., d] that is expanded to the batch; ONNX's Expand also
    accepts [B, ..., d].
    """
    from onnx.numpy_helper import from_array

    graph.initializer.append(from_array(noise.numpy(), "noise"))
    (value,) = (x for x in graph.input if x.name == "noise")
    value.type.tensor_type.shape.dim[0].dim_param = "batch or 1"


def write_torch(graph: Graph, path: Path, metadata: dict[str, str], noise_input: bool) -> None:
    """Writes a graph with `torch.export.save`.

    Args:
        graph: the graph.
        path: the path of the file.
        metadata: strings by key, stored as JSON in the extra file `flowdet.json`.
        noise_input: whether the program takes noise [B, ..., d] as its second argument.
    """
    noise = [graph.initial_noise(2, None).contiguous()] if noise_input else []
    program, _ = _trace(graph, noise)
    # not to the file: on a full disk, torch's writer would abort the program
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={EXTRA_FILE: json.dumps(metadata, indent=1)})
    path.write_bytes(content.getbuffer())


@torch.no_grad()
def _trace(graph: Graph, noise: list[Tensor]) -> tuple[torch.export.ExportedProgram, dict]:
    """Traces a graph for batches of any size.

    Args:
        graph: the graph.
        noise: an example of the noise input; empty for a graph without this input.

    Returns:
        The program, and the dynamic dimensions of each input.
    """
    # torch.export treats a dimension of size 1 as a constant
    images = torch.zeros(2, 3, *graph.size, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    shapes: dict = {"images": {0: batch}}
    if noise:
        shapes["noise"] = {0: batch} if len(noise[0]) > 1 else {}
    fast = torch.backends.mha.get_fastpath_enabled()
    # the fused attention operator does not exist in other runtimes
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
    """Suppresses the optimizer's warnings about operators that it does not fold to constants."""
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def open_onnx(path: Path) -> Runner:
    """Opens an ONNX file in ONNX Runtime on the CPU, with the number of threads of torch."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    # errors only, because ONNX Runtime warns about an input with a default
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        inputs = {"images": images} | ({} if noise is None else {"noise": noise})
        outputs = session.run(None, {name: np.asarray(x) for name, x in inputs.items()})
        return tuple(map(torch.from_numpy, outputs))

    return run


def open_torch(path: Path) -> Runner:
    """Opens a file of `write_torch`."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        return module(images) if noise is None else module(images, noise)

    return run


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        suffix: the suffix of its files.
        packages: the packages that it needs in addition to torch.
        write: writes a graph to a file, see `write_onnx` and `write_torch`.
        open: opens a file as a `Runner`.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Graph, Path, dict[str, str], bool], None]
    open: Callable[[Path], Runner]

    def check_packages(self) -> None:
        """Checks that the packages are installed.

        Raises:
            ValueError: a package is missing; the message says how to install it.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise ValueError(
                f"{self.suffix} files need {', '.join(missing)}: pip install {' '.join(missing)}"
            )


FORMATS = {
    "onnx": Format(SUFFIXES["onnx"], ("onnx", "onnxscript", "onnxruntime"), write_onnx, open_onnx),
    "torch": Format(SUFFIXES["torch"], (), write_torch, open_torch),
}
