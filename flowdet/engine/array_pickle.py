"""Reads pickles of numpy arrays, such as those of detectron2's model zoo, without their code."""

from __future__ import annotations

import math
import mmap
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from flowdet.engine.restricted_pickle import (
    CONTAINERS,
    MAX_DEPTH,
    MAX_OPERATIONS,
    Buildable,
    RestrictedUnpickler,
    are_sizes,
)

# kinds of numpy's dtypes: booleans, integers, floats
_KINDS = "biuf"


class _DType(Buildable):
    """numpy's dtype, with the state that a pickle gives it."""

    def __init__(self, code: str, *_: object):
        if not isinstance(code, str) or len(code) > 8 or np.dtype(code).kind not in _KINDS:
            raise pickle.UnpicklingError("it has an array of other values than numbers")
        self.dtype = np.dtype(code)

    def build(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("the type of an array is damaged")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(Buildable):
    """numpy's array, which the next operation of the pickle fills."""

    array: np.ndarray | None = None

    def build(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: object, dtype: object, shape: object, order: str = "C") -> np.ndarray:
    """Builds an array; Python 2 wrote its bytes as a text of latin-1."""
    if not isinstance(dtype, _DType) or not are_sizes(shape):
        raise pickle.UnpicklingError("an array is damaged")
    data = data.encode("latin-1") if isinstance(data, str) else data
    values = np.frombuffer(data, dtype.dtype) if data else np.zeros(0, dtype.dtype)
    if math.prod(shape) != values.size:
        raise pickle.UnpicklingError("an array is damaged: its shape does not fit its data")
    # a copy, because torch's tensors have to be writable
    return values.reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(dtype: object, data: object) -> np.ndarray:
    return _array(data, dtype, ())


class _ArrayUnpickler(RestrictedUnpickler):
    """Replaces numpy's functions, which can be made to write outside of their memory."""

    names = CONTAINERS | {
        "numpy.ndarray": _Array,
        "numpy.dtype": _DType,
        "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
        "numpy.core.multiarray.scalar": _scalar,
        "numpy.core.numeric._frombuffer": _array,
    }


def read_array_pickle(path: str | Path) -> object:
    """Reads a pickle of numpy arrays and plain containers, such as those of detectron2's model zoo.

    Args:
        path: path of the file; texts of Python 2 are read as latin-1.

    Returns:
        The content, of dicts, lists, tuples, numbers, texts, bytes and arrays.

    Raises:
        OSError: the file cannot be opened.
        pickle.UnpicklingError: the file contains anything else, or is damaged. Damaged files also
            raise other exceptions, as with `pickle.load`.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _Plain().convert(_ArrayUnpickler(content).load(), 0)


class _Plain:
    """Replaces the stand-ins of arrays in nested containers."""

    def __init__(self) -> None:
        # a list may contain another list, or itself, many times
        self._items = 0

    def convert(self, value: object, depth: int) -> Any:
        self._items += 1
        if depth > MAX_DEPTH or self._items > MAX_OPERATIONS:
            raise pickle.UnpicklingError("it is nested too deeply")
        if isinstance(value, dict):
            return {key: self.convert(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            kind = list if isinstance(value, list) else tuple
            return kind(self.convert(item, depth + 1) for item in value)
        if isinstance(value, _Array) and value.array is not None:
            return value.array
        if value is None or isinstance(value, (bool, int, float, str, bytes, np.ndarray)):
            return value
        raise pickle.UnpicklingError("it contains other objects than arrays")
