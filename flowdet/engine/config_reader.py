"""Reads config files with their bases; every error names the file, and the line if it has one."""

from __future__ import annotations

import copy
import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from flowdet.config.errors import ConfigError
from flowdet.data.limited_yaml import MAX_BYTES, LimitedYAML

_BASE = "_BASE_"
MAX_FILES = 100


class ConfigFileError(ConfigError):
    """A config file is not valid YAML, or does not contain keys."""


@dataclass(frozen=True)
class ConfigFile:
    """A config file and its bases.

    Attributes:
        keys: nested dict of the keys; the keys of a file replace those of its bases.
        files: path and keys of every file, the bases first.
    """

    keys: dict
    files: list[tuple[str, dict]]

    def file_of(self, key: str) -> str:
        """Returns the path of the file that sets a key, such as `SOLVER.BASE_LR`."""
        for path, keys in reversed(self.files):
            node = keys
            for name in key.split("."):
                node = node.get(name) if isinstance(node, dict) else None
            if node is not None:
                return path
        return self.files[-1][0]


def read_config_file(path: str) -> ConfigFile:
    """Reads a config file and its bases (`_BASE_`: a path, or a list of paths).

    Paths of bases are relative to the folder of the file that names them.

    Raises:
        ConfigFileError: a file is not valid YAML, sets a key twice, does not contain keys, is its
            own base, or has a URL as its base.
        FileNotFoundError: a base does not exist.
    """
    files = list(itertools.islice(_with_bases(path, ()), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        raise ConfigFileError(
            f"{path} has more than {MAX_FILES} bases ({_BASE}), counted repeatedly"
        )
    merged: dict = {}
    for _, keys in files:
        _merge(keys, merged)
    return ConfigFile(merged, files)


def _with_bases(path: str, derived: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yields path and keys of the bases of a file, then of the file.

    Args:
        path: path of the file.
        derived: real paths of the files whose base it is.
    """
    real = os.path.realpath(path)
    if real in derived:
        raise ConfigFileError(
            f"{path} is its own base ({_BASE}): remove the key in one of the files"
        )
    keys = _read(path)
    bases = keys.pop(_BASE, None) or []
    for base in bases if isinstance(bases, list) else [bases]:
        yield from _with_bases(_base_path(base, path), (*derived, real))
    yield path, keys


def _base_path(base: object, path: str) -> str:
    """Returns the path of a base of the file `path`."""
    if not isinstance(base, str):
        raise ConfigFileError(f"{path}: {_BASE} is {base!r}, but must be the path of a config file")
    # a config that was read from a file must not make this program open other hosts
    if "://" in base:
        raise ConfigFileError(
            f"{path}: {_BASE} is the URL {base}: download the file, and write its path"
        )
    base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    if not os.path.isfile(base_path):
        raise FileNotFoundError(
            f"{path}: {_BASE} names {base!r}, but there is no file {base_path}; it is relative "
            "to the folder of the config file"
        )
    return base_path


def _merge(keys: dict, into: dict) -> None:
    """Sets nested keys, in place. A section without keys changes nothing."""
    for name, value in keys.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(value, into[name])
        elif value is not None or not isinstance(into.get(name), dict):
            into[name] = _copy(value)


def _copy(value: object) -> object:
    """Copies nested dicts, so that merging does not change the keys of a single file."""
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def _read(path: str) -> dict:
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigFileError(f"{path} has more than {MAX_BYTES:,} bytes: is it a config file?")
    try:
        loaded = copy.deepcopy(_parsed(content))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigFileError(f"{path}, line {mark.line + 1}: {_problem(error)}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigFileError(f"{path}{_place(error, content)}") from error
    if loaded is None:
        raise ConfigFileError(f"{path} is empty: write keys into it, such as SEED: 1")
    if not isinstance(loaded, dict):
        raise ConfigFileError(
            f"{path} contains a {type(loaded).__name__}, not keys with values such as SEED: 1: is "
            "it a config file?"
        )
    return loaded


@functools.lru_cache(maxsize=64)
def _parsed(content: bytes) -> object:
    """Parses the content of a file; bytes, because yaml recognizes byte order marks and UTF-16.

    Cached, because commands read a config and its bases several times.
    """
    return yaml.load(content, Loader=_Loader)


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Describes an error of yaml in one line."""
    if "'\\t'" in str(error.problem):
        return "there is a tab; indent with spaces"
    if error.context is None and isinstance(error, yaml.constructor.ConstructorError):
        return error.problem
    context = f"{error.context}, " if error.context else ""
    return f"it is not valid YAML: {context}{error.problem}".replace("\n", " ")


def _place(error: yaml.reader.ReaderError, content: bytes) -> str:
    """Describes where a file contains bytes that are no text."""
    if b"\0" in content[:1000]:
        return " is a binary file, not a config file"
    lines = content.split(b"\n")
    bad = next((i for i, line in enumerate(lines, start=1) if not _is_text(line)), None)
    where = f", line {bad}" if bad else ""
    return f"{where}: it is not UTF-8 text: save the file with the encoding UTF-8 ({error.reason})"


def _is_text(line: bytes) -> bool:
    try:
        return not yaml.reader.Reader.NON_PRINTABLE.search(line.decode())
    except UnicodeDecodeError:
        return False


class _Loader(LimitedYAML, yaml.SafeLoader):
    """Refuses names with a dot, and a name that is set twice: yaml would keep only the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name = key.value
            if key.tag != "tag:yaml.org,2002:str":
                continue
            group, dot, last = name.partition(".")
            if dot:
                raise _key_error(key, f"write {name} as {group}: and, indented below it, {last}:")
            if name in lines:
                raise _key_error(key, f"{name} is set again, after line {lines[name]}: keep one")
            lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _key_error(key: yaml.ScalarNode, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
