"""Downloads by iopath, whose bar and log lines would come before flowdet's error."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import tqdm

from flowdet.data.custom.findings import one_line

# seconds before a bar is shown
_DELAY = 1.0
_bar = tqdm.tqdm


@contextmanager
def quiet_downloads() -> Iterator[None]:
    """A failed download prints nothing, and a bar has no control characters of a URL.

    The error that iopath raises says all that it logs.
    """
    logger = logging.getLogger("iopath.common.download")
    disabled, logger.disabled = logger.disabled, True
    # iopath takes the class from the module at every download
    tqdm.tqdm = _delayed_bar
    try:
        yield
    finally:
        tqdm.tqdm = _bar
        logger.disabled = disabled


def _delayed_bar(*args, **options) -> tqdm.tqdm:
    description = one_line(options.pop("desc", None) or "")
    return _bar(*args, desc=description, delay=_DELAY, **options)
