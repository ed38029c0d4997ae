#!/usr/bin/env python
"""Feeds flowdet malicious and broken files, kills trainings, and counts what happens.

    benchmarks/chaos.py                              # all checks
    benchmarks/chaos.py malicious_weights fuzz_text --rounds 100
    benchmarks/chaos.py --list

A file is read, or it ends with one clear line. Everything else, a traceback, code that runs or a
file outside of the folders, is a failure, and so is a resumed training that differs from one that
was not killed, or a process that does not end with the others: the command prints it and ends with
exit status 1.
docs/reliability.md has the counts. A further check is a function in `CHECKS`.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowdet.cli.common import at_least_one

# isort: split
import torch
from tabulate import tabulate

from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import write_results

# the generators of files belong to the tests, which run a part of them
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.malicious.names import name_outcomes
from tests.malicious.odd_names import odd_name_outcomes
from tests.malicious.outcomes import (
    READ,
    REFUSED,
    Outcome,
    changed_outcomes,
    structure_outcomes,
    weights_outcome,
)
from tests.malicious.text_files import changed
from tests.malicious.weight_files import all_files, safetensors_bytes, torch_bytes, zoo_bytes

CODE_RAN, DIFFERS, NOT_ENDED = "code ran", "the resumed run differs", "not ended as it should"


@dataclass(frozen=True)
class Settings:
    """The settings of all checks.

    Attributes:
        folder: an empty folder.
        rounds: the number of random changes of each kind of file.
    """

    folder: Path
    rounds: int


def malicious_weights(settings: Settings) -> Iterator[Outcome]:
    """Weight files that run code, hang, crash or fill the memory if they are trusted."""
    marker = settings.folder / "marker"
    for name, content in all_files(str(marker)).items():
        path = settings.folder / name
        path.write_bytes(content)
        outcome = weights_outcome(path)
        if list(settings.folder.glob("marker*")):
            outcome = Outcome(name, CODE_RAN)
        yield outcome
        path.unlink()


def changed_weights(settings: Settings) -> Iterator[Outcome]:
    """Good weight files of every format with one random change each."""
    contents = {
        "weights.pth": torch_bytes(_state()),
        "legacy.pth": torch_bytes(_state(), zipped=False),
        "zoo.pkl": zoo_bytes(_state()),
        "weights.safetensors": safetensors_bytes(_state()),
    }
    for seed in range(settings.rounds):
        rng = random.Random(seed)
        for name, content in contents.items():
            path = settings.folder / name
            path.write_bytes(changed(content, rng))
            outcome = weights_outcome(path)
            yield Outcome(f"{name}, seed {seed}", outcome.kind, outcome.messages, outcome.seconds)


def _state() -> dict:
    return {"conv.weight": torch.zeros(4, 3, 3, 3), "fc.bias": torch.ones(5)}


def _listed(kind: str) -> Callable[[Settings], Iterator[Outcome]]:
    def check(settings: Settings) -> Iterator[Outcome]:
        return structure_outcomes(settings.folder / "data", kind, slow=True)

    return check


def fuzz_text(settings: Settings) -> Iterator[Outcome]:
    """Annotation files of every format, and configs, with one random change each."""
    return changed_outcomes(settings.folder / "data", range(settings.rounds))


def kills(settings: Settings) -> Iterator[Outcome]:
    """Trainings that are killed and resumed, see `benchmarks/kills.py`."""
    for row in _rows_of("kills.py", settings.folder):
        name, difference = f"{row['task']} killed: {row['killed']}", row["difference"]
        yield Outcome(name, DIFFERS, (difference,)) if difference else Outcome(name, READ)


def processes(settings: Settings) -> Iterator[Outcome]:
    """One of several training processes is killed or stopped, see `benchmarks/processes.py`."""
    for row in _rows_of("processes.py", settings.folder):
        name, failure = f"{row['processes']} processes, {row['way']}", row["failure"]
        kind = NOT_ENDED if failure else REFUSED
        yield Outcome(name, kind, (failure or row["last_line"],), row["seconds"])


def _rows_of(script: str, folder: Path) -> list[dict]:
    """Runs another benchmark, in its own process; returns the rows of its result file."""
    path = folder / "results.json"
    command = [sys.executable, Path(__file__).with_name(script), "--output", path]
    subprocess.run(command, check=False)
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def class_names(settings: Settings) -> Iterator[Outcome]:
    """Trainings, reports and demos with class names that are paths, markup and formulas."""
    return name_outcomes(settings.folder)


def odd_names(settings: Settings) -> Iterator[Outcome]:
    """Names of classes, images, folders and URLs in every format, and files that are none."""
    return odd_name_outcomes(settings.folder)


CHECKS: dict[str, Callable[[Settings], Iterator[Outcome]]] = {
    "malicious_weights": malicious_weights,
    "changed_weights": changed_weights,
    "malicious_xml": _listed("xml"),
    "malicious_json": _listed("json"),
    "malicious_yaml": _listed("yaml"),
    "malicious_configs": _listed("config"),
    "fuzz_text": fuzz_text,
    "class_names": class_names,
    "odd_names": odd_names,
    "kills": kills,
    "processes": processes,
}


def run_check(name: str, rounds: int) -> tuple[dict, list[Outcome]]:
    """Runs a check; returns its row of the result file and the failures."""
    start, counts, slowest = time.perf_counter(), Counter(), 0.0
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in CHECKS[name](Settings(Path(folder), rounds)):
            counts[outcome.kind] += 1
            slowest = max(slowest, outcome.seconds)
            if not outcome.is_clear:
                failures.append(outcome)
    tried = sum(counts.values())
    row = {
        "check": name,
        "metric": "failures",
        "mean": len(failures),
        "std": None,
        "n": tried,
        "outcomes": dict(counts),
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return row, failures


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checks", nargs="*", metavar="CHECK", help="the checks to run (default: all)")
    add("--list", action="store_true", help="list the checks")
    add("--rounds", type=at_least_one, default=50, help="random changes of each kind of file")
    add("--output", type=Path, metavar="FILE", help="JSON file for the counts")
    args = parser.parse_args(argv)
    unknown = [name for name in args.checks if name not in CHECKS]
    if unknown:
        parser.error(f"there is no check {unknown[0]!r}: use some of {', '.join(CHECKS)}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.list:
        print("\n".join(CHECKS))
        return 0
    rows, failed = [], []
    for name in args.checks or CHECKS:
        row, failures = run_check(name, args.rounds)
        rows.append(row)
        failed += failures
        print(f"{name}: {row['n']} tried, {row['mean']} failures, {row['seconds']} s", flush=True)
    columns = ("check", "n", "mean", "outcomes", "slowest_seconds")
    headers = ["check", "tried", "failures", "outcomes", "slowest (s)"]
    print(tabulate([[row[column] for column in columns] for row in rows], headers))
    for outcome in failed:
        print(f"failure: {outcome.file}: {outcome.kind}: {' | '.join(outcome.messages)[:500]}")
    if args.output:
        write_results(args.output, rows, command=typed_command(), config="", seeds=[])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
