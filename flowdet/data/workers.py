"""Errors of the worker processes that load data, in one line that says what to do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait

from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

_SHARED_MEMORY = re.compile(
    r"signal: Bus error|unable to (open|allocate|resize|write|mmap|map) .*|shared memory",
    re.IGNORECASE,
)
_OPEN_FILES = re.compile(r"too many open files|items of ancdata", re.IGNORECASE)
_WORKER_ENDED = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\)(.*)", re.DOTALL)
_RAISED_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.")
# the time in which the end of a process that was killed is seen
_SECONDS_TO_END = 5.0
# the time in which a signal reaches all processes
_SECONDS_OF_SIGNALS = 0.5


@contextmanager
def worker_errors() -> Iterator[None]:
    """Replaces errors of worker processes by errors of one line.

    A worker can end at any time, and torch then raises a RuntimeError wherever the main process is.
    So this surrounds a whole training or evaluation, not only the iteration over a loader.

    Raises:
        OSError: a worker ran out of shared memory, memory or file descriptors, or was killed. The
            message says which keys to set.
        OSError, ValueError: a worker raised this, for example for an image that it cannot read. The
            message is that of the worker.
    """
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        reason = _reason(error)
        if "signal: Terminated" in reason:
            # often sent to all processes, and to this one last, which then raises KeyboardInterrupt
            time.sleep(_SECONDS_OF_SIGNALS)
        if reason:
            raise OSError(reason) from error
        original = _original_message(error)
        if original and isinstance(error, (OSError, ValueError)):
            raise type(error)(original) from error
        raise


def _reason(error: Exception) -> str:
    """Returns what is missing and what to do; "" if no worker ran out of anything or was killed."""
    text = _texts(error)
    of_worker = _WORKER_ENDED.search(text) or _RAISED_IN_WORKER.search(text)
    if isinstance(error, OSError) and error.errno == errno.ENOMEM and _is_raised_by_fork(error):
        return _memory("the worker processes that load data cannot start: there is not enough")
    if _OPEN_FILES.search(text) and (of_worker or isinstance(error, RuntimeError)):
        return (
            "the worker processes that load data have too many open files: lower "
            "DATALOADER.NUM_WORKERS, or raise the limit with ulimit -n 65536"
        )
    if of_worker and _SHARED_MEMORY.search(text):
        return (
            "a worker process that loads data ran out of shared memory (/dev/shm): lower "
            "DATALOADER.NUM_WORKERS (0 needs none), or start the container with more, for example "
            "docker run --shm-size 8g"
        )
    ended = _WORKER_ENDED.search(text)
    if ended:
        how = " ".join(ended[1].splitlines()[0].split()).rstrip(".")
        return _memory(f"a worker process that loads data {how or 'ended'}; usually it ran out of")
    return ""


def _is_raised_by_fork(error: Exception) -> bool:
    """Returns whether the start of a process raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename.endswith("popen_fork.py") for frame in frames)


def _texts(error: BaseException | None) -> str:
    """Returns the messages of an error and of its causes, one a line, the first cause first.

    Of a killed worker, the last error may only say that it ended, and its cause the signal.
    """
    texts = []
    while error is not None:
        texts.insert(0, str(error))
        error = error.__cause__
    return "\n".join(texts)


def _memory(what: str) -> str:
    return (
        f"{what} memory or shared memory: lower DATALOADER.NUM_WORKERS or SOLVER.IMS_PER_BATCH, or "
        "start the container with more (docker run --memory, --shm-size)"
    )


def _original_message(error: Exception) -> str:
    """Returns the message of an error that a worker raised; "" for other errors."""
    text = str(error)
    if not _RAISED_IN_WORKER.match(text):
        return ""
    # the text ends with the traceback, whose last line is "NAME: MESSAGE"
    last = text.strip().splitlines()[-1]
    return re.sub(r"^[\w.]+: ", "", last)


class SharedSamples(Dataset):
    """Samples of a dataset whose tensors a worker process moves to shared memory.

    Without it, torch moves them in a thread that only prints its errors, and the main process would
    wait forever for a sample if the shared memory is full.

    Args:
        samples: the dataset.
    """

    def __init__(self, samples: Dataset):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key):
        sample = self._samples[key]
        if get_worker_info() is not None:
            hide_end_of_training()
            outlive_sigterm()
            _share(sample)
        return sample


@cache
def hide_end_of_training() -> None:
    """Leaves out the traceback of a worker whose training is killed while it sends a tensor.

    Call it in the worker: the thread that sends tensors prints errors by `sys.excepthook`.
    """
    print_error = sys.excepthook

    def hook(kind, error, trace):
        lost = isinstance(error, (ConnectionError, EOFError))
        if not (lost and wait([multiprocessing.parent_process().sentinel], _SECONDS_TO_END)):
            print_error(kind, error, trace)

    sys.excepthook = hook


@cache
def outlive_sigterm() -> None:
    """Ends a worker at SIGTERM only if its training sent it.

    SLURM and systemd send it to all processes of a training, which then finishes its iteration, and
    needs its workers for that. Call it in the worker.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return

    def wait_for_training() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    # threads that start later have it from this one
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait_for_training, daemon=True, name="outlive_sigterm").start()


def _share(value: object) -> None:
    """Moves all tensors in a value to shared memory, in place."""
    if isinstance(value, Tensor):
        # shared memory cannot be empty
        if value.untyped_storage().nbytes():
            value.share_memory_()
    elif isinstance(value, Boxes):
        _share(value.tensor)
    elif isinstance(value, (dict, Instances)):
        fields = value if isinstance(value, dict) else value.get_fields()
        for x in fields.values():
            _share(x)
    elif isinstance(value, (list, tuple)):
        for x in value:
            _share(x)
