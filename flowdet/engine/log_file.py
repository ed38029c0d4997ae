"""The file log.txt of a run."""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from detectron2.utils.logger import setup_logger

from flowdet.engine.atomic_file import disk_errors

_LOGGERS = ({"name": "flowdet"}, {"name": "fvcore"}, {})


def open_log_file(folder: str, rank: int = 0) -> None:
    """Makes flowdet, fvcore and detectron2 log to the terminal and to log.txt of a folder.

    If log.txt cannot be written, the logging call raises DiskError, so that the program ends with
    one line. If the terminal cannot be written, such as after `| head`, the program goes on, with
    one line on standard error. Python's logging would print a traceback for every message.

    Args:
        folder: the folder of the run.
        rank: rank of the process; all but the first have their own file and no terminal.
    """
    for name in _LOGGERS:
        logger = setup_logger(folder, distributed_rank=rank, **name)
        for handler in logger.handlers:
            if _is_in(handler, folder):
                # not the encoding of the locale, which may lack characters of class names
                handler.stream.reconfigure(encoding="utf-8")
                handler.handleError = _error_handler(handler, _fail)
            elif isinstance(handler, logging.StreamHandler):
                handler.handleError = _error_handler(handler, _go_on)


def _error_handler(
    handler: logging.StreamHandler, react: Callable[[IO, OSError], None]
) -> Callable[[logging.LogRecord], None]:
    """Returns the method `handleError` of a handler: if its file or terminal cannot be written, it
    gets no further lines, and `react` is called."""

    def handle(record: logging.LogRecord) -> None:
        error, stream = sys.exc_info()[1], handler.stream
        if isinstance(error, OSError):
            _remove_handlers(stream)
            react(stream, error)
        else:
            logging.StreamHandler.handleError(handler, record)

    return handle


def _fail(stream: IO, error: OSError) -> None:
    # closing the file at the end would fail again
    atexit.unregister(stream.close)
    with disk_errors(stream.name):
        raise error


def _go_on(stream: IO, error: OSError) -> None:
    # standard error may be the same terminal
    with contextlib.suppress(OSError):
        print(f"messages cannot be printed ({error.strerror}): log.txt has them", file=sys.stderr)


def _remove_handlers(stream: IO) -> None:
    """Removes the handlers of a stream, to which later messages could not be written either."""
    for name in _LOGGERS:
        logger = logging.getLogger(name.get("name", "detectron2"))
        logger.handlers = [x for x in logger.handlers if getattr(x, "stream", 0) != stream]


def _is_in(handler: logging.Handler, folder: str) -> bool:
    file = getattr(getattr(handler, "stream", None), "name", "")
    return isinstance(file, str) and Path(file).parent == Path(folder)
