"""What all commands share: one-line errors, types of options, config overrides."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flowdet.reporting.results import program_name


def command_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help prints the description unchanged, except for `with_program`."""
    program = program_name()
    return argparse.ArgumentParser(
        prog=program,
        description=with_program(description, program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def with_program(description: str, program: str) -> str:
    """Replaces `tools/NAME.py` at the start of the indented example lines by this program."""
    return re.sub(r"^    tools/\w+\.py", f"    {program}", description, flags=re.MULTILINE)


@contextmanager
def user_errors(
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError),
) -> Iterator[None]:
    """Ends the program with a one-line message for errors of the user: a wrong file, key or value.

    Args:
        kinds: the exceptions that are printed this way; all others pass through.
    """
    try:
        yield
    except kinds as error:
        # str() of a KeyError puts its message in quotes
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")


def at_least_one(text: str) -> int:
    """The type of an option that is a whole number above 0.

    Raises:
        argparse.ArgumentTypeError: the text is not such a number.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


# a config key: SOLVER.BASE_LR and the like, or one of the keys without a dot
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|SEED|OUTPUT_DIR|VIS_PERIOD|CUDNN_BENCHMARK")


def parse_with_overrides(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parses a command line that ends with `KEY VALUE` pairs.

    Everything after the first config key, or after `--opts`, goes to `opts`, even if an option that
    takes any number of words comes before it.

    Args:
        parser: has a positional argument `opts` that takes the remainder.
        argv: the command line; None for that of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    start = next(
        (i for i, word in enumerate(words) if word == "--opts" or _KEY.fullmatch(word)), None
    )
    if start is not None:
        # tells argparse that no option follows
        words.insert(start, "--")
    args = parser.parse_args(words)
    args.opts = [word for word in args.opts if word not in ("--", "--opts")]
    return args
