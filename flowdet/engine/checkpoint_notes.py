"""What a checkpoint records about its training: classes, category ids, datasets, iteration."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from flowdet.data.limited_yaml import read_yaml
from flowdet.engine.category_ids import CategoryId
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.downloads import quiet_downloads
from flowdet.engine.task_builders import task_of
from flowdet.engine.weight_files import check_url, read_weight_file

# a message lists at most this many class names
MAX_LISTED = 8


@dataclass(frozen=True)
class CheckpointNotes:
    """The records of a checkpoint other than its tensors.

    Attributes:
        class_names: the class names by class index; empty if they are not recorded.
        category_ids: the category id of every class; empty if they are not recorded.
        iteration: the number of the last iteration, from 0; None if it is not recorded.
        datasets: the `dataset_versions` of the training; empty if they are not recorded.
    """

    class_names: list[str] = field(default_factory=list)
    category_ids: list[CategoryId] = field(default_factory=list)
    iteration: int | None = None
    datasets: dict[str, str] = field(default_factory=dict)


def read_notes(path: str | Path) -> CheckpointNotes:
    """Reads the notes of a checkpoint; its tensors stay on the disk.

    Args:
        path: path or URL of the checkpoint. The notes of a file that cannot be read, and of a
            checkpoint of another program, are empty: loading its weights raises the error.
    """
    try:
        check_url(str(path))
        with quiet_downloads():
            local = PathManager.get_local_path(str(path).split("?")[0])
        content = read_weight_file(local, lazy=True)
    except (OSError, ValueError):
        return CheckpointNotes()
    iteration, datasets = content.get("iteration"), content.get("datasets")
    versions = datasets.items() if isinstance(datasets, dict) else ()
    return CheckpointNotes(
        list(content.get("class_names") or []),
        list(content.get("category_ids") or []),
        iteration if isinstance(iteration, int) else None,
        {name: x for name, x in versions if isinstance(x, str)},
    )


def take_over_classes(cfg: CfgNode) -> None:
    """Sets the class names and category ids of a config from `MODEL.WEIGHTS`, where it has none.

    A warning is logged if the checkpoint has other class names than the config.

    Args:
        cfg: the config of a trained model, in place.
    """
    notes, names = read_notes(cfg.MODEL.WEIGHTS), list(cfg.MODEL.CLASS_NAMES)
    if not notes.class_names:
        return
    node = task_of(cfg).keys(cfg)
    if not names:
        cfg.MODEL.CLASS_NAMES = names = notes.class_names
        node.NUM_CLASSES = node.NUM_CLASSES or len(names)
    if names != notes.class_names:
        logging.getLogger(__name__).warning(
            "%s was trained on %s, but MODEL.CLASS_NAMES has %s%s: detections get the names and "
            "the category ids of the config",
            cfg.MODEL.WEIGHTS,
            _listed(notes.class_names),
            _listed(names),
            _hint(notes.class_names, names, "the checkpoint", "the config"),
        )
    elif not cfg.MODEL.CATEGORY_IDS:
        cfg.MODEL.CATEGORY_IDS = notes.category_ids


def run_notes(folder: str | Path) -> CheckpointNotes:
    """Returns the notes of the run that `--resume` continues; empty if there is no checkpoint.

    The class names of a run whose checkpoints lack them come from its config.yaml.
    """
    path = newest_checkpoint(folder)
    notes = read_notes(path) if path else CheckpointNotes()
    if path and not notes.class_names:
        return CheckpointNotes(_config_classes(folder), [], notes.iteration)
    return notes


def _config_classes(folder: str | Path) -> list[str]:
    """Returns the class names in the config.yaml of a run; empty if it has none."""
    try:
        return list(run_config(folder)["MODEL"]["CLASS_NAMES"])
    except (KeyError, TypeError):
        return []


def run_config(folder: str | Path) -> dict:
    """Returns the content of the config.yaml of a run; empty if it cannot be read."""
    try:
        return dict(read_yaml(Path(folder, "config.yaml")))
    except (OSError, ValueError, TypeError):
        return {}


def check_resumed_split(cfg: CfgNode) -> None:
    """Compares the images that a resumed run holds out with those of its config.

    Raises:
        ValueError: a key that selects them has another value than in the config.yaml of the run.
    """
    if not newest_checkpoint(cfg.OUTPUT_DIR):
        return
    trained = run_config(cfg.OUTPUT_DIR).get("DATASETS") or {}
    for key in ("HOLD_OUT", "HOLD_OUT_SEED"):
        if key in trained and trained[key] != cfg.DATASETS[key]:
            raise ValueError(
                f"--resume cannot change the images that are held out: DATASETS.{key} is "
                f"{cfg.DATASETS[key]}, but the run in OUTPUT_DIR {cfg.OUTPUT_DIR} has "
                f"{trained[key]}. Set the key to this value, or start anew in another OUTPUT_DIR"
            )


def check_resumed_classes(folder: str | Path, class_names: Sequence[str]) -> None:
    """Compares the classes of a resumed run with those of its datasets.

    Args:
        folder: the folder of the run (`OUTPUT_DIR`).
        class_names: the class names of the datasets by class index.

    Raises:
        ValueError: the run has other classes, or the same ones in another order.
    """
    trained = run_notes(folder).class_names
    if not trained or trained == list(class_names):
        return
    final = Path(folder) / "model_final.pth"
    weights = final if final.is_file() else newest_checkpoint(folder)
    difference = _hint(trained, class_names, "the run", "the dataset")
    raise ValueError(
        f"--resume cannot change the classes: OUTPUT_DIR {folder} has a run with "
        f"{_listed(trained)}, but the dataset has {_listed(class_names)}{difference}. To train on "
        "the dataset, start anew: leave --resume out, and set another OUTPUT_DIR, "
        f"MODEL.WEIGHTS {weights} and MODEL.REINIT_CLASSES True"
    )


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > MAX_LISTED else ""
    noun = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {noun} ({', '.join(names[:MAX_LISTED])}{more})"


def _hint(one: Sequence[str], other: Sequence[str], first: str, second: str) -> str:
    """Names the first class that differs; "" if the listed classes already differ.

    Args:
        one, other: different lists of class names.
        first, second: what the lists belong to.
    """
    if list(one[:MAX_LISTED]) != list(other[:MAX_LISTED]):
        return ""
    pairs = enumerate(itertools.zip_longest(one, other, fillvalue="missing"))
    index, (a, b) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return f"; class {index} is {a} in {first} and {b} in {second}"
