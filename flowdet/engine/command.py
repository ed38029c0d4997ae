"""What the commands in tools/ share."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def user_errors(
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError),
) -> Iterator[None]:
    """Ends the program with one line for what a user can mend: a wrong file, key or value."""
    try:
        yield
    except kinds as error:
        # the text of a KeyError is its repr
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")


def at_least_one(text: str) -> int:
    """The type of options that count.

    Raises:
        argparse.ArgumentTypeError: it is no whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


def typed_command() -> str:
    """The command line of this program, as it is typed in a checkout."""
    program = Path(sys.argv[0]).resolve()
    return shlex.join([f"{program.parent.name}/{program.name}", *sys.argv[1:]])
