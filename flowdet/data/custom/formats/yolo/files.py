"""Data files of YOLO and darknet (data.yaml, obj.data), and the folders that they name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from flowdet.data.custom.formats.base import SPLITS, EncodingError, read_text, split_of
from flowdet.data.custom.image_finder import is_hidden, walk
from flowdet.data.image_files import image_suffixes
from flowdet.data.limited_yaml import LimitedYAML

__all__ = [
    "DataFile",
    "ImageSource",
    "YOLOSource",
    "counterparts",
    "files_in",
    "is_darknet_file",
    "is_data_file",
    "is_image",
    "load_yaml",
    "names_in",
    "plain_name",
    "splits_of",
]

# keys of the splits, the usual one first
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation", "eval"), "test": ("test",)}
_EMPTY = ("", "null", "~", "none", "[]")
_SUFFIXES = (".yaml", ".yml")
_USUAL_NAMES = ("data", "dataset")
# keys at the beginning of a line, or in braces
_NAMES_KEY = re.compile(r"""(?m)^[ {"']*(names|nc)["']?\s*:""")
_SPLIT_KEY = re.compile(r"""(?m)^[ {"']*(train|val|valid|validation|test)["']?\s*:""")
_HEAD_BYTES = 1 << 14
_DRIVE = re.compile(r"[A-Za-z]:$")


@dataclass(frozen=True)
class DataFile:
    """A file that names the images of the splits and the classes.

    Attributes:
        path: the path of the file.
        content: the values of its keys: texts, and lists and dicts of texts.
        lines: the line of each key.
    """

    path: Path
    content: dict
    lines: dict[str, int] = field(repr=False)

    def get(self, key: str) -> str | list | dict | None:
        """Returns the value of a key; None if it is missing or empty."""
        value = self.content.get(key)
        return None if value in ([], {}) or str(value).strip().lower() in _EMPTY else value

    def where(self, key: str) -> str:
        return f"{self.path}:{self.lines.get(key, 1)}"


@dataclass(frozen=True)
class ImageSource:
    """A folder of images, or a text file with one image per line.

    Attributes:
        path: the folder or file, which exists.
        recursive: whether the images in the subfolders belong to it.
        note: where and how the path was adapted; None if it is read as it is written.
    """

    path: Path
    recursive: bool = True
    note: tuple[str, str] | None = None


@dataclass(frozen=True)
class YOLOSource:
    """The files of a split.

    Attributes:
        path: the first folder or list of images.
        split: the name of the split.
        folder: the folder of the dataset.
        images: folders and lists of the images.
        data: the content of the data file; None if there is no such file.
        label_folders: the folders of the labels by folder of images, which are searched first.
        notes: kind, location and text of repairs that concern the files.
    """

    path: Path
    split: str
    folder: Path
    images: tuple[ImageSource, ...]
    data: DataFile | None = None
    label_folders: dict[Path, Path] = field(default_factory=dict)
    notes: tuple[tuple[str, str, str], ...] = ()


class _TextLoader(LimitedYAML, yaml.BaseLoader):
    """Keeps all values as texts, so that the class "no" stays "no"; refuses repeated keys."""

    def construct_mapping(self, node, deep=False):
        names: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in names:
                text = f"the key {name!r} is repeated"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            names.add(name)
        return super().construct_mapping(node, deep)


def is_data_file(file: Path) -> bool:
    """Whether a file is a data.yaml, under any name, by its keys. It may be broken."""
    if file.suffix.lower() not in _SUFFIXES:
        return False
    data = file.read_bytes()
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
    has_names = file.stem.lower() in _USUAL_NAMES or _NAMES_KEY.search(text)
    return bool(has_names and _SPLIT_KEY.search(text))


def is_darknet_file(file: Path) -> bool:
    """Whether a file is an obj.data of darknet, under any name, by its keys."""
    if file.suffix.lower() != ".data":
        return False
    with open(file, "rb") as stream:
        head = stream.read(_HEAD_BYTES).replace(b"\0", b"").decode(errors="replace")
    return bool(re.search(r"(?m)^\W*(train|valid)\s*=", head))


def load_yaml(file: Path) -> DataFile:
    """Loads a data.yaml.

    Raises:
        ValueError: the file is not YAML, or has no keys. The message is one line with file and
            line.
    """
    try:
        text = read_text(file)
        node = yaml.compose(text, _TextLoader)
        content = yaml.load(text, _TextLoader)
    except EncodingError as error:
        raise ValueError(f"{file}:{error.line}: {error}") from error
    # yaml raises ValueError for characters that are not printable
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(_yaml_message(file, error)) from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}:1: the file has no keys such as train, val and names")
    return DataFile(file, content, {k.value: k.start_mark.line + 1 for k, _ in node.value})


def _yaml_message(file: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    where = f"{file}:{mark.line + 1}" if mark else str(file)
    if isinstance(error, yaml.reader.ReaderError):
        line = read_text(file).count("\n", 0, error.position) + 1
        where, reason = f"{file}:{line}", f"the character {chr(error.character)!r} is not allowed"
    hint = "; write paths with / or without quotes" if "escape" in reason else ""
    return f"{where}: the file is not YAML: {reason}{hint}"


def splits_of(data: DataFile, folder: Path) -> dict[str, YOLOSource]:
    """Finds the folders and lists of images that a data file names.

    Args:
        data: the content of the file. A path is relative to the key `path`, if there is one, and to
            the folder of the file. Otherwise the folder with the most similar path is taken.
        folder: the folder of the dataset.

    Raises:
        FileNotFoundError: there is no such folder for train or val.
        ValueError: a value is not a path, or it stands for two folders.
    """
    splits, notes = {}, []
    for split in SPLITS:
        key = next((key for key in _KEYS[split] if data.get(key)), None)
        if key is None:
            continue
        try:
            sources = tuple(_image_source(text, key, data, folder) for text in _texts(data, key))
        except FileNotFoundError as error:
            if split != "test":
                raise
            # Roboflow names a test folder even if there is none
            notes.append(
                ("missing test split", data.where(key), f"{error}: there is no test split")
            )
            continue
        adapted = tuple(("folder name adapted", *x.note) for x in sources if x.note)
        splits[split] = YOLOSource(sources[0].path, split, folder, sources, data, notes=adapted)
    if not splits:
        raise ValueError(f"{data.path}: the keys train and val name no images")
    # a missing split is reported with every other one
    return {k: replace(source, notes=(*source.notes, *notes)) for k, source in splits.items()}


def _texts(data: DataFile, key: str) -> list[str]:
    """Returns the paths of a key, which may be a single one or a list."""
    value = data.get(key)
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{data.where(key)}: {key} must be a path or a list of paths")
    return texts


def _image_source(text: str, key: str, data: DataFile, folder: Path) -> ImageSource:
    """Returns the folder or list that a path in a data file stands for."""
    base, root = data.path.parent, data.get("path")
    written = _slashes(text)
    if isinstance(root, str):
        written = os.path.join(_slashes(root), written).replace(os.sep, "/")
    where, literal = data.where(key), Path(os.path.normpath(base / written))
    inner = _inside(base, written) or _inside(folder, written)
    # Path.exists raises OSError for a long name
    if os.path.exists(literal):
        if inner is None or os.path.samefile(literal, inner):
            return ImageSource(literal)
        raise ValueError(
            f"{where}: {key}: {text} may be {literal} or {inner}: write the path relative to the "
            "file, without `path`"
        )
    inner = inner or _below(folder, written)
    if inner is None:
        raise FileNotFoundError(f"{where}: {key}: {text}: there is no {literal}")
    # ../train/images is Roboflow's way to write train/images
    if inner == base / written.removeprefix("../"):
        return ImageSource(inner)
    note = f"{key}: {os.path.normpath(written)} is read as {inner}"
    return ImageSource(inner, note=(where, note))


def _slashes(text: str) -> str:
    return os.path.expanduser(text.strip().replace("\\", "/"))


def _inside(folder: Path, written: str) -> Path | None:
    """Returns the path in a folder that is the longest possible ending of a path."""
    endings = (_descend(folder, ending) for ending in _endings(written))
    return next((path for path in endings if path), None)


def _below(folder: Path, written: str) -> Path | None:
    """Returns the only folder of images, or list, whose path has the longest possible ending."""
    files = list(walk(folder))
    folders = {x for file in files if is_image(file) for x in file.parents if folder in x.parents}
    lists = [file for file in files if file.suffix.lower() == ".txt"]
    paths = [([*map(plain_name, x.parts)], x) for x in (*folders, *lists)]
    for ending in _endings(written):
        plain = [*map(plain_name, ending)]
        matches = [path for parts, path in paths if parts[-len(plain) :] == plain]
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None


def _endings(written: str) -> Iterator[list[str]]:
    """Yields the last parts of a path, most parts first. The part that names a split is kept."""
    parts = [p for p in written.split("/") if p not in ("", ".", "..") and not _DRIVE.match(p)]
    for start in range(len(parts)):
        if any(map(split_of, parts[:start])) and not any(map(split_of, parts[start:])):
            return
        yield parts[start:]


def _descend(folder: Path, parts: Iterable[str]) -> Path | None:
    """Returns the path below a folder; a part may differ in letter case and Unicode form."""
    for part in parts:
        if not os.path.exists(folder / part):
            names = [x.name for x in folder.iterdir()] if folder.is_dir() else []
            similar = [name for name in names if plain_name(name) == plain_name(part)]
            if len(similar) != 1:
                return None
            part = similar[0]
        folder = folder / part
    return folder


def plain_name(name: str) -> str:
    """Returns a name in one letter case and Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


def counterparts(folder: Path, of_images: bool) -> list[Path]:
    """Lists the folders that usually hold the labels of a folder of images, or the reverse.

    They are the folder in which the last `images` (or `JPEGImages`) of the path is `labels`, and
    the folder itself.

    Args:
        folder: a folder of images, or of labels.
        of_images: whether the folder has images.
    """
    old = ("images", "jpegimages") if of_images else ("labels",)
    parts = list(folder.parts)
    position = next((i for i in reversed(range(len(parts))) if parts[i].lower() in old), None)
    if position is None:
        return [folder]
    new = ("labels",) if of_images else ("images", "JPEGImages")
    # on systems that distinguish them
    new += ("Images",) if not of_images else ("Labels",) if parts[position][0] == "I" else ()
    return [*(Path(*parts[:position], name, *parts[position + 1 :]) for name in new), folder]


def is_image(path: Path) -> bool:
    """Whether a file is an image that can be read, by its suffix."""
    return path.suffix.lower() in image_suffixes()


def files_in(folder: Path) -> list[Path]:
    """Returns the files in a folder, sorted, without hidden ones; none if there is no folder."""
    return [folder / name for name in names_in(folder)]


def names_in(folder: Path) -> list[str]:
    """Returns the names of `files_in`, which is faster."""
    try:
        return sorted(x.name for x in os.scandir(folder) if not is_hidden(x.name) and x.is_file())
    except OSError:
        return []
