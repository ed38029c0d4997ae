"""An unpickler that runs none of the code that a pickle may contain.

The pickle format can name any function, and Python's `pickle.load` calls it. This unpickler builds
numbers, texts, lists, tuples and dicts, and refuses every other name; subclasses add stand-ins for
arrays and tensors. It also refuses what needs unbounded time or memory: too many operations, and
deeply nested tuples, which Python hashes recursively (that ends the process).
"""

from __future__ import annotations

import io
import mmap
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

# a checkpoint has some thousands of tensors, of 30 operations each
MAX_OPERATIONS = 1_000_000
MAX_DEPTH, MAX_TUPLE_SIZE = 8, 10_000
MAX_DIMENSIONS, MAX_NUMBER = 64, 2**63

_OPERATIONS = (
    *("APPEND", "APPENDS", "BINBYTES", "BINBYTES8", "BINFLOAT", "BINGET", "BININT", "BININT1"),
    *("BININT2", "BINPERSID", "BINPUT", "BINSTRING", "BINUNICODE", "BINUNICODE8", "DICT"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "FLOAT", "FRAME", "GET", "GLOBAL", "INT", "LIST"),
    *("LONG", "LONG1", "LONG4", "LONG_BINGET", "LONG_BINPUT", "MARK", "MEMOIZE", "NEWFALSE"),
    *("NEWTRUE", "NONE", "POP", "POP_MARK", "PROTO", "PUT", "SETITEM", "SETITEMS"),
    *("SHORT_BINBYTES", "SHORT_BINSTRING", "SHORT_BINUNICODE", "STACK_GLOBAL", "STOP", "STRING"),
    "UNICODE",
)  # fmt: skip
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


class _Tuple(tuple):
    """A tuple that knows how deeply it is nested, and how many items it contains in all."""

    depth = 0
    size = 0


def _limited(items: tuple) -> _Tuple:
    result = _Tuple(items)
    nested = [item for item in items if isinstance(item, _Tuple)]
    result.depth = 1 + max((item.depth for item in nested), default=0)
    result.size = len(items) + sum(item.size for item in nested)
    if result.depth > MAX_DEPTH or result.size > MAX_TUPLE_SIZE:
        raise pickle.UnpicklingError("it contains tuples that are nested too deeply, or too long")
    return result


class Global:
    """A name in a pickle, and the function that replaces what it names."""

    def __init__(self, name: str, call: Callable):
        self.name, self.call = name, call


class Buildable(ABC):
    """An object that the next operation of the pickle fills."""

    @abstractmethod
    def build(self, state: Any) -> None:
        """Sets the content; raises any exception if it is not valid."""


def are_sizes(values: object) -> bool:
    """Whether a value is a tuple of numbers of at least 0 that an array may have as its shape."""
    return (
        isinstance(values, tuple)
        and len(values) <= MAX_DIMENSIONS
        and all(type(value) is int and 0 <= value < MAX_NUMBER for value in values)
    )


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """`_codecs.encode`, or an empty `bytes()`: how old pickle protocols write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it has damaged bytes")
    return text.encode("latin-1")


def _bytearray(content: bytes = b"", *_: object) -> bytes:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("it has damaged bytes")
    return content


CONTAINERS = {
    "collections.OrderedDict": lambda *items: dict(*items),
    "collections.Counter": lambda *items: dict(*items),
    "builtins.set": lambda items=(): list(items),
    "_codecs.encode": _bytes,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
}


class _Operations(dict):
    """The operations of a pickle by their code; it counts them."""

    count = 0

    def __getitem__(self, code: int) -> Callable:
        self.count += 1
        if self.count > MAX_OPERATIONS:
            raise pickle.UnpicklingError("it contains more objects than a checkpoint has")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable:
        raise pickle.UnpicklingError(f"byte {code} is not an operation in pickles of tensors")


class RestrictedUnpickler(pickle._Unpickler):
    """Python's unpickler that is written in Python, with replaced operations; see the module.

    Attributes:
        names: what replaces the functions and classes that a pickle may name.
    """

    names: dict[str, Callable] = CONTAINERS

    def __init__(self, file: io.BytesIO | mmap.mmap):
        super().__init__(file, encoding="latin1")
        original = pickle._Unpickler.dispatch
        codes = (getattr(pickle, name)[0] for name in _OPERATIONS)
        self.dispatch = _Operations({code: original[code] for code in codes})
        for name in _TUPLES:
            code = getattr(pickle, name)[0]
            self.dispatch[code] = _tuple_operation(original[code])
        self.dispatch[pickle.REDUCE[0]] = self.dispatch[pickle.NEWOBJ[0]] = (
            RestrictedUnpickler._call
        )
        self.dispatch[pickle.BUILD[0]] = RestrictedUnpickler._build
        self.dispatch[pickle.BYTEARRAY8[0]] = RestrictedUnpickler._bytes

    def find_class(self, module: str, name: str) -> Global:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.")
        full = full.replace("numpy._core.", "numpy.core.")
        if full not in self.names:
            # the words of torch's own unpickler
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {full[:100]}")
        return Global(full, self.names[full])

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects that are not in the file")

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is no function")
        self.append(function.call(*arguments))

    def _bytes(self) -> None:
        # Python's method makes room for as many bytes as a file says
        self.append(self.read(min(int.from_bytes(self.read(8), "little"), MAX_NUMBER - 1)))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        # the state dicts of torch have this attribute
        elif (
            not isinstance(target, dict) or not isinstance(state, dict) or [*state] != ["_metadata"]
        ):
            raise pickle.UnpicklingError("it changes attributes of an object")


def _tuple_operation(original: Callable) -> Callable:
    def operation(unpickler: RestrictedUnpickler) -> None:
        original(unpickler)
        unpickler.stack[-1] = _limited(unpickler.stack[-1])

    return operation
