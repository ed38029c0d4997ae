#!/usr/bin/env python
"""Ends one of several training processes from outside, and checks that all of them end.

    benchmarks/processes.py
    benchmarks/processes.py --ways killed stopped --processes 2 --output docs/results/processes.json

A training of a small classifier runs in 2 and in 3 processes on the CPU. After some iterations one
of its processes is killed, terminated or stopped, or the program that started them is killed, or
Ctrl-C is pressed. The command checks that the program ends in time with an error status and without
a traceback, that the last line says what happened, and that no process is left. It takes some
minutes on two cores, and exits with status 1 if a check fails. Linux only.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from flowdet.cli.common import at_least_one, user_errors
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import write_results

CONFIG = "cls/digits_flow_vit"
WORDS = [
    *("MODEL.DEVICE", "cpu", "MODEL.VIT.HIDDEN_DIM", "16", "MODEL.VIT.NUM_LAYERS", "2"),
    *("MODEL.VIT.NUM_HEADS", "2", "MODEL.FLOW_CLS.HIDDEN_DIM", "16"),
    *("MODEL.FLOW_CLS.BLOCK_DIM", "16", "MODEL.FLOW_CLS.NUM_BLOCKS", "2"),
    *("SOLVER.MAX_EPOCHS", "0", "SOLVER.MAX_ITER", "1000000", "SOLVER.IMS_PER_BATCH", "6"),
    *("DATALOADER.NUM_WORKERS", "1", "TEST.REPORT", "False", "SEED", "0"),
]
TIMEOUT_MINUTES = 0.5
SECONDS_TO_START = 600
# the time in which torch waits for a process to end
GRACE = 30
SECONDS_TO_CLEAN = 60


class Way(NamedTuple):
    """A way in which a training is ended.

    Attributes:
        signal: the signal that is sent.
        to: "process" for the last one, "program" for the one that started them, or "all".
        message: regular expression of a part of the last line of the output. The process that waits
            for a killed one can be the first to report.
        seconds: time in which the program must have ended.
    """

    signal: signal.Signals
    to: str
    message: str
    seconds: float


WAYS = {
    "killed": Way(signal.SIGKILL, "process", "ended with SIGKILL|another process has ended", 60),
    "terminated": Way(
        signal.SIGTERM, "process", "ended with SIGTERM|another process has ended", 60
    ),
    "stopped": Way(
        signal.SIGSTOP,
        "process",
        f"did not answer for {TIMEOUT_MINUTES:g} minutes",
        60 * TIMEOUT_MINUTES + 2 * GRACE,
    ),
    "program killed": Way(signal.SIGKILL, "program", "", 60),
    "Ctrl-C": Way(signal.SIGINT, "all", "--config-file", 60),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    add("--processes", nargs="+", type=at_least_one, default=[2, 3], help="default: 2 3")
    add("--output", type=Path, metavar="FILE", help="JSON file for the results")
    return parser.parse_args()


def training_processes(program: int) -> list[int]:
    """Returns the training processes of a program."""
    found = []
    for child in (
        Path(f"/proc/{program}/task/{program}/children").read_text(encoding="utf-8").split()
    ):
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        # the resource tracker of multiprocessing is another child
        if b"multiprocessing.spawn" in command:
            found.append(int(child))
    return found


def living(session: int) -> list[int]:
    """Returns the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # after the name in parentheses: state, parent, group, session
            state, _, _, owner, *_ = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_until(condition, seconds: float) -> bool:
    """Waits until a condition holds; returns whether it does within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def check(name: str, count: int, folder: Path) -> dict:
    """Trains in `count` processes, ends them in one way, and returns what happened."""
    way, log = WAYS[name], folder / "log.txt"
    command = [sys.executable, "-m", "flowdet.cli.train", "--config-file", CONFIG]
    command += ["--num-gpus", str(count), "--timeout", str(TIMEOUT_MINUTES), *WORDS]
    with log.open("w", encoding="utf-8") as file:
        # in a session of its own, so that all its processes are found
        program = subprocess.Popen(
            [*command, "OUTPUT_DIR", str(folder / "run")],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        metrics = folder / "run" / "metrics.json"
        trains = wait_until(
            lambda: metrics.is_file() or program.poll() is not None, SECONDS_TO_START
        )
        if not trains or program.poll() is not None:
            raise OSError(f"the training did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
        start = time.monotonic()
        if way.to == "all":
            os.killpg(program.pid, way.signal)
        else:
            one = training_processes(program.pid)[-1] if way.to == "process" else program.pid
            os.kill(one, way.signal)
        ended = wait_until(lambda: program.poll() is not None, way.seconds)
        seconds = time.monotonic() - start
        # processes that load data look every 5 seconds whether their process lives
        all_ended = wait_until(lambda: not living(program.pid), SECONDS_TO_CLEAN)
        text = log.read_text(encoding="utf-8")
        last_line = text.splitlines()[-1]
        return {
            "way": name,
            "processes": count,
            "seconds": round(seconds, 1),
            "seconds_until_all_ended": round(time.monotonic() - start, 1),
            "status": program.poll(),
            "last_line": last_line,
            "failure": ", ".join(
                problem
                for problem, holds in {
                    "the program did not end": ended,
                    "processes are left": all_ended,
                    "the exit status is 0": program.poll() != 0,
                    f"the last line has no {way.message!r}": re.search(way.message, last_line),
                    "there is a traceback": "Traceback" not in text,
                }.items()
                if not holds
            ),
        }
    finally:
        for process in living(program.pid):
            os.kill(process, signal.SIGKILL)
        program.wait()


def main() -> int:
    args = parse_args()
    # a shell script's background jobs ignore SIGINT, and so would the programs that are started
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    with user_errors():
        for count in args.processes:
            for name in args.ways:
                with tempfile.TemporaryDirectory(prefix="processes_") as folder:
                    rows.append(check(name, count, Path(folder)))
                    if rows[-1]["failure"]:
                        print((Path(folder) / "log.txt").read_text(encoding="utf-8")[-5000:])
                print(rows[-1], flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github"))
    if args.output:
        write_results(args.output, rows, command=typed_command(), config=CONFIG, seeds=[0])
    return 0 if all(not row["failure"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
