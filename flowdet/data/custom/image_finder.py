"""Finds the image files that annotations name, also if the names were written elsewhere."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.splits import SPLITS, split_of_path
from flowdet.data.image_files import image_suffixes

__all__ = ["FilesByStem", "ImageFinder", "closest", "is_hidden", "walk"]

# only the first images are searched for similar names: more would take too long
_MAX_SIMILAR = 20_000
# number of folders and file name of a path that are compared with a name
_MAX_PARTS = 6
# folders of the Finder in archives, and of file systems, which only root can read
_HIDDEN = ("__MACOSX", "lost+found")


class FilesByStem:
    """Files by their path without suffix, such as `cam1/0001`.

    Args:
        paths: the files.
        folders: folders that contain the files; paths are relative to their common parent.

    Attributes:
        paths: the files.
        ids: a name of every file, sorted: the file name without suffix, or the path without suffix
            if several files would have the same name.
    """

    def __init__(self, paths: Iterable[Path], folders: Sequence[Path]):
        self.paths = list(paths)
        root = os.path.commonpath(folders)
        self._by_path = _grouped(
            (os.path.relpath(path.with_suffix(""), root).replace(os.sep, "/"), path)
            for path in self.paths
        )
        self._by_name = _grouped((path.stem, path) for path in self.paths)
        stems = {stem.rpartition("/")[2] for stem in self._by_path}
        unique = len(stems) == len(self._by_path)
        self.ids = sorted(stems if unique else self._by_path)

    def get(self, stem: str) -> list[Path]:
        """Returns the files with this path, or else with this file name; without suffix."""
        return _distinct(self._by_path.get(stem) or self._by_name.get(stem, []))

    def by_name(self, stem: str) -> list[Path]:
        """Returns the files with this file name, without suffix, in any folder."""
        return _distinct(self._by_name.get(stem, []))

    def similar(self, stem: str) -> Path | None:
        """Returns the only file with this path or name in another letter case or Unicode form."""
        matches = self._by_plain.get(_plain(stem), [])
        return matches[0] if len(matches) == 1 else None

    def nearest(self, stem: str) -> str:
        """Returns the end of a sentence that tells the image of a similar name; "" for none."""
        return _nearest(stem.rpartition("/")[2], self.paths)

    @cached_property
    def _by_plain(self) -> dict[str, list[Path]]:
        groups = _grouped((_plain(stem), p) for stem, paths in self._by_path.items() for p in paths)
        for path in self.paths:
            groups.setdefault(_plain(path.stem), []).append(path)
        return {key: list(dict.fromkeys(paths)) for key, paths in groups.items()}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, such as `._photo.jpg` or `.ipynb_checkpoints`."""
    return name.startswith(".") or name in _HIDDEN


def walk(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder in sorted order, without hidden files and folders.

    Links to folders are followed, but not into a folder that contains them.

    Raises:
        OSError: a folder cannot be read, so its files would be missing.
    """
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        above = os.path.realpath(parent) + os.sep
        folders[:] = sorted(
            name
            for name in folders
            if not is_hidden(name)
            and not above.startswith(os.path.realpath(os.path.join(parent, name)) + os.sep)
        )
        for name in sorted(files):
            if not is_hidden(name):
                yield Path(parent, name)


def _raise(error: OSError) -> None:
    # a folder that does not exist has no files
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


class ImageFinder:
    """Finds images by the names in annotations.

    A name is taken as it is written. If there is no such file, exactly one image must have this
    name after a harmless change: backslashes, an absolute path or other folders of another machine,
    percent-encoding, letter case or the Unicode form. Such a change is reported as a repair.

    If several images have a name, one is taken only if it is in a folder of the split, in the
    preferred folder (see `prefer`), or the closest one to the annotation.

    Args:
        folders: the folders of the images. Their subfolders are searched too.
        findings: collects repairs and missing images.
        root: the folder of the dataset; None takes the common parent of `folders`.
        split: the split of the images. If a folder is named after it, images in folders that are
            named after other splits are found only by their exact path.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        findings: Findings,
        root: Path | None = None,
        split: str | None = None,
    ):
        self.folders = tuple(dict.fromkeys(folders))
        self._findings = findings
        self._root = root or Path(os.path.commonpath(self.folders))
        self._split = split if split in SPLITS else None
        self._preferred: Path | None = None
        self._left_out: tuple[Path, ...] = ()
        self._listings: dict[str, set[str]] = {}

    def find(
        self, names: Sequence[tuple[str, str]], annotations: Sequence[Path] | None = None
    ) -> list[Path | None]:
        """Returns the images that names stand for.

        An image that one of the names names exactly is not used for another name.

        Args:
            names: pairs of a name in the annotations, with or without folders, and its location
                for messages.
            annotations: the annotation file of each name, if there is one per image.

        Returns:
            The path of each file; None after reporting the problem "missing image".
        """
        near = annotations or [None] * len(names)
        exact = [self._exact(name, file) for (name, _), file in zip(names, near, strict=True)]
        paths = [matches[0] if len(matches) == 1 else None for matches in exact]
        used = {path for path in paths if path}
        adapted: dict[tuple[str, Path | None], Path] = {}
        for i, ((name, where), file) in enumerate(zip(names, near, strict=True)):
            if paths[i]:
                continue
            key = (name, file and file.parent)
            paths[i] = adapted.get(key)
            if not (paths[i] or exact[i]):
                paths[i] = self._similar(name, used | {*adapted.values()}, file)
            if paths[i]:
                adapted[key] = paths[i]
                text = f"{name} is read as {paths[i]}"
                self._findings.repair("file name adapted", where, text)
            else:
                self._findings.problem("missing image", where, self._missing(name))
        return paths

    def prefer(self, names: Sequence[str], first: Sequence[str] = ()) -> None:
        """Chooses among folders that contain files of the same names, such as images and masks.

        The first of the folders that is named like one of `first` is chosen, or else the one with
        most of the names. Folders with some of its names are left out. If no folder is named so,
        and several contain equally many, such a name is a problem.
        """
        contents = {
            folder: {name for name in names if os.path.isfile(os.path.join(folder, name))}
            for folder in self.folders
        }
        most = max(map(len, contents.values()))
        named = [f for name in first for f in contents if f.name == name and contents[f]]
        best = named[:1] or [f for f in contents if len(contents[f]) == most]
        if len(best) > 1 or not most:
            return
        self._preferred = best[0]
        self._left_out = tuple(
            folder
            for folder in self.folders
            if folder != best[0] and contents[folder] & contents[best[0]]
        )
        self.folders = tuple(folder for folder in self.folders if folder not in self._left_out)

    @cached_property
    def images(self) -> list[Path]:
        """All images in the folders and their subfolders.

        If a folder is named after the split, those in folders of other splits are left out.
        """
        paths = (path for folder in self.folders for path in walk(folder))
        paths = dict.fromkeys(
            path
            for path in paths
            if path.suffix.lower() in image_suffixes()
            and not any(folder in path.parents for folder in self._left_out)
        )
        if not self._has_own_folder:
            return list(paths)
        return [path for path in paths if self._split_of(path) in (None, self._split)]

    @cached_property
    def _by_ending(self) -> dict[str, list[Path]]:
        """The images by the last parts of their path, in one letter case and Unicode form."""
        return _grouped(
            ("/".join(parts[start:]), path)
            for path in self.images
            for parts in [_plain(path.as_posix()).split("/")[-_MAX_PARTS:]]
            for start in range(len(parts))
        )

    @cached_property
    def _has_own_folder(self) -> bool:
        """Whether a folder, which may be empty, is named after the split."""
        if self._split is None:
            return False
        folders = (Path(parent) for parent, _, _ in os.walk(self._root))
        return any(split_of_path(f, self._root) == self._split for f in folders if f != self._root)

    @cached_property
    def _parent_names(self) -> set[str]:
        return {_plain(path.parent.name) for path in self.images}

    def _split_of(self, path: Path) -> str | None:
        return split_of_path(path.parent, self._root)

    def _exact(self, name: str, annotation: Path | None) -> list[Path]:
        """Returns the file with this name; several if it is ambiguous, [] if there is none."""
        paths = [path for folder in self.folders if (path := self._file(folder, name))]
        if len({os.path.realpath(path) for path in paths}) < 2:
            return paths[:1]
        own = [path for path in paths if self._split and self._split_of(path) == self._split]
        if len(own) == 1:
            return own
        if self._preferred and (path := self._file(self._preferred, name)):
            return [path]
        path = closest(annotation, paths)
        return [path] if path else paths

    def _file(self, folder: Path, name: str) -> Path | None:
        path = os.path.join(folder, name)
        parent, base = os.path.split(path)
        if parent not in self._listings:
            self._listings[parent] = _files_in(parent)
        return Path(path) if base in self._listings[parent] else None

    def _similar(self, name: str, used: set[Path], annotation: Path | None) -> Path | None:
        """Returns the only image whose path ends like the name; the longest ending counts."""
        for text in dict.fromkeys((name, unquote(name))):
            text = text.replace("\\", "/").strip()
            parts = _plain(text).split("/")
            for start in range(len(parts)):
                # a folder that exists is not left out: the image is missing in it
                if start == len(parts) - 1 > 0 and parts[-2] in self._parent_names:
                    break
                matches = self._by_ending.get("/".join(parts[start:]), [])
                matches = [path for path in matches if path not in used]
                same_case = [path for path in matches if path.name == text.rpartition("/")[2]]
                matches = same_case or matches
                if matches:
                    return matches[0] if len(matches) == 1 else closest(annotation, matches)
        return None

    def _missing(self, name: str) -> str:
        folders = " or ".join(str(folder) for folder in self.folders[:3])
        text = f"there is no image {name} in {folders}"
        base = PurePosixPath(name.replace("\\", "/")).name
        matches = self._by_ending.get(_plain(base), [])
        if len(matches) > 1:
            return f"{text}; several images have this name, e.g. {matches[0]} and {matches[1]}"
        return text + _nearest(PurePosixPath(base).stem, self.images)


def closest(annotation: Path | None, paths: Sequence[Path]) -> Path | None:
    """Returns the image whose folders agree most with those of an annotation file.

    The first folders count most, then the last ones, as in labels/cam1/ and images/cam1/.

    Returns:
        The image; None without an annotation, or if several images agree equally.
    """
    if annotation is None:
        return None
    folders = annotation.parent.parts

    def agreement(path: Path) -> tuple[int, int]:
        parts = path.parent.parts
        first = os.path.commonpath([annotation.parent, path.parent])
        pairs = zip(reversed(folders), reversed(parts))
        return len(Path(first).parts), sum(1 for _ in takewhile(lambda x: x[0] == x[1], pairs))

    best = max(map(agreement, paths))
    matches = [path for path in paths if agreement(path) == best]
    return matches[0] if len(matches) == 1 else None


def _nearest(stem: str, paths: Sequence[Path]) -> str:
    """Returns the end of a sentence that tells the image of a similar name; "" for none."""
    names = {path.stem: path for path in paths[:_MAX_SIMILAR]}
    near = difflib.get_close_matches(stem, names, n=1, cutoff=0.8)
    return f"; an image of a similar name is {names[near[0]]}" if near else ""


def _plain(name: str) -> str:
    """A name in one letter case and Unicode form, without `.` folders."""
    text = unicodedata.normalize("NFC", name.strip()).casefold()
    return "/".join(part for part in text.split("/") if part not in ("", "."))


def _grouped(pairs: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for key, path in pairs:
        groups.setdefault(key, []).append(path)
    return groups


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """Leaves out paths that are links to another one of the paths."""
    files: dict[str, Path] = {}
    for path in paths:
        files.setdefault(os.path.realpath(path) if len(paths) > 1 else "", path)
    return list(files.values())


def _files_in(folder: str) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except OSError:
        return set()
