"""Weight files that run code, end the process or fill the memory, if a program trusts them.

The code that they contain creates a file, the marker.
"""

from __future__ import annotations

import collections
import functools
import io
import json
import operator
import os
import pathlib
import pickle
import runpy
import shutil
import sqlite3
import struct
import subprocess
import tempfile
import timeit
import zipfile
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import save


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable, *args: object):
        self.pair = function, args

    def __reduce__(self) -> tuple:
        return self.pair


def calls(marker: str) -> dict[str, Call]:
    """Functions that a pickle may name and that create the marker, by a short name."""

    statement = f"open({marker!r}, 'w').close()"
    path = pathlib.PurePosixPath(marker)
    return {
        "os.system": Call(os.system, f"touch '{marker}'"),
        "os.mkdir": Call(os.mkdir, marker),
        "os.open": Call(os.open, marker, os.O_CREAT | os.O_WRONLY),
        "os.symlink": Call(os.symlink, "/", marker),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", marker]),
        "subprocess.check_output": Call(subprocess.check_output, ["touch", marker]),
        "exec": Call(exec, statement),
        "eval": Call(eval, statement),
        "open": Call(open, marker, "w"),
        "__import__": Call(getattr, Call(__import__, "os"), "system"),
        "runpy": Call(runpy._run_code, Call(compile, statement, "x", "exec"), {}),
        "timeit": Call(timeit.timeit, statement, "pass", timeit.default_timer, 1),
        "Path.touch": Call(pathlib.Path.touch, Call(pathlib.Path, str(path))),
        "methodcaller": Call(_apply, Call(operator.methodcaller, "touch"), pathlib.Path(marker)),
        "partial": Call(functools.reduce, _apply, [os.mkdir, marker]),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(exec, statement))),
        "sqlite3.connect": Call(sqlite3.connect, marker),
        "zipfile.ZipFile": Call(zipfile.ZipFile, marker, "w"),
        "shutil.copy": Call(shutil.copy, __file__, marker),
        "NamedTemporaryFile": Call(tempfile.mkdtemp, "", "marker", str(path.parent)),
        "ndarray.tofile": Call(np.ndarray.tofile, np.zeros(2), marker),
        "numpy.savetxt": Call(np.savetxt, marker, [0.0]),
        "torch.save": Call(torch.save, {}, marker),
        "torch.jit.load": Call(torch.jit.load, marker),
        "type": Call(type, "X", (), {"__del__": os.mkdir}),
    }


def _apply(function: Callable, value: object) -> object:
    return function(value)


def torch_bytes(content: object, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def zoo_bytes(state: dict[str, torch.Tensor]) -> bytes:
    arrays = {name: x.numpy() for name, x in state.items()}
    return pickle.dumps({"model": arrays, "__author__": "zoo"})


def safetensors_bytes(state: dict[str, torch.Tensor]) -> bytes:
    return save(state, {"flowdet": json.dumps({"class_names": ["cat"]})})


def containers(call: Call) -> dict[str, bytes]:
    """Files that call a function when they are unpickled, by name; the suffix says the format."""
    tensor, array = torch.zeros(2), np.zeros(2, np.float32)
    zoo = {"model": {"a": array, "b": call}, "__author__": "zoo"}
    return {
        "zoo.pkl": pickle.dumps(zoo),
        "protocol0.pkl": pickle.dumps(zoo, 0),
        "protocol2.pkl": pickle.dumps({"blobs": {"a": array}, "b": call}, 2),
        "only.pkl": pickle.dumps(call, 5),
        "key.pkl": pickle.dumps({call: array}),
        "state.pth": torch_bytes({"a": tensor, "b": call}),
        "extra.pt": torch_bytes({"model": {"a": tensor}, "optimizer": [call]}),
        "legacy.pth": torch_bytes({"model": {"a": tensor}, "b": call}, zipped=False),
        "pickle.pth": pickle.dumps({"model": {"a": array, "b": call}}, 2),
        "pycls.pyth": torch_bytes({"model_state": {"a": tensor}, "b": call}),
        "tensors.safetensors": torch_bytes({"a": tensor, "b": call}),
    }


def all_calls(marker: str) -> dict[str, bytes]:
    """All containers with all calls."""
    return {
        f"{name.replace('.', '-')}-{container}": content
        for name, call in calls(marker).items()
        for container, content in containers(call).items()
    }


def operations(marker: str) -> dict[str, bytes]:
    """Pickles that call a function by other operations than `pickle.dumps` uses."""
    text = pickle.dumps(f"touch '{marker}'", 2)[2:-1]
    short = f"touch '{marker}'".encode()
    argument = b"X" + struct.pack("<I", len(short)) + short
    pickles = {
        "INST": b"(" + argument + b"iposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + argument + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + argument + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + argument + b"\x85}\x92.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R.",
        "nested global": b"\x80\x04\x8c\x02os\x8c\x0csys.modules.x\x93.",
        "EXT1": b"\x80\x02\x82\x01" + argument + b"\x85R.",
        "PERSID": b"Pposix.system\n.",
        "BINPERSID": b"\x80\x02" + argument + b"Q.",
        "BUILD of a function": b"\x80\x02cposix\nsystem\n}X\x01\0\0\0aK\x01sb.",
        "BUILD of a dict": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb.",
        "__setstate__": b"\x80\x02cnumpy\nndarray\n}X\x0c\0\0\0__setstate__cposix\nsystem\nsb"
        + argument
        + b"b.",
        "call of a text": b"\x80\x02" + argument + b")R.",
        "numpy.load": b"\x80\x02cnumpy\nload\n" + argument + b"\x85R.",
        "numpy f2py": b"\x80\x02cnumpy.testing._private.utils\nruncode\n" + argument + b"\x85R.",
        "getattr of numpy": b"\x80\x04\x8c\x05numpy\x8c\x14core.multiarray.sys.x\x93.",
        "copyreg": b"\x80\x02ccopy_reg\n_reconstructor\ncposix\nsystem\nc__builtin__\nint\nN\x87R.",
    }
    files = {f"{name}.pkl": content for name, content in pickles.items()}
    return files | {f"{name}.pth": with_pickle(content) for name, content in pickles.items()}


def with_pickle(content: bytes, data: bytes = b"\0" * 8, compression: int = 0) -> bytes:
    """A zip file as `torch.save` writes it, with another pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def tensor_pickle(count: int, offset: int, size: str, stride: str, name: str = "Float") -> bytes:
    """The pickle of {"a": a tensor}, with any numbers."""
    text = (
        "(dp0\nVa\np1\nctorch._utils\n_rebuild_tensor_v2\n"
        f"((Vstorage\nctorch\n{name}Storage\nV0\nVcpu\nI{count}\ntp2\nQI{offset}\n"
    )
    text = text.replace("tp2\nQ", "tQ")
    numbers = ["(" + "".join(f"I{x}\n" for x in y.split()) + "t" for y in (size, stride)]
    end = "I00\nccollections\nOrderedDict\n)Rt"
    return f"{text}{''.join(numbers)}{end}Rs.".encode()


def nested_tuples(depth: int, doubled: bool) -> bytes:
    """A dict whose key is a tuple of tuples; doubled: it contains each of them twice."""
    step = b"q\x00h\x00\x86" if doubled else b"\x85"
    return b"\x80\x02}K\x01" + step * depth + b"K\x01s."


def structures() -> dict[str, bytes]:
    """Files without code that crash, hang, fill the memory, or are no weights."""
    good = torch_bytes({"a": torch.zeros(4)})
    names = {
        "tensor larger than its data": tensor_pickle(1000, 0, "1000", "1"),
        "negative size": tensor_pickle(2, 0, "-2", "1"),
        "negative offset": tensor_pickle(2, -1, "1", "1"),
        "negative stride": tensor_pickle(2, 1, "2", "-1"),
        "stride behind the data": tensor_pickle(2, 0, "2", "1000000"),
        "repeated data": tensor_pickle(2, 0, "1000000000000", "0"),
        "huge numbers": tensor_pickle(2, 0, f"{10**4000} {10**4000}", "1 1"),
        "negative count": tensor_pickle(-2, 0, "2", "1"),
        "unknown storage": tensor_pickle(2, 0, "2", "1", "Object"),
        "deep key": nested_tuples(200_000, False),
        "exponential key": nested_tuples(60, True),
        "deep list": b"\x80\x02" + b"](" * 100_000 + b"l" * 100_000 + b".",
        "set of tuples": b"\x80\x02c__builtin__\nset\n]"
        + nested_tuples(60, True)[3:-3]
        + b"a\x85R.",
        "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
        "long text": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "long bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.",
        "long bytearray": b"\x80\x05\x96\0\0\0\0\0\x01\0\0abc.",
        "long frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0fK\x01.",
        "long number": b"\x80\x02L" + b"9" * 10_000 + b"L\n.",
        "number for a list": b"\x80\x02K\x01K\x02a.",
        "item of a tensor": b"\x80\x02ctorch\nFloatStorage\nK\x01K\x02s.",
        "empty stack": b"\x80\x02.",
        "no end": b"\x80\x02}",
        "many objects": b"\x80\x02(" + b"]" * 1_100_000 + b"l.",
        "cyclic list": b"\x80\x02]q\x00h\x00a.",
        "wide lists": b"\x80\x02]q\x00" + b"".join(
            b"](" + bytes([104, i]) * 200 + b"eq" + bytes([i + 1]) for i in range(6)
        ) + b".",
        "keys that are numbers": b"\x80\x02}K\x01K\x02s.",
        "metadata": b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadataK\x01sb.",
    }  # fmt: skip
    files = {f"{name}.pth": with_pickle(content) for name, content in names.items()}
    files |= {f"{name}.pkl": content for name, content in names.items()}
    files |= {
        "compressed.pth": with_pickle(
            tensor_pickle(10**7, 0, "10000000", "1"), b"\0" * 4 * 10**7, zipfile.ZIP_DEFLATED
        ),
        "overlapping.pth": _with_repeated_entries(with_pickle(b"\x80\x02}.", b"\0" * 10_000)),
        "no pickle.pth": with_pickle(b"").replace(b"data.pkl", b"dato.pkl"),
        "script.pth": with_pickle(b"\x80\x02}.").replace(b"version", b"code.py"),
        "outside.pth": with_pickle(b"\x80\x02}.").replace(b"archive/", b"../../../"[:8]),
        # torch reads it as data.pkl
        "upper case.pth": with_pickle(nested_tuples(60, True)).replace(b"data.pkl", b"DATA.PKL"),
        "two directories.pth": _with_two_directories(nested_tuples(60, True)),
        "behind the end.pth": good + b"x",
        "cut.pth": good[: len(good) // 2],
        "cut.safetensors": _safetensors({"a": [0, 8]}, b"\0" * 4),
        "no directory.pth": good[:-22],
        "empty.pth": b"",
        "empty.pkl": b"",
        "empty.safetensors": b"",
        "web page.pth": b"<!DOCTYPE html><html></html>",
        "pointer.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "tar.pth": b"sys_info".ljust(512, b"\0") * 3,
        "list.pth": torch_bytes([torch.zeros(2)]),
        "tensor.pth": torch_bytes(torch.zeros(2)),
        "nested.pth": torch_bytes({"model": {"a": {"b": torch.zeros(2)}}}),
        "texts.pth": torch_bytes({"model": {"a": "text"}}),
        "sparse.pth": torch_bytes({"a": torch.eye(2).to_sparse()}),
        "meta.pth": torch_bytes({"a": torch.zeros(2, device="meta")}),
        "long names.pth": torch_bytes({"model": {}, "class_names": ["x" * 3_000_000]}),
        "moved cursor.pth": torch_bytes({"model": {}, "class_names": ["cat\x1b[2J"]}),
        "numbers as names.pth": torch_bytes({"model": {}, "class_names": [1, 2]}),
        "text as names.pth": torch_bytes({"model": {}, "class_names": "cat"}),
        "no numbers as ids.pth": torch_bytes({"model": {}, "category_ids": [[1], {}]}),
        "long tensor name.pth": torch_bytes({"x" * 10_000: torch.zeros(2)}),
        "objects.pkl": pickle.dumps({"a": np.array([{}, []], dtype=object)}),
        "structured.pkl": pickle.dumps({"a": np.zeros(2, "f4,i8")}),
        "dates.pkl": pickle.dumps({"a": np.zeros(2, "M8[s]")}),
        "shape.pkl": pickle.dumps({"a": np.zeros((3, 5), np.float32)}).replace(
            b"K\x03K\x05\x86", b"K\xffK\x05\x86"
        ),
        "header.safetensors": struct.pack("<Q", 2**62) + b"{}",
        "header length.safetensors": struct.pack("<Q", 50_000_000) + b"{}",
        "not json.safetensors": _safetensors_of(b"\xff\xfe{"),
        "deep json.safetensors": _safetensors_of(b'{"a":' + b"[" * 100_000),
        "overlap.safetensors": _safetensors({"a": [0, 8], "b": [4, 12]}, b"\0" * 12),
        "outside.safetensors": _safetensors({"a": [0, 2**60]}, b"\0" * 8),
        "notes.safetensors": _safetensors({"__metadata__": "[" * 100_000, "a": [0, 8]}, b"\0" * 8),
        "names.safetensors": _safetensors(
            {"__metadata__": json.dumps({"class_names": [{}]}), "a": [0, 8]}, b"\0" * 8
        ),
    }  # fmt: skip
    return files


def _with_repeated_entries(content: bytes) -> bytes:
    """A zip file whose directory lists the same bytes 2,000 times."""
    end = content.rindex(b"PK\5\6")
    size, start = struct.unpack("<II", content[end + 12 : end + 20])
    directory = content[start : start + size]
    numbers = struct.pack("<HHII", 8000, 8000, 2000 * size, start)
    return content[:start] + directory * 2000 + b"PK\5\6\0\0\0\0" + numbers + b"\0\0"


def _with_two_directories(hidden: bytes) -> bytes:
    """A zip file in which Python finds one pickle, and torch another one: the locator of zip64
    names the first of two directories, and the second one is right before the locator."""
    content = ends = b""
    records = []
    for pickled in (hidden, tensor_pickle(2, 0, "2", "1")):
        archive = with_pickle(pickled)
        size, start = struct.unpack("<II", archive[-10:-2])
        directory = bytearray(archive[start : start + size])
        position = 0
        while position < size:
            (offset,) = struct.unpack_from("<I", directory, position + 42)
            struct.pack_into("<I", directory, position + 42, offset + len(content))
            position += 46 + sum(struct.unpack_from("<HHH", directory, position + 28))
        content += archive[:start]
        numbers = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 4, 4, size, len(content))
        records.append(len(content) + size)
        content += bytes(directory) + b"PK\6\6" + numbers
        ends = struct.pack("<HHHHIIH", 0, 0, 4, 4, size, records[-1] - size, 0)
    return content + b"PK\6\7" + struct.pack("<IQI", 0, records[0], 1) + b"PK\5\6" + ends


def _safetensors_of(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def _safetensors(entries: dict, data: bytes) -> bytes:
    header: dict = collections.OrderedDict()
    for name, value in entries.items():
        tensor = {"dtype": "F32", "shape": [2], "data_offsets": value}
        header[name] = {"flowdet": value} if name == "__metadata__" else tensor
    return _safetensors_of(json.dumps(header).encode()) + data


# files that need more than a second, until a limit is reached
SLOW = ("deep list", "many objects", "wide lists")


def all_files(marker: str) -> dict[str, bytes]:
    """The contents of all files by name."""
    return all_calls(marker) | operations(marker) | structures()
