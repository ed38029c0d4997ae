"""Runs a command in several processes with detectron2's `launch`, and explains how they end.

On GPUs each process has one. With `MODEL.DEVICE cpu` the processes share the cores and communicate
with gloo.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from flowdet.cli.common import user_errors

# A function that each process calls with the options of the command.
Main = Callable[[argparse.Namespace], object]

# the time in which a signal reaches all processes
_SECONDS_OF_SIGNALS = 0.5

# The errors of gloo are RuntimeErrors without a type of their own.
_COLLECTIVE_ERRORS = (
    "gloo/transport",
    "pair closure",
    "Connection closed by peer",
    "Timed out waiting",
)


def launch_processes(
    main: Callable[[argparse.Namespace], object], args: argparse.Namespace
) -> None:
    """Calls `main(args)` in `--num-gpus` processes on each of `--num-machines` machines.

    If a process ends with an error or is killed, the others are ended too, and so is the program,
    with the message of the first error. A process that does not answer counts as ended after
    `--timeout`. Sets environment variables, which the processes read when they start.

    Args:
        main: a function at the top level of a module. `comm.get_rank()` is its process.
        args: detectron2's flags, those of `flowdet.cli.process_options`, and `on_cpu`.
    """
    if args.num_gpus * args.num_machines <= 1:
        main(args)
        return
    _set_environment(args)
    ends = torch.multiprocessing.get_context("spawn").SimpleQueue()
    try:
        launch(
            _run_process,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args, ends),
            timeout=timedelta(minutes=args.timeout),
        )
    except (ProcessExitedException, ProcessRaisedException) as error:
        if getattr(error, "signal_name", None) in ("SIGTERM", "SIGHUP"):
            # it may be sent to all processes, and to this one last
            time.sleep(_SECONDS_OF_SIGNALS)
        # a process reports its error before it ends, and the others fail after that
        sys.exit(_how_it_ended(error) if ends.empty() else ends.get())
    except KeyboardInterrupt:
        # the signal may have been sent to this process alone
        for process in torch.multiprocessing.active_children():
            process.terminate()
        raise


def _set_environment(args: argparse.Namespace) -> None:
    """Sets the environment variables and loggers of the processes."""
    if args.on_cpu:
        # detectron2 takes NCCL if a GPU is visible
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        threads = max(1, torch.get_num_threads() // args.num_gpus)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # a process that was ended leaves semaphores, which Python then removes with a warning
    ignored = "ignore:resource_tracker:UserWarning"
    warnings = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{warnings},{ignored}" if warnings else ignored
    # no advice to turn the search for unused parameters off, see `distributed_model`
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # `_how_it_ended` says it
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)


def _run_process(main: Main, args: argparse.Namespace, ends) -> None:
    """Calls `main(args)` in a process of `launch`; puts how it ended into a queue.

    The parent process prints this, so that an error that all processes have is printed once.
    """
    end_with_parent()
    try:
        with user_errors((ConnectionError,), interrupts=False), process_errors(args.timeout):
            _use_timeout_everywhere(timedelta(minutes=args.timeout))
            main(args)
    except SystemExit as end:
        if end.code:
            ends.put(end.code)
            sys.exit(end.code if isinstance(end.code, int) else 1)
    except Exception:
        ends.put(traceback.format_exc())
        raise


def end_with_parent() -> None:
    """Ends this process when the one that started it ends, even if that one is killed.

    PyTorch sends SIGINT then, which the background jobs of a shell script ignore: they would go on
    training with nobody to end them.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        # another thread cannot raise an exception in the main one
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True, name="end_with_parent").start()


def _use_timeout_everywhere(timeout: timedelta) -> None:
    """Sets the timeout of the gloo group with which detectron2 gathers results of GPU processes."""
    if distributed.get_backend() == "nccl":
        # public since torch 2.14
        set_timeout = (
            getattr(distributed, "set_timeout", None)
            or distributed.distributed_c10d._set_pg_timeout
        )
        set_timeout(timeout, comm._get_global_gloo_group())


@contextmanager
def process_errors(minutes: float) -> Iterator[None]:
    """Replaces the error of a process that waited for another one by an error of one line.

    Args:
        minutes: `--timeout`.

    Raises:
        ConnectionError: another process has ended, or did not answer within the timeout.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_process_error(error):
            raise
        reason = str(error).splitlines()[0].split(" This is typically")[0]
        raise ConnectionError(
            f"another process has ended, or did not answer for {minutes:g} minutes (--timeout): "
            f"{reason}"
        ) from error


def is_process_error(error: BaseException | None) -> bool:
    """Returns whether an error says that another process has ended or does not answer."""
    if isinstance(error, distributed.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(part in text for part in _COLLECTIVE_ERRORS)


def _how_it_ended(error: ProcessExitedException | ProcessRaisedException) -> str:
    """Says how a process ended that could not report it."""
    if isinstance(error, ProcessRaisedException):
        # it could not connect with the others; the last line of its traceback
        reason = str(error).strip().splitlines()[-1]
        return f"error: process {error.error_index} could not start: {reason}"
    how = error.signal_name or f"exit code {error.exit_code}"
    memory = ", often because memory ran out" if how == "SIGKILL" else ""
    return f"error: process {error.error_index} ended with {how}{memory}; all others were stopped"
