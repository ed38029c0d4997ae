"""Shared code of the commands that train several runs and print a table of the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowdet.cli.common import at_least_one, command_parser, print_error, user_errors
from flowdet.config.errors import UsageError
from flowdet.reporting.command_line import typed_command
from flowdet.stop_signals import stop_name, stop_status

if TYPE_CHECKING:
    from flowdet.experiments.comparison import Comparison

# the keys that a training budget sets in every run
BUDGET_KEYS = ("SOLVER.IMS_PER_BATCH", "SOLVER.MAX_EPOCHS", "SOLVER.MAX_ITER")


def table_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of all these commands; use it with `parse_with_overrides`."""
    parser = command_parser(description)
    add = parser.add_argument
    add(
        "--seeds",
        type=at_least_one,
        default=2,
        metavar="N",
        help="train with seeds 0 to N - 1 (default: 2)",
    )
    add(
        "--jobs",
        type=at_least_one,
        default=1,
        metavar="N",
        help="number of runs that are trained at the same time; they share the cores, so their "
        "training seconds are those of a part of the machine (default: 1)",
    )
    add("--output", type=Path, metavar="FOLDER", help="folder of the runs and the table")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides for every config")
    return parser


def check_overrides(overrides: Sequence[str], options: Mapping[str, str]) -> None:
    """Checks that no override sets a key that belongs to an option of the command.

    Args:
        overrides: `KEY VALUE` pairs.
        options: the option that sets each such key, in addition to `--seeds` and `--output`.

    Raises:
        ValueError: an override sets such a key.
    """
    reserved = {"SEED": "--seeds", "OUTPUT_DIR": "--output", **options}
    for key in overrides[::2]:
        if key in reserved:
            raise UsageError(f"{key} is set by {reserved[key]}: leave it out")


def train_and_report(plan: Callable[[], Comparison], report: Callable[[Comparison], None]) -> None:
    """Plans the runs, trains those that are not done, and reports.

    An error of the user or a failed run ends the program with a one-line message and a nonzero
    status, Ctrl-C with status 130, SIGTERM with 143, and the command that continues.
    """
    try:
        comparison = _train_and_report(plan, report)
    except KeyboardInterrupt:
        print_error(f"\nStopped by {stop_name()}. To continue, run again: {typed_command()}")
        sys.exit(stop_status())
    if comparison.failed:
        sys.exit(f"{len(comparison.failed)} of {len(comparison.runs)} runs have failed")


def _train_and_report(
    plan: Callable[[], Comparison], report: Callable[[Comparison], None]
) -> Comparison:
    """Does what `train_and_report` does, but leaves Ctrl-C and failed runs to the caller."""
    from flowdet.engine import keep_freed_memory

    keep_freed_memory()
    with user_errors(interrupts=False):
        comparison = plan()
    with user_errors((OSError, ValueError), interrupts=False):
        comparison.train()
    # another error than that of a file is not the user's
    with user_errors((OSError,), interrupts=False):
        report(comparison)
    return comparison


def save_table(
    path: Path,
    comparison: Comparison,
    rows: list[dict],
    caption: str,
    draw: Callable[[str], str],
    failures: Sequence[str] = (),
) -> None:
    """Prints a table and the failed runs; writes both as Markdown, and the rows as JSON.

    Args:
        path: path of both files, without suffix.
        comparison: the runs of the table.
        rows: rows of the result file.
        caption: text above the table.
        draw: returns the table in a style of tabulate.
        failures: further failures, one line each, printed after the failed runs.
    """
    from flowdet.reporting.results import changed_keys, write_results, write_text

    runs, command = comparison.runs, typed_command()
    failed = [f"FAILED {folder}, {why}" for folder, why in comparison.failed.items()]
    below = "".join(f"{line}\n" for line in [*failed, *failures])
    if comparison.jobs > 1:
        caption += f" {comparison.jobs} runs were trained at the same time, which slows each."
    print(f"\n{caption}\n\n{draw('simple')}\n\n{below}")
    text = f"{caption}\n\n{draw('github')}\n\n{below}\nMade by `{command}`.\n"
    written = [
        write_text(path.with_name(f"{path.name}.md"), text.replace("\n\n\n", "\n\n")),
        write_results(
            path.with_name(f"{path.name}.json"),
            rows,
            command=command,
            config=", ".join(dict.fromkeys(run.config_file for run in runs)),
            seeds=sorted({run.seed for run in runs}),
            settings={run.folder.name: changed_keys(run.cfg) for run in runs if run.seed == 0},
        ),
    ]
    print(f"written: {', '.join(map(str, written))}")
