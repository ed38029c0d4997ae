"""Checks the pickles of `torch.save`, before torch reads them.

`torch.load(weights_only=True)` runs no code, but some files make it hash without end, or end the
process.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
from collections.abc import Callable
from typing import Any

import torch

from flowdet.engine.restricted_pickle import CONTAINERS, Global, RestrictedUnpickler, are_sizes

# a larger tensor must not repeat its data (strides of 0)
MAX_EXPANDED = 2**20


class _Storage:
    """The memory of tensors: its size in bytes, and that of an element."""

    def __init__(self, nbytes: int, itemsize: int):
        self.nbytes, self.itemsize = nbytes, itemsize


class _Tensor:
    """Stands for a tensor."""


def _refuse_call(*_: object) -> None:
    raise pickle.UnpicklingError("it creates a storage without data")


def _rebuilt_tensor(
    storage: object, offset: int, size: tuple, stride: tuple, *more: Any
) -> _Tensor:
    has_hooks = any(isinstance(x, dict) and x for x in more)
    is_valid = are_sizes((offset,)) and are_sizes(size) and are_sizes(stride)
    if not isinstance(storage, _Storage) or has_hooks or not is_valid:
        raise pickle.UnpicklingError("a tensor is damaged")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last + 1) * storage.itemsize > storage.nbytes:
        raise pickle.UnpicklingError("a tensor is larger than its data in the file")
    if count > max(MAX_EXPANDED, storage.nbytes):
        raise pickle.UnpicklingError("a tensor repeats its data too often")
    return _Tensor()


def _rebuilt_tensor_of_type(
    storage: object,
    offset: int,
    size: tuple,
    stride: tuple,
    grad: object,
    hooks: object,
    dtype: Global,
    *more: Any,
) -> _Tensor:
    """A tensor whose storage has no type."""
    typed = _Storage(storage.nbytes, getattr(torch, dtype.name.rpartition(".")[2]).itemsize)
    return _rebuilt_tensor(typed, offset, size, stride, grad, hooks, *more)


def _rebuilt_parameter(tensor: object, _: object, hooks: object = None) -> _Tensor:
    if not isinstance(tensor, _Tensor) or hooks:
        raise pickle.UnpicklingError("a parameter is damaged")
    return tensor


# bytes of an element
_STORAGES = {
    "torch.storage.UntypedStorage": 1,
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.CharStorage": 1,
    "torch.ShortStorage": 2,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.IntStorage": 4,
    "torch.FloatStorage": 4,
    "torch.LongStorage": 8,
    "torch.DoubleStorage": 8,
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
}
_TENSOR_FUNCTIONS = {
    "torch._utils._rebuild_tensor": _rebuilt_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuilt_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuilt_tensor_of_type,
    "torch._utils._rebuild_parameter": _rebuilt_parameter,
    "torch.Size": lambda size: size,
    "torch.device": lambda *_: None,
    "torch.serialization._get_layout": lambda *_: None,
    "builtins.complex": lambda *_: None,
}


class TensorPickleCheck(RestrictedUnpickler):
    """Checks a pickle of `torch.save`: `load` raises an error if it is not one of plain tensors.

    Args:
        file: the pickle.
        storage_size: returns the size in bytes of the data of a storage, by its key.
    """

    names = CONTAINERS | _TENSOR_FUNCTIONS

    def __init__(self, file: io.BytesIO | mmap.mmap, storage_size: Callable[[str], int]):
        super().__init__(file)
        # of pickle protocols that torch does not read
        for name in ("FRAME", "MEMOIZE", "STACK_GLOBAL"):
            del self.dispatch[getattr(pickle, name)[0]]
        self._storage_size = storage_size

    def find_class(self, module: str, name: str) -> Global:
        full = f"{module}.{name}"
        if full in _STORAGES or (
            module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)
        ):
            return Global(full, _refuse_call)
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            return super().persistent_load(pid)
        _, kind, key, _, count = pid[:5]
        if not isinstance(key, str) or not are_sizes((count,)):
            raise pickle.UnpicklingError("a tensor is damaged")
        itemsize = _STORAGES[kind.name]
        nbytes = count * itemsize
        if nbytes > self._storage_size(key):
            raise pickle.UnpicklingError("a tensor is larger than its data in the file")
        return _Storage(nbytes, itemsize)
