"""What the commands in tools/ share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one line for what a user can mend: a wrong file, key or value."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        # the text of a KeyError is its repr
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")


def typed_command() -> str:
    """The command line of this program, as it is typed in a checkout."""
    return shlex.join([f"tools/{Path(sys.argv[0]).name}", *sys.argv[1:]])
