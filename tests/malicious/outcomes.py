"""What flowdet does with malicious files: the outcome of each, and whether it is acceptable."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowdet.data.custom.findings import one_line
from flowdet.engine import load_config
from flowdet.engine.weight_files import read_weight_file
from tests.cases.checks import checked
from tests.malicious.text_files import (
    FORMATS,
    changed,
    json_files,
    with_value,
    xml_files,
    yaml_files,
)

READ, REFUSED = "read", "one line"
CONFIG = """SEED: 1
MODEL:
  FLOW_DET:
    NUM_QUERIES: 10
SOLVER:
  BASE_LR: 0.1
  STEPS: [1, 2]
DATASETS:
  TRAIN: [a]
"""
# files that need seconds, until a limit is reached
SLOW = ("wide aliases", "many values", "long text", "long", "deep", "deep braces")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one file.

    Attributes:
        file: what it is.
        kind: `READ`, `REFUSED`, or the name of an exception that must not be raised.
        messages: what the user is told.
        seconds: the time it took.
    """

    file: str
    kind: str
    messages: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def is_clear(self) -> bool:
        """Whether the file was read, or refused with one line of readable length each."""
        lines = all("\n" not in text and len(one_line(text)) < 2600 for text in self.messages)
        return lines and (self.kind == READ or (self.kind == REFUSED and bool(self.messages)))


def outcome_of(file: str, action: Callable[[], Iterable[str]]) -> Outcome:
    """The outcome of an action, which returns what the user is told, or raises it."""
    start = time.perf_counter()
    try:
        told = tuple(action())
        kind = REFUSED if told else READ
    # an error that the commands show as one line
    except (OSError, ValueError, KeyError, ImportError) as error:
        told, kind = (str(error.args[0] if isinstance(error, KeyError) else error),), REFUSED
    except Exception as error:
        told, kind = (f"{error!r}"[:300],), type(error).__name__
    return Outcome(file, kind, told, time.perf_counter() - start)


def weights_outcome(path: Path) -> Outcome:
    """The outcome of a file of weights."""
    return outcome_of(path.name, lambda: [] if read_weight_file(path) else [])


def dataset_outcome(file: str, folder: Path) -> Outcome:
    """The outcome of a dataset; findings that are no problems count as read."""

    def check() -> list[str]:
        outcome, _, told = checked(folder)
        return told if outcome == "stops with one line" else []

    return outcome_of(file, check)


def config_outcome(file: str, path: Path) -> Outcome:
    """The outcome of a config file."""
    return outcome_of(file, lambda: [] if load_config(str(path)) else [])


def _written(folder: Path, format_name: str) -> Path:
    """Writes a good dataset; returns its first file with annotations."""
    write, pattern = FORMATS[format_name]
    shutil.rmtree(folder, ignore_errors=True)
    write(folder)
    return min(folder.glob(pattern))


def structure_outcomes(folder: Path, kind: str, slow: bool = False) -> Iterator[Outcome]:
    """The outcomes of the listed malicious files: `kind` is xml, json, yaml or config.

    The folder is emptied. `slow` adds the files that need seconds.
    """
    make, formats = {
        "xml": (xml_files, ("voc", "cvat")),
        "json": (json_files, ("coco", "labelme", "vott")),
        "yaml": (yaml_files, ("yolo",)),
        "config": (yaml_files, ()),
    }[kind]
    for name in formats:
        for label, content in make(_written(folder, name).read_text()).items():
            if slow or not (label in SLOW or label.endswith("in SEED")):
                _written(folder, name).write_bytes(content)
                yield dataset_outcome(f"{name}: {label}", folder)
    if kind == "config":
        for label, content in make(CONFIG).items():
            if slow or label not in SLOW:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "bad.yaml").write_bytes(content)
                yield config_outcome(f"config: {label}", folder / "bad.yaml")


def changed_outcomes(folder: Path, seeds: range) -> Iterator[Outcome]:
    """The outcomes of random changes of a file of every format and of a config, one per seed."""
    for seed in seeds:
        rng = random.Random(seed)
        for name in FORMATS:
            change, file = rng.choice((changed, with_value)), _written(folder, name)
            file.write_bytes(change(file.read_bytes(), rng))
            yield dataset_outcome(f"{name}: {change.__name__}, seed {seed}", folder)
        change, path = rng.choice((changed, with_value)), folder / "bad.yaml"
        path.write_bytes(change(CONFIG.encode(), rng))
        yield config_outcome(f"config: {change.__name__}, seed {seed}", path)
