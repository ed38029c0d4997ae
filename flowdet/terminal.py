"""Bars on a terminal, and log lines above them.

Without a terminal (a file, a pipe, a notebook) no bar is shown, and the log lines of detectron2 are
printed as usual. Log files never contain a bar.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from detectron2.utils import comm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flowdet.control_characters import escaped

# the loggers with a handler for the terminal, see `flowdet.cli.run_training.setup`
_LOGGERS = ("detectron2", "flowdet", "fvcore")
# the size of a terminal for a bar if it is not known
_SIZE = {"ncols": 79, "nrows": 20}
# what log lines may contain: line breaks and tabs, and in those of detectron2 also colors
_KEPT = re.compile(r"([\n\t])")
_KEPT_OF_OTHERS = re.compile(r"([\n\t]|\x1b\[[0-9;]*m)")
# loggers whose lines repeat what a bar shows, and how these lines start
_REPLACED = {"detectron2.utils.events": "", "detectron2.evaluation.evaluator": "Inference done "}


def on_terminal() -> bool:
    """Whether this is the main process and its standard output is a terminal."""
    return comm.is_main_process() and sys.stdout.isatty()


def escape_log_lines() -> None:
    """Escapes control characters, and bytes that are not UTF-8, in all further log lines.

    They come from names of files and folders. Line breaks and tabs stay, and so do the colors in
    the lines of other packages. A second call does nothing.
    """
    make = logging.getLogRecordFactory()
    if make is not _escaped_record:
        _escaped_record.make = make
        logging.setLogRecordFactory(_escaped_record)


def _escaped_record(name: str, *args, **options) -> logging.LogRecord:
    record = _escaped_record.make(name, *args, **options)
    try:
        text = record.getMessage()
    # the handlers report it
    except (TypeError, ValueError, KeyError):
        return record
    kept = _KEPT if name.partition(".")[0] == "flowdet" else _KEPT_OF_OTHERS
    parts = kept.split(text)
    # every second part is kept
    parts[::2] = [escaped(part) for part in parts[::2]]
    if (escaped_text := "".join(parts)) != text:
        record.msg, record.args = escaped_text, ()
    return record


class LoaderWithBar:
    """A data loader that shows a bar while it is iterated over.

    Its length and its attributes are those of the loader.

    Args:
        loader: the loader; it has a length.
        description: the text before the bar.
    """

    def __init__(self, loader: Iterable, description: str):
        self._loader = loader
        self._description = description

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        return iter(terminal_bar(self._loader, desc=self._description, unit="batch"))

    def __getattr__(self, name: str):
        return getattr(self._loader, name)


def terminal_bar(iterable: Iterable | None = None, **options) -> tqdm:
    """Returns a tqdm bar on standard output, which is removed at its end.

    It is disabled without a terminal and in all processes but the main one.
    """
    defaults = {"file": sys.stdout, "leave": False} | _size(sys.stdout)
    return tqdm(iterable, **defaults | options, disable=not on_terminal())


def image_bar(images: Iterable, total: int | None, shown: bool = True, unit: str = "image") -> tqdm:
    """Returns a tqdm bar on standard error, which stays at its end.

    Args:
        images: what the bar iterates over.
        total: their number; None if it is not known.
        shown: whether to show the bar if standard error is a terminal.
        unit: the name of one of them.
    """
    disable = None if shown else True
    return tqdm(images, total=total, unit=unit, disable=disable, **_size(sys.stderr))


def _size(stream: IO) -> dict[str, Any]:
    """Returns tqdm's options for the size of a bar: that of the terminal.

    Some terminals, such as those of containers, say that they have 0 columns and 0 lines. tqdm
    would show nothing there.
    """
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except OSError:
        # no terminal
        return {"dynamic_ncols": True}
    if columns > 0 and lines > 0:
        return {"dynamic_ncols": True}
    return _SIZE | ({"ncols": columns - 1} if columns > 1 else {})


@contextmanager
def log_above_bars() -> Iterator[None]:
    """On a terminal, log lines are printed above the bars, without those that a bar replaces.

    Handlers of log files stay as they are.
    """
    if not on_terminal():
        yield
        return
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    # tqdm adds a handler to a logger that has none for the terminal
    loggers = [logger for logger in loggers if any(map(_is_terminal, logger.handlers))]
    with logging_redirect_tqdm(loggers):
        for logger in loggers:
            for handler in filter(_is_terminal, logger.handlers):
                handler.addFilter(_is_not_replaced)
        yield


def _is_terminal(handler: logging.Handler) -> bool:
    return getattr(handler, "stream", None) in (sys.stdout, sys.stderr)


def _is_not_replaced(record: logging.LogRecord) -> bool:
    start = _REPLACED.get(record.name)
    return start is None or not record.getMessage().startswith(start)
