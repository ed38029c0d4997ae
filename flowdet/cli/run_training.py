"""`tools/train_net.py`: trains, evaluates or replays, after the options are read."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

from detectron2.config import CfgNode
from detectron2.utils import comm

from flowdet.cli.common import is_memory_error, print_error, user_errors
from flowdet.cli.processes import (
    is_process_error,
    launch_processes,
)
from flowdet.cli.replay import config_of_step, replay
from flowdet.config.config_files import config_path
from flowdet.data.workers import is_worker_error
from flowdet.engine import (
    Trainer,
    evaluate,
    keep_freed_memory,
    load_config,
    load_trained,
    resolve_config,
)
from flowdet.engine.checkpoint import check_weights_exist
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.checkpoint_notes import read_notes, run_config
from flowdet.engine.dataset_findings import log_dataset_remarks, save_findings
from flowdet.engine.earlier_run import (
    finish_setting_aside,
    is_setting_aside,
    set_earlier_run_aside,
)
from flowdet.engine.log_file import open_log_file
from flowdet.engine.resumed_keys import check_resumed_keys, check_resumed_length
from flowdet.engine.run_folder import EVALUATION, check_output_folder, locked_folder
from flowdet.engine.run_start import start_run
from flowdet.engine.task_builders import DETECTION, task_of
from flowdet.engine.whole_model import checkpoint_beside
from flowdet.reporting.command_line import program_name, sibling_program, typed_command
from flowdet.reporting.report import write_report
from flowdet.reporting.results import result_rows, write_results
from flowdet.stop_signals import stop_name, stop_status

# errors in a training that are due to the user's files
RUN_ERRORS = (OSError, ValueError, FloatingPointError)
# in OUTPUT_DIR, written after the training and its last evaluation
RESULTS = "results.json"


def setup(args: argparse.Namespace, resources: ExitStack) -> CfgNode:
    """Sets up logging and writes config.yaml; returns the resolved, frozen config.

    Args:
        args: the options.
        resources: gets the lock of the folder.
    """
    path = config_path(args.config_file)
    cfg = load_config(path, args.opts, trust_config=args.trust_config)
    args.run_dir = cfg.OUTPUT_DIR
    check_output_folder(cfg.OUTPUT_DIR)
    if args.eval_only:
        is_unfinished = comm.is_main_process() and is_setting_aside(cfg.OUTPUT_DIR)
        # not while a training is doing it
        with locked_folder(cfg.OUTPUT_DIR) if is_unfinished else nullcontext():
            finish_setting_aside(cfg.OUTPUT_DIR)
        # the config.yaml and results.json of the run stay unchanged
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, EVALUATION)
    check_weights_exist(weights_to_evaluate(cfg, args))
    make_output_folder(cfg.OUTPUT_DIR)
    check_output_folder(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        resources.enter_context(locked_folder(cfg.OUTPUT_DIR))
    if not args.eval_only:
        finish_setting_aside(cfg.OUTPUT_DIR)
    open_log_file(cfg.OUTPUT_DIR, comm.get_rank())
    if args.resume and not newest_checkpoint(args.run_dir):
        weights = f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}" if cfg.MODEL.WEIGHTS else "random weights"
        what = "evaluation takes" if args.eval_only else "training starts anew from"
        logging.getLogger("flowdet").warning(
            "--resume finds no checkpoint in OUTPUT_DIR %s: the %s %s", args.run_dir, what, weights
        )
    is_resumed = args.resume and not args.eval_only
    resolve_config(cfg, not args.eval_only, is_resumed)
    if is_resumed:
        # before the config.yaml of the run is written again
        check_resumed_length(cfg)
        check_resumed_keys(cfg, args.override)
    if not args.eval_only and not (args.resume and newest_checkpoint(cfg.OUTPUT_DIR)):
        set_earlier_run_aside(cfg)
    cfg.freeze()
    start_run(cfg, args, path, trains=not args.eval_only)
    hide_tracebacks_of_user_errors()
    return cfg


def make_output_folder(folder: str) -> None:
    """Creates OUTPUT_DIR; the error for a folder that cannot be created names the key."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(f"OUTPUT_DIR {folder} cannot be created: {error.strerror}") from error


def hide_tracebacks_of_user_errors() -> None:
    """Keeps the traceback of an error that ends the training with one line off the terminal.

    detectron2 logs it; log.txt has it.
    """

    def is_shown(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_explained = is_process_error(error) or is_memory_error(error) or is_worker_error(error)
        return not (isinstance(error, RUN_ERRORS) or is_explained)

    for handler in logging.getLogger("detectron2").handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(is_shown)


def train(args: argparse.Namespace) -> dict | None:
    """Trains or evaluates, in every process of `launch`; returns the metrics of the evaluation."""
    with ExitStack() as resources:
        with user_errors(interrupts=False):
            cfg = setup(args, resources)
            run = prepare(cfg, args)
        # such as an unreadable image or logits that are not finite; the log contains the traceback
        with user_errors(RUN_ERRORS, interrupts=False):
            results = run()
        if comm.is_main_process():
            if results:
                save_results(cfg, args, results)
            if cfg.TEST.REPORT and not args.eval_only:
                report(cfg)
        return results


def prepare(cfg: CfgNode, args: argparse.Namespace) -> Callable[[], dict | None]:
    """Builds the model and the data; returns the function that trains or evaluates."""
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if args.eval_only:
        model = Trainer.build_model(cfg)
        weights = weights_to_evaluate(cfg, args)
        with checkpoint_beside(args.config_file, "MODEL.WEIGHTS"):
            average = load_trained(cfg, model, weights, cfg.MODEL.CLASS_NAMES)
        return lambda: evaluate(cfg, model, average)
    # built once here, so that problems of the test datasets are reported before the training
    for name in cfg.DATASETS.TEST:
        Trainer.build_test_loader(cfg, name)
    if comm.is_main_process() and task_of(cfg) is DETECTION:
        log_dataset_remarks(cfg)
        save_findings(cfg, cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train


def weights_to_evaluate(cfg: CfgNode, args: argparse.Namespace) -> str:
    """With `--resume` the last checkpoint of the run, if it has one; otherwise `MODEL.WEIGHTS`."""
    return (newest_checkpoint(args.run_dir) if args.resume else "") or cfg.MODEL.WEIGHTS


def save_results(cfg: CfgNode, args: argparse.Namespace, results: dict) -> None:
    """Writes the metrics, the command, the config file and the seed to results.json."""
    length = evaluated_length(cfg, args) if args.eval_only else None
    by_dataset = {cfg.DATASETS.TEST[0]: results} if len(cfg.DATASETS.TEST) == 1 else results
    rows = []
    for name, tasks in by_dataset.items():
        rows += result_rows(cfg, name, tasks, length)
    path = os.path.join(cfg.OUTPUT_DIR, RESULTS)
    write_results(path, rows, command=typed_command(), config=args.config_file, seeds=[cfg.SEED])


def evaluated_length(cfg: CfgNode, args: argparse.Namespace) -> dict[str, int]:
    """Returns the iterations of the evaluated checkpoint, if it records them.

    The config of an evaluation does not say how long the weights were trained.
    """
    iteration = read_notes(weights_to_evaluate(cfg, args)).iteration
    return {} if iteration is None else {"iterations": iteration + 1}


def report(cfg: CfgNode) -> None:
    """Writes the run's report.html."""
    try:
        path = write_report(cfg.OUTPUT_DIR)
        logging.getLogger("flowdet").info("Report: %s", path)
    # the training is complete and its results are written: a failing report must not hide that
    except Exception:
        logging.getLogger("flowdet").exception("The report could not be written")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit status, 130 after Ctrl-C, 143 after SIGTERM."""
    if args.replay:
        with user_errors():
            path = config_path(args.config_file or config_of_step(args.replay))
            replay(load_config(path, args.opts), args.replay)
        return 0
    start = time.time()
    try:
        launch_processes(train, args)
        return 0
    except KeyboardInterrupt:
        pass
    # outside of the handler, whose traceback keeps open bars alive
    try:
        text = interruption_text(args, start)
    # such as a config file that was deleted since the start
    except (OSError, ValueError, KeyError, ImportError) as error:
        text = f"Stopped by {stop_name()}. The command that continues is not known: {error}"
    print_error(f"\n{text}")
    return stop_status()


def moved_weights(cfg: CfgNode) -> str:
    """Returns an override for `MODEL.WEIGHTS` that were moved with an earlier run in the folder."""
    model = run_config(cfg.OUTPUT_DIR).get("MODEL")
    weights = str(model.get("WEIGHTS") or "") if isinstance(model, dict) else ""
    if os.path.isfile(cfg.MODEL.WEIGHTS) or not os.path.isfile(weights):
        return ""
    return f" MODEL.WEIGHTS {shlex.quote(weights)}"


def interruption_text(args: argparse.Namespace, start: float) -> str:
    """Says after Ctrl-C, or another signal that stops the command, how to go on.

    Args:
        args: the parsed arguments.
        start: the time when the command started, in seconds since the epoch. Checkpoints of other
            runs in the same folder are older.
    """
    command = typed_command()
    if args.eval_only:
        return f"The evaluation was stopped by {stop_name()}. Start it again with:\n    {command}"
    path = config_path(args.config_file)
    cfg = load_config(path, args.opts, trust_config=args.trust_config)
    results = os.path.join(cfg.OUTPUT_DIR, RESULTS)
    if os.path.isfile(results) and os.path.getmtime(results) >= start:
        return (
            f"The training is complete ({results}); its report was stopped by {stop_name()}. Write "
            f"it with:\n    {sibling_program('report')} --run {shlex.quote(cfg.OUTPUT_DIR)}"
        )
    checkpoint = newest_checkpoint(cfg.OUTPUT_DIR)
    is_of_run = bool(checkpoint) and (args.resume or os.path.getmtime(checkpoint) >= start)
    if not is_of_run:
        return (
            f"The training was stopped by {stop_name()} before its first checkpoint. Start it "
            f"again with:\n    {command}{moved_weights(cfg)}"
        )
    if not args.resume:
        program = program_name()
        command = f"{program} --resume{command.removeprefix(program)}"
    return (
        f"The training was stopped by {stop_name()}. Its last checkpoint is {checkpoint}. Continue "
        f"with:\n    {command}"
    )
