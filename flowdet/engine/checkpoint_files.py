"""The checkpoint files of a run: written as a whole, checked, and the newest undamaged one.

torch writes a checkpoint as a ZIP archive with a CRC-32 of every record, which torch itself does
not compare when it loads the file.
"""

from __future__ import annotations

import logging
import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from detectron2.utils.logger import log_first_n
from torch import Tensor

from flowdet.engine.atomic_file import write_atomically
from flowdet.engine.weight_files import LAST_CHECKPOINT, last_checkpoint_name, read_weight_file

FINAL = "model_final.pth"
_PATTERN = "model_*.pth"
# a message lists at most this many names
_LISTED = 3
# the errors of zipfile for damaged archives
_ZIP_ERRORS = (
    *(OSError, EOFError, RuntimeError, ValueError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)


def write_checkpoint(path: Path, content: dict) -> None:
    """Writes a checkpoint, and then its name to `last_checkpoint` in the same folder.

    Args:
        path: path of the checkpoint, which ends in ".pth".
        content: the content, of which `weights_only=True` can load every value.

    Raises:
        FloatingPointError: a weight is not finite; nothing is written.
        OSError: the file cannot be written. Earlier checkpoints are unchanged.
    """
    check_finite(path, content)
    write_atomically(path, lambda file: torch.save(content, file), tensor_bytes(content))
    name_last_checkpoint(path)


def name_last_checkpoint(path: Path) -> None:
    """Writes the name of a checkpoint to `last_checkpoint` in its folder."""
    write_atomically(path.with_name(LAST_CHECKPOINT), lambda file: file.write(path.name.encode()))


def check_finite(path: Path, content: dict) -> None:
    """Checks the weights in the content of a checkpoint, and their moving average.

    Raises:
        FloatingPointError: a value is NaN or infinite.
    """
    bad = [
        name
        for part in ("model", "ema")
        for name, value in content.get(part, {}).items()
        if isinstance(value, Tensor) and not bool(value.isfinite().all())
    ]
    if bad:
        more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        last = newest_checkpoint(path.parent) or "none"
        raise FloatingPointError(
            f"{path} is not written, because weights are NaN or infinite "
            f"({', '.join(bad[:_LISTED])}{more}): the training has diverged. Lower SOLVER.BASE_LR, "
            f"or set SOLVER.CLIP_GRADIENTS.ENABLED True. The last checkpoint is {last}"
        )


def tensor_bytes(value: object) -> int:
    """Returns the size of all tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


def newest_checkpoint(folder: str | Path) -> str:
    """Returns the path of the newest undamaged checkpoint of the run in a folder.

    It is the one that `last_checkpoint` names. If that file is damaged or missing, or there is no
    `last_checkpoint`, it is the undamaged one of the latest iteration, and a warning says so.

    Returns:
        The path; "" if the folder has no checkpoint.

    Raises:
        ValueError: all checkpoints are damaged, or see `last_checkpoint_name`.
    """
    folder = Path(folder)
    name = last_checkpoint_name(folder)
    named = folder / name if name else None
    if named is not None and not damage(named):
        return str(named)
    others = sorted(path for path in folder.glob(_PATTERN) if path != named)
    if named is None and not others:
        return ""
    undamaged = [path for path in others if not damage(path)]
    damaged = [path for path in (named, *others) if path is not None and path not in undamaged]
    problems = [f"{path} {damage(path)}" for path in damaged]
    listed = ", ".join(problems[:_LISTED])
    if len(problems) > _LISTED:
        listed += f" and {len(problems) - _LISTED} more"
    if not undamaged:
        raise ValueError(
            f"{folder} has no checkpoint that can be read: {listed}. Train anew, without --resume"
        )
    # the final model and a checkpoint may be of the same iteration
    newest = max(undamaged, key=lambda path: (_iteration(path), path.name))
    if problems or newest.name != FINAL:
        text = f"{newest} is taken, the newest undamaged checkpoint"
        text += f": {listed or f'{folder} has no file {LAST_CHECKPOINT}'}"
        log_first_n(logging.WARNING, text, name=__name__, key="message")
    return str(newest)


def damage(path: Path) -> str:
    """Says what is wrong with a checkpoint file, after "FILE"; "" if it is undamaged.

    The checksums of all records are compared, which reads the whole file. The result is kept until
    the file changes.
    """
    try:
        stat = path.stat()
    except OSError:
        return "is missing"
    return _damage(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=64)
def _damage(path: Path, *version: int) -> str:
    try:
        read_weight_file(path, lazy=True)
    except (OSError, ValueError) as error:
        return str(error).removeprefix(f"{path} ")
    return checksum_problem(path)


def checksum_problem(path: str | Path) -> str:
    """Says which checksum of a torch file differs, after "FILE"; "" if all are right.

    Other files than those of torch 1.6 and later have no checksums.
    """
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except _ZIP_ERRORS as error:
        return f"is damaged ({error})"
    return f"is damaged (the checksum of {broken} differs)" if broken else ""


def _iteration(path: Path) -> int:
    """Returns the number of the last iteration of a checkpoint; -1 if it is not recorded."""
    iteration = read_weight_file(path, lazy=True).get("iteration")
    return iteration if isinstance(iteration, int) else -1


def complete_final(folder: str | Path, source: str | Path) -> None:
    """Writes `model_final.pth` of a finished run anew if it is damaged or missing.

    Args:
        folder: the folder of the run.
        source: an undamaged checkpoint of the run after its last iteration.

    Raises:
        OSError: the file cannot be written.
    """
    final = Path(folder) / FINAL
    problem = damage(final)
    if not problem:
        return
    with open(source, "rb") as file:
        size = Path(source).stat().st_size
        write_atomically(final, lambda copy: shutil.copyfileobj(file, copy), size)
    name_last_checkpoint(final)
    logging.getLogger(__name__).warning("%s %s: it is written again", final, problem)
