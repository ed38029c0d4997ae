"""Moves the files of an earlier training out of the way of a new one in the same folder."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from flowdet.engine.atomic_file import write_atomically

# the checkpoints first: without them, --resume does not continue the earlier training
_CHECKPOINTS = ("last_checkpoint", "model_*.pth")
_FILES = (
    "metrics.json",
    # TensorBoard would draw both trainings as one
    "events.out.tfevents.*",
    "results.json",
    "report.html",
    "report_explorer.html",
    "report_errors.json",
    # the folders of evaluations
    "inference",
    "inference_ema",
    "step_*.pth",
)
# names the subfolder while files are moved to it
_MARK = "moving_to"


def set_earlier_run_aside(cfg: CfgNode) -> Path | None:
    """Moves the files of an earlier training in `OUTPUT_DIR` to its subfolder `earlier_<n>`.

    Otherwise a new training that stops before its first checkpoint would be resumed from the
    earlier training, and detectron2 would append to its metrics. Call it in every process.

    Args:
        cfg: the config of the new training. If `MODEL.WEIGHTS` is one of the files, it gets the new
            path.

    Returns:
        The subfolder; None if the folder has neither checkpoints nor metrics.
    """
    folder = Path(cfg.OUTPUT_DIR)
    moved = comm.all_gather(_move(folder) if comm.is_main_process() else None)[0]
    if moved is None:
        return None
    weights = Path(cfg.MODEL.WEIGHTS)
    if cfg.MODEL.WEIGHTS and weights.parent.resolve() == folder.resolve():
        new = moved / weights.name
        # a query such as ?matching_heuristics=True stays
        if Path(str(new).split("?")[0]).is_file():
            cfg.MODEL.WEIGHTS = str(new)
    return moved


def is_setting_aside(folder: str | Path) -> bool:
    """Whether a process moves the files of an earlier training, or was killed while it did."""
    return (Path(folder) / _MARK).is_file()


def finish_setting_aside(folder: str | Path) -> None:
    """Moves the rest of the files if a process was killed while it moved them.

    Otherwise `--resume` would go on from a checkpoint of the earlier training that was not moved.
    """
    if comm.is_main_process() and is_setting_aside(folder):
        _move(Path(folder))
    comm.synchronize()


def _move(folder: Path) -> Path | None:
    mark = folder / _MARK
    checkpoints, files = (
        [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        for patterns in (_CHECKPOINTS, _FILES)
    )
    if not mark.is_file() and not checkpoints and not (folder / "metrics.json").is_file():
        return None
    names = (folder / f"earlier_{number}" for number in itertools.count(1))
    # a link that names nothing has its name too
    target = next(name for name in names if not os.path.lexists(name))
    # a mark without a name: the process was killed before it moved a file
    if mark.is_file() and re.fullmatch(r"earlier_\d+", name := mark.read_text("utf-8", "replace")):
        target = target if (folder / name).is_symlink() else folder / name
    write_atomically(mark, lambda file: file.write(target.name.encode()))
    target.mkdir(exist_ok=True)
    for path in [*checkpoints, *files]:
        _move_file(path, target / path.name)
    # stays too: it may be the config file of the new training, which overwrites it
    if (folder / "config.yaml").is_file():
        shutil.copy2(folder / "config.yaml", target)
    mark.unlink()
    logging.getLogger(__name__).info(
        "The checkpoints, metrics and config of an earlier training in %s are now in %s",
        folder,
        target,
    )
    return target


def _move_file(path: Path, target: Path) -> None:
    """Moves a file; a symbolic link goes on naming the file that it names."""
    if path.is_symlink() and not (named := path.readlink()).is_absolute():
        # the checkpoints that it may name are moved with it
        if named.parent != Path("."):
            target.symlink_to(path.parent.absolute() / named)
            path.unlink()
            return
    path.rename(target)
