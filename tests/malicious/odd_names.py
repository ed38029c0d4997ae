"""Datasets, configs and weights with odd names: of classes, images, files, folders and URLs."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.findings import one_line
from flowdet.engine import load_config
from flowdet.engine.checkpoint import check_weights_exist
from flowdet.inference.download import fetch
from tests.malicious.outcomes import READ, Outcome, dataset_outcome, outcome_of
from tests.malicious.text_files import FORMATS

LOST = "objects are missing, and nothing is told"
# the objects of the datasets that `FORMATS` writes
_NUM_OBJECTS = 10
# control characters, directions of text, halves of characters, blanks, numbers, syntax of formats
NAMES = (
    *("a\tb", "a\nb", "a\rb", "a\x1b[2Jb", "a\0b", "a\x85b", "a\u2028b", "a\u202eb", "a\udcffb"),
    *(" a", "a ", "\u200b", "Disc", "e\u0301", "0", "-1", "1.0", "nan", "true", "null", "..", "~"),
    *("a,b", 'a"b', "a;b", "a: b", "#a", "a&b", "<a>", "{0}", "%s", "$HOME", "[a]*", "a?b", "a\\b"),
    "x" * 200,
)
_BLANK = ("", "   ", "\u00a0")
_FOLDERS = ("a" * 255, "a" * 256, "/".join(["b" * 200] * 25), "a#b%41{}$x[*]~ ")
# the port answers nobody
_URLS = (
    *("https://[::1/x.pth", "http://h:abc/x.pth", "http://h:99999/x.pth", "http://", "http:///x"),
    *("http://127.0.0.1:9/x.pth", "http://127.0.0.1:9/a b\x1b[31m.pth", "http://127.0.0.1:9/../x"),
    *("s3://a/b.pth", "file:///etc/passwd", f"http://127.0.0.1:9/{'a' * 5000}.pth", "://"),
)
# an image and an annotation file of each format is replaced by these
_SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "folder": Path.mkdir,
}


def odd_name_outcomes(folder: Path) -> Iterator[Outcome]:
    """The outcomes of all names, in an empty folder."""
    yield from class_outcomes(folder)
    yield from image_outcomes(folder)
    yield from special_outcomes(folder)
    yield from path_outcomes(folder)
    yield from url_outcomes()


def class_outcomes(folder: Path) -> Iterator[Outcome]:
    """The outcome of each name of a class in each format."""
    for kind, name in _in_formats((*NAMES, *_BLANK)):
        data = _written(folder, kind)
        _replace(data, "square", name)
        yield _dataset_outcome(f"{kind}: class {name!r}", data)


def image_outcomes(folder: Path) -> Iterator[Outcome]:
    """The outcome of each name of an image in each format."""
    # a file whose name begins with a dot is hidden
    for kind, name in _in_formats(x for x in NAMES if "\0" not in x and not x.startswith(".")):
        data = _written(folder, kind)
        _replace(data, "train_0", name)
        for path in [x for x in data.rglob("*") if x.stem == "train_0"]:
            path.rename(path.with_name(name + path.suffix))
        yield _dataset_outcome(f"{kind}: image {name!r}", data)


def special_outcomes(folder: Path) -> Iterator[Outcome]:
    """The outcome of an image or annotation file that is no file, in each format."""
    for kind, label in _in_formats(_SPECIAL):
        for pattern in ("**/*.png", FORMATS[kind][1]):
            data = _written(folder, kind)
            path = min(data.glob(pattern))
            path.unlink()
            _SPECIAL[label](path)
            yield _dataset_outcome(f"{kind}: {path.suffix} is a {label}", data)


def path_outcomes(folder: Path) -> Iterator[Outcome]:
    """The outcome of each name of a folder, of the dataset and of the run."""
    for name in (*(x for x in NAMES if "\0" not in x and x not in ("..", "~")), *_FOLDERS):
        data = folder / name
        if all(len(os.fsencode(part)) < 256 for part in name.split("/")) and len(name) < 256:
            FORMATS["coco"][0](data)
        yield _dataset_outcome(f"data folder {name!r}", data)
        shutil.rmtree(data, ignore_errors=True)
        for key in ("OUTPUT_DIR", "MODEL.FLOW_DET.FEATURE_CACHE_DIR"):
            yield _told_outcome(f"{key} {name!r}", lambda: load_config("digits_flow", [key, name]))  # noqa: B023


def url_outcomes() -> Iterator[Outcome]:
    """The outcome of each URL of weights; no server is asked."""
    for url in _URLS:
        yield _told_outcome(f"MODEL.WEIGHTS {url!r}", lambda: check_weights_exist(url))  # noqa: B023
        if url.startswith("http"):
            yield _told_outcome(f"download {url!r}", lambda: fetch(url))  # noqa: B023


def _in_formats(names) -> Iterator[tuple[str, str]]:
    for name in names:
        for kind in FORMATS:
            yield kind, name


def _written(folder: Path, kind: str) -> Path:
    shutil.rmtree(folder / "data", ignore_errors=True)
    FORMATS[kind][0](folder / "data")
    return folder / "data"


def _replace(folder: Path, old: str, new: str) -> None:
    """Replaces a name in all annotation files, as the format of each writes it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".png":
            content = path.read_bytes()
            written = _as_written(path.suffix, new).encode(errors="surrogateescape")
            path.write_bytes(content.replace(old.encode(), written))


def _as_written(suffix: str, name: str) -> str:
    if suffix == ".xml":
        return escape(name, {'"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"})
    if suffix == ".json":
        return json.dumps(name)[1:-1]
    if suffix == ".yaml":
        return json.dumps(name)
    if suffix == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([name])
        return text.getvalue()
    return name


def _dataset_outcome(label: str, folder: Path) -> Outcome:
    outcome = dataset_outcome(label, folder)
    if outcome.kind == READ and not _tells_or_has_all(folder):
        return Outcome(label, LOST)
    return _as_shown(outcome)


def _tells_or_has_all(folder: Path) -> bool:
    dataset = CustomDataset(folder)
    records = [record for split in dataset.splits for record in dataset.read(split).records]
    count = sum(len(record["annotations"]) for record in records)
    return count == _NUM_OBJECTS or bool(dataset.findings.repairs)


def _told_outcome(label: str, action: Callable[[], object]) -> Outcome:
    return _as_shown(outcome_of(label, lambda: [] if action() else []))


def _as_shown(outcome: Outcome) -> Outcome:
    """The outcome with its messages as the commands print them."""
    messages = tuple(map(one_line, outcome.messages))
    return Outcome(outcome.file, outcome.kind, messages, outcome.seconds)
