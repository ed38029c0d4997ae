"""Reads files of weights without running code that they contain, and with limits.

    .pth, .pt, ...   of torch.save: a state dict, or a checkpoint with one
    .pkl             detectron2's model zoo: pickled numpy arrays
    .pyth            pycls
    .safetensors     tensors, with flowdet's notes in the metadata

SECURITY.md says what is checked.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flowdet.config.errors import ConfigError
from flowdet.config.rules import MAX_NAME, is_class_name
from flowdet.engine.array_pickle import read_array_pickle
from flowdet.engine.tensor_pickle import TensorPickleCheck
from flowdet.temporary_file import temporary_file
from flowdet.tensor_checksum import tensor_checksum

LAST_CHECKPOINT = "last_checkpoint"
# the first value in a file of torch before version 1.6, which is a sequence of pickles
_LEGACY_MAGIC, _LEGACY_PICKLES = 0x1950A86A20F9469CFC6C, 5
# bytes of the records at the end of a zip file: the end, the locator and the end of zip64
_END, _LOCATOR, _END_64 = 22, 20, 56
# the key of the checksum in the metadata of a .safetensors file
_CHECKSUM = "flowdet_checksum"
# entries of checkpoints of other programs that contain the state dict
_STATE_DICTS = ("state_dict", "model_state_dict", "net", "weights")
# errors whose text says what is wrong; the text of others is about the code that reads the file
_TOLD = (pickle.UnpicklingError, RuntimeError, SafetensorError, zipfile.BadZipFile)


def read_weight_file(path: str | Path, lazy: bool = False) -> dict:
    """Reads a file of weights; its suffix gives the format.

    Args:
        path: path of a local file.
        lazy: whether the tensors of a torch file stay on the disk until they are used.

    Returns:
        The content. Its entry "model" is the state dict: tensors, or arrays of a .pkl file, by
        name. Files of other programs have "__author__" and "matching_heuristics" as detectron2's
        checkpointer needs them.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, contains other objects than tensors, exceeds a limit, or
            has no state dict. The message is one line.
    """
    path = str(path)
    try:
        content = _READERS.get(Path(path).suffix, _read_torch)(path, lazy)
    except OSError:
        raise
    # damaged files raise nearly every exception
    except Exception as error:
        raise ValueError(f"{path} {_unreadable(path, error)}") from error
    state = content["model"]
    nested = [k for k in _STATE_DICTS if isinstance(state, dict) and isinstance(state.get(k), dict)]
    if nested:
        content["model"] = state[nested[0]]
    problem = _problem(content)
    if problem:
        raise ValueError(f"{path} {problem}")
    return content


def write_safetensors(path: str | Path, state: dict[str, torch.Tensor], notes: dict) -> None:
    """Writes weights as .safetensors, with a checksum that `read_weight_file` compares.

    Args:
        path: the file to write.
        state: tensors by name.
        notes: class names and category ids, as a checkpoint has them; numbers and texts only.

    Raises:
        OSError: the file cannot be written.
    """
    # copies, because the format has no tensors that share their data
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in state.items()}
    text = json.dumps(notes)
    metadata = {"format": "pt", "flowdet": text, _CHECKSUM: tensor_checksum(tensors, text)}
    try:
        with temporary_file(path) as temporary:
            save_file(tensors, temporary, metadata)
    # such as a full disk
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} cannot be written: {reason}") from error


def check_url(path: str) -> None:
    """Checks that the URL of weights has the form of one, and stays in the folder of downloads.

    Raises:
        ValueError: the URL has a host or port of another form, or a part "..", which the name of
            the downloaded file would have too.
    """
    if "://" not in path:
        return
    try:
        # reading the port checks it
        _ = urlsplit(path).port
    except ValueError as error:
        raise ConfigError(
            f"{path} is not a valid URL ({error}): correct it (MODEL.WEIGHTS)"
        ) from error
    if ".." in re.split(r"[/\\?#]", path):
        raise ValueError(f"{path}: a URL of weights must not contain the part ..")


def last_checkpoint_name(folder: str | Path) -> str:
    """Returns the file name of the last checkpoint of the run in a folder; "" if there is none.

    Raises:
        ValueError: the file `last_checkpoint` contains anything else than a file name.
    """
    note = Path(folder) / LAST_CHECKPOINT
    try:
        with open(note, "rb") as file:
            name = file.read(1024).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    if name and not re.fullmatch(r"[^/\\\0\n]{1,255}", name) or name in (".", ".."):
        raise ValueError(
            f"{note} contains {name[:80]!r}, not the name of a file in its folder: write the name "
            "of a checkpoint into it, such as model_final.pth, or delete it"
        )
    return name


def _read_pickle(path: str, lazy: bool) -> dict:
    content = read_array_pickle(path)
    if not isinstance(content, dict):
        return {"model": content}
    if "model" in content and "__author__" in content:
        return content
    # Caffe2 and Detectron: detectors have "blobs", backbones do not
    blobs = content.get("blobs", content)
    if isinstance(blobs, dict):
        blobs = {name: x for name, x in blobs.items() if not str(name).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _read_pycls(path: str, lazy: bool) -> dict:
    state = _read_torch(path, lazy)["model"]
    state = state.get("model_state") if isinstance(state, dict) else state
    if isinstance(state, dict):
        state = {n: x for n, x in state.items() if not str(n).endswith("num_batches_tracked")}
    return {"model": state, "__author__": "pycls", "matching_heuristics": True}


def _read_safetensors(path: str, lazy: bool) -> dict:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = metadata.get("flowdet", "{}")
    # files of other programs have no checksum
    if metadata.get(_CHECKSUM, "") not in ("", tensor_checksum(state, text)):
        raise SafetensorError("the checksum differs: copy or export it again")
    notes = json.loads(text)
    return {**(notes if isinstance(notes, dict) else {}), "model": state}


def _read_torch(path: str, lazy: bool) -> dict:
    is_zip = _check_torch_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazy and is_zip)
    return content if isinstance(content, dict) and "model" in content else {"model": content}


_READERS = {".pkl": _read_pickle, ".pyth": _read_pycls, ".safetensors": _read_safetensors}


def _check_torch_file(path: str) -> bool:
    """Checks the pickle in a file of `torch.save` before torch reads it.

    Returns:
        Whether the file is a zip archive (torch 1.6 and later).

    Raises:
        Exception: the file is not valid, see `TensorPickleCheck`.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content[:16]
        if start.startswith(b"PK\3\4"):
            _check_zip(file, len(content))
            return True
        if not start.startswith(pickle.PROTO):
            raise pickle.UnpicklingError(f"it begins with {start!r}, unlike files of torch.save")
        checks = [
            TensorPickleCheck(content, lambda key: len(content)) for _ in range(_LEGACY_PICKLES)
        ]
        if checks[0].load() != _LEGACY_MAGIC:
            raise pickle.UnpicklingError("it is not a file of torch.save")
        for check in checks[1:]:
            check.load()
    return False


def _check_zip(file: io.BufferedReader, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        _check_directory(file, size)
        entries = archive.infolist()
        # torch does not compress, and entries that overlap have more bytes than the file
        if sum(entry.file_size for entry in entries) > size:
            raise pickle.UnpicklingError("it unpacks to more bytes than it has")
        sizes: dict[str, int] = {}
        for entry in entries:
            name = entry.filename.lower()
            sizes[name] = min(entry.file_size, sizes.get(name, size))
        for entry in entries:
            # torch does not tell upper from lower case
            folder, _, name = entry.filename.lower().rpartition("/")
            if name == "data.pkl":
                content = io.BytesIO(archive.read(entry))
                TensorPickleCheck(
                    content,
                    lambda key: sizes.get(f"{folder}/data/{key}".lower(), 0),  # noqa: B023
                ).load()


def _check_directory(file: io.BufferedReader, size: int) -> None:
    """Checks that a zip file has one directory, right before its end.

    Python and torch look for it in different ways: they could find two, and read other entries.
    """
    file.seek(max(size - _END - _LOCATOR - _END_64, 0))
    end = file.read()
    after, (length, start) = _END, struct.unpack("<II", end[-10:-2].rjust(8, b"\0"))
    if end[-_END - _LOCATOR :].startswith(b"PK\6\7"):
        after += _LOCATOR + _END_64
        (record,) = struct.unpack("<Q", end[-34:-26])
        if record != size - after or not end.startswith(b"PK\6\6"):
            raise zipfile.BadZipFile("its directory is not at its end")
        length, start = struct.unpack("<QQ", end[40:56])
    if (
        not end[-_END:].startswith(b"PK\5\6")
        or end[-2:] != b"\0\0"
        or start + length != size - after
    ):
        raise zipfile.BadZipFile("its directory is not at its end")


def _problem(content: dict) -> str:
    """Says what is wrong with the content of a file; "" if nothing is."""
    state = content["model"]
    if not isinstance(state, dict):
        return f"contains a {type(state).__name__}, not a state dict"
    versions = getattr(state, "_metadata", {})
    if not isinstance(versions, dict) or not all(isinstance(x, dict) for x in versions.values()):
        return "has a damaged state dict: the versions of its modules are no numbers"
    for name, value in state.items():
        if not isinstance(name, str) or len(name) > MAX_NAME:
            return "has a state dict whose keys are not the names of tensors"
        if not _is_plain_tensor(value):
            return f"has {name} of type {type(value).__name__}, not a tensor of numbers"
    if not _are_names(content.get("class_names") or [], str):
        return (
            f"has class names that are not texts of at most {MAX_NAME} characters without control "
            "characters"
        )
    if not _are_names(content.get("category_ids") or [], (int, str)):
        return (
            "has category ids that are not numbers or texts of at most "
            f"{MAX_NAME} characters without control characters"
        )
    return ""


def _is_plain_tensor(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.layout == torch.strided and value.device.type == "cpu"
    return isinstance(value, np.ndarray)


def _are_names(names: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(names, list) and all(
        isinstance(name, kinds) and is_class_name(f"{name}") for name in names
    )


def _unreadable(path: str, error: Exception) -> str:
    """Says why a file cannot be read, and what to do."""
    objects = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
    if objects:
        return (
            f"contains Python objects ({objects[1]}), not only tensors: load it with the program "
            "that wrote it, save its state dict with torch.save(model.state_dict(), FILE), and set "
            "MODEL.WEIGHTS to that file"
        )
    if isinstance(error, EOFError) or not os.path.getsize(path):
        return "is not a readable checkpoint (the file ends too early): copy or download it again"
    reason = f"it is damaged, {type(error).__name__}"
    if isinstance(error, _TOLD):
        # torch adds many lines of advice that does not apply
        own = re.search(r"WeightsUnpickler error: (.+)", str(error))
        reason = own[1] if own else (str(error) or reason).splitlines()[0].split(". ")[0]
    return f"is not a readable checkpoint ({reason[:200]})"
