#!/usr/bin/env python
"""Kills trainings with SIGKILL at chosen points, resumes them, and compares them with whole ones.

    benchmarks/kills.py
    benchmarks/kills.py --tasks detection --points note evaluation

Every training of a small detector and a small classifier is killed once, such as in the middle of a
checkpoint or between a checkpoint and `last_checkpoint`, and then resumed with `--resume`. The
command checks that

- the weights, their moving average and the state of the optimizer equal those of a training that
  was not killed, bit for bit;
- `metrics.json` has the same metrics at the same iterations, and equal evaluations;
- results.json has the same metrics;
- no half-written file is left in the folder of the run, and nothing in the temporary folder.

It takes about five minutes on two cores, and exits with status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

# isort: split
import torch
from tabulate import tabulate
from tqdm import tqdm

import flowdet.cli.run_training
import flowdet.cli.train
from flowdet.data.detection.builtin import register_digits
from flowdet.data.detection.digits import make_digits
from flowdet.engine import checkpoint_files, metrics_file
from flowdet.engine.metrics_file import read_records
from flowdet.engine.trainer import Trainer
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import write_results

SOLVER = [
    *("SOLVER.MAX_EPOCHS", "0", "SOLVER.CHECKPOINT_EPOCHS", "0", "TEST.EVAL_EPOCHS", "0"),
    *("SOLVER.MAX_ITER", "6", "SOLVER.WARMUP_EPOCHS", "0", "SOLVER.WARMUP_ITERS", "2"),
    *("SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2", "SOLVER.EMA_DECAY", "0.5"),
    *("SOLVER.IMS_PER_BATCH", "4", "SEED", "3", "TEST.REPORT", "False"),
    *("TEST.SAMPLE_IMAGES", "0", "MODEL.DEVICE", "cpu"),
]
TASKS = {
    "detection": [
        *("--config-file", "digits_flow.yaml", "MODEL.FLOW_DET.HIDDEN_DIM", "32"),
        *("MODEL.SMALL_RESNET.CHANNELS", "[8,8,16]", "DATALOADER.NUM_WORKERS", "1"),
    ],
    "classification": [
        *("--config-file", "cls/digits_flow_vit.yaml", "MODEL.VIT.HIDDEN_DIM", "16"),
        *("MODEL.VIT.NUM_LAYERS", "2", "MODEL.VIT.NUM_HEADS", "2"),
        *("MODEL.FLOW_CLS.HIDDEN_DIM", "16", "MODEL.FLOW_CLS.BLOCK_DIM", "16"),
        *("MODEL.FLOW_CLS.NUM_BLOCKS", "2", "DATALOADER.NUM_WORKERS", "0"),
    ],
}
# what depends on the time or the process
TIMES = ("time", "data_time", "rank_data_time", "eta_seconds", "evaluation_seconds")
TIMES += ("images_per_second", "memory/")
# losses are medians over the iterations since the start of the process
EXACT = ("bbox", "classification", "lr")
# processes that load data end some seconds after the one that started them
SECONDS_TO_CLEAN = 30


def kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(number: int, function: Callable, before: Callable = kill) -> Callable:
    """Returns a function that calls `before` instead of its call with this number, from 1."""
    calls = iter(range(1, 10**6))

    def call(*args, **kwargs):
        if next(calls) == number:
            return before(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def kill_in_write(number: int, module: object, name: str, part: float) -> None:
    """Kills in a file of `write_atomically`, after a part of it; 1 is before it is renamed."""
    write_atomically = module.write_atomically

    def half(path, write, size=None):
        def write_part(file):
            write(file)
            file.flush()
            file.truncate(int(file.tell() * part))
            os.fsync(file.fileno())
            kill()

        return write_atomically(path, write_part, size)

    matching = on_call(number, write_atomically, half)

    def select(path, write, size=None):
        chosen = matching if Path(path).match(name) else write_atomically
        return chosen(path, write, size)

    module.write_atomically = select


def kill_before_note(number: int) -> None:
    name_last_checkpoint = checkpoint_files.name_last_checkpoint
    checkpoint_files.name_last_checkpoint = on_call(number, name_last_checkpoint)


def kill_in_step(number: int) -> None:
    Trainer.run_step = on_call(number, Trainer.run_step)


def kill_in_evaluation(number: int) -> None:
    """Kills in the first batch of an evaluation; the moving average is evaluated separately."""
    build_evaluator = Trainer.build_evaluator

    def build(*args, **kwargs):
        evaluator = build_evaluator(*args, **kwargs)
        evaluator.process = kill
        return evaluator

    Trainer.build_evaluator = on_call(number, build_evaluator, build)


def kill_in_metrics(number: int) -> None:
    """Kills in the middle of a line of metrics.json."""
    line = metrics_file._line

    def half(record: dict) -> str:
        with open(Path(os.environ["RUN"]) / metrics_file.METRICS, "a", encoding="utf-8") as file:
            file.write(line(record)[:50])
        kill()

    metrics_file._line = on_call(number, line, half)


def kill_before_results() -> None:
    flowdet.cli.run_training.write_results = kill


# of a training with checkpoints and evaluations after iterations 2, 4 and 6
POINTS: dict[str, Callable[[], None]] = {
    "before the first checkpoint": lambda: kill_in_step(2),
    "first checkpoint": lambda: kill_in_write(1, checkpoint_files, "model_*.pth", 0.5),
    "half of a checkpoint": lambda: kill_in_write(2, checkpoint_files, "model_*.pth", 0.5),
    "checkpoint without its name": lambda: kill_in_write(2, checkpoint_files, "model_*.pth", 1),
    "between a checkpoint and its note": lambda: kill_before_note(2),
    "half of a note": lambda: kill_in_write(2, checkpoint_files, "last_checkpoint", 0.5),
    "half of a metrics record": lambda: kill_in_metrics(3),
    "iteration": lambda: kill_in_step(6),
    "evaluation": lambda: kill_in_evaluation(3),
    "evaluation of the moving average": lambda: kill_in_evaluation(4),
    "half of the final model": lambda: kill_in_write(4, checkpoint_files, "model_*.pth", 0.5),
    "between the final model and its note": lambda: kill_before_note(4),
    "last evaluation": lambda: kill_in_evaluation(5),
    "before results.json": kill_before_results,
}


def train(task: str, folder: Path, point: str = "", resume: bool = False) -> int:
    """Trains in a forked process, which is killed at a point; returns its wait status."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        scratch = folder.with_name(f"{folder.name}_tmp")
        scratch.mkdir(exist_ok=True)
        os.environ |= {"TMPDIR": str(scratch), "RUN": str(folder)}
        tempfile.tempdir = None
        log = os.open(
            folder.with_name(f"{folder.name}.txt"), os.O_CREAT | os.O_WRONLY | os.O_APPEND
        )
        for stream in (1, 2):
            os.dup2(log, stream)
        if point:
            POINTS[point]()
        words = [*TASKS[task][:2], *(["--resume"] if resume else []), *TASKS[task][2:]]
        words += [*SOLVER, "OUTPUT_DIR", str(folder)]
        # what detectron2 logs about the machine takes longer than the training
        environment = mock.patch("flowdet.engine.run_start.collect_env_info", lambda: "")
        with environment, mock.patch("sys.argv", ["tools/train_net.py", *words]):
            flowdet.cli.train.main(words)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # as at the end of a process, without the functions of the one that forked
        sys.stdout.flush()
        atexit._run_exitfuncs()
        os._exit(status)


def problems_of(folder: Path, expected: Path) -> list[str]:
    """Compares a resumed training with one that was not killed."""
    problems = []
    actual, whole = (
        torch.load(x / checkpoint_files.FINAL, weights_only=True) for x in (folder, expected)
    )
    for part in ("model", "ema", "trainer"):
        if not equal(actual[part], whole[part]):
            problems.append(f"{part} differs")
    problems += metric_problems(metrics(folder), metrics(expected))
    if final_rows(folder) != final_rows(expected):
        problems.append("results.json differs")
    problems += [f"{path.name} is left" for path in folder.rglob("*.partial*")]
    scratch = folder.with_name(f"{folder.name}_tmp")
    end = time.monotonic() + SECONDS_TO_CLEAN
    while any(scratch.iterdir()) and time.monotonic() < end:
        time.sleep(0.1)
    return problems + [f"{path.name} is left in the temporary folder" for path in scratch.iterdir()]


def equal(one: object, other: object) -> bool:
    """Compares nested dicts and lists of tensors and numbers bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(x, other[name]) for name, x in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def metrics(folder: Path) -> dict[int, dict[str, list[float]]]:
    """Returns the values of every metric that does not depend on time, by iteration."""
    merged: dict[int, dict[str, list[float]]] = {}
    for record in read_records(folder):
        values = merged.setdefault(record.pop("iteration"), {})
        for name, value in record.items():
            if not name.startswith(TIMES):
                values.setdefault(name, []).append(value)
    return {iteration: values for iteration, values in merged.items() if values}


def metric_problems(actual: dict, expected: dict) -> list[str]:
    problems = []
    for iteration in sorted(actual.keys() | expected.keys()):
        one, other = actual.get(iteration, {}), expected.get(iteration, {})
        for name in sorted(one.keys() | other.keys()):
            values = one.get(name, [])
            # nan of a class without objects
            same = repr(values) == repr(other.get(name)) or not name.startswith(EXACT)
            if len(values) != 1 or not same:
                problems.append(f"{name} of iteration {iteration} is {values}")
    return problems


def final_rows(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    points = f"parts of the names of the points where to kill: {', '.join(POINTS)}"
    parser.add_argument("--points", nargs="+", metavar="TEXT", default=[""], help=points)
    parser.add_argument("--folder", type=Path, help="keeps the runs and their output here")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the results")
    return parser.parse_args()


def run(tasks: list[str], points: list[str], folder: Path) -> list[list]:
    """Returns a row for every kill: task, point, and what is wrong; "" if nothing is."""
    make_digits(folder / "digits", num_train=8, num_test=8)
    register_digits(folder)
    table = []
    for task in tasks:
        if train(task, folder / task):
            raise RuntimeError(f"the training without a kill failed, see {folder / task}.txt")
        for point in tqdm(points, task):
            path = folder / f"{task} {point}"
            killed, resumed = train(task, path, point), train(task, path, resume=True)
            if not os.WIFSIGNALED(killed) or os.WTERMSIG(killed) != signal.SIGKILL:
                text = "was not killed there"
            elif resumed:
                text = f"--resume ends with status {os.waitstatus_to_exitcode(resumed)}"
            else:
                text = "; ".join(problems_of(path, folder / task)[:3])
            table.append([task, point, text])
            if text:
                tqdm.write(f"{task}, {point}: {text}")
    return table


def main() -> int:
    args = parse_args()
    torch.set_num_threads(1)
    points = [point for point in POINTS if any(part in point for part in args.points)]
    # not a TemporaryDirectory, which the first forked process would delete at its end
    scratch = tempfile.mkdtemp(prefix="kills_")
    try:
        table = run(args.tasks, points, args.folder or Path(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(tabulate([[*row[:2], row[2] or "equal"] for row in table], ["task", "killed", "resumed"]))
    failed = sum(bool(row[2]) for row in table)
    print(f"{len(table)} kills, {failed} of them with a difference")
    if args.output:
        rows = [dict(zip(("task", "killed", "difference"), row, strict=True)) for row in table]
        write_results(args.output, rows, command=typed_command(), config="", seeds=[3])
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
