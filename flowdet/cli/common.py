"""What the commands share: one-line errors for users, option types, config overrides."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flowdet.reporting.results import program_name


def command_parser(description: str) -> argparse.ArgumentParser:
    """A parser that prints a description as it is, see `with_program`."""
    program = program_name()
    return argparse.ArgumentParser(
        prog=program,
        description=with_program(description, program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def with_program(description: str, program: str) -> str:
    """A description whose example lines, `    tools/NAME.py ...`, start with this program."""
    return re.sub(r"^    tools/\w+\.py", f"    {program}", description, flags=re.MULTILINE)


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


# SOLVER.BASE_LR, or what detectron2 has outside of a node
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|SEED|OUTPUT_DIR|VIS_PERIOD|CUDNN_BENCHMARK")


def parse_with_overrides(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """As the parser's own, with all that follows the first key of a config, or `--opts`, as `opts`,
    even after an option that takes any number of words."""
    words = list(sys.argv[1:] if argv is None else argv)
    start = next(
        (i for i, word in enumerate(words) if word == "--opts" or _KEY.fullmatch(word)), None
    )
    if start is not None:
        # what argparse itself ends the options with
        words.insert(start, "--")
    args = parser.parse_args(words)
    args.opts = [word for word in args.opts if word not in ("--", "--opts")]
    return args
