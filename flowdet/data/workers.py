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
from multiprocessing.queues import Queue

from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

_SHARED_MEMORY = re.compile(
    r"signal: Bus error|unable to (open|allocate|resize|write|mmap|map) .*|shared memory",
    re.IGNORECASE,
)
# the exit code of a worker that cannot open the connection by which it sends a tensor
_NO_FILE = errno.EMFILE
_OPEN_FILES = re.compile(
    rf"too many open files|items of ancdata|exit code {_NO_FILE}\b", re.IGNORECASE
)
_WORKER_ENDED = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\)(.*)", re.DOTALL)
_RAISED_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.")
_LESS = (
    "lower DATALOADER.NUM_WORKERS (0 needs none), or start the container with more, for example "
    "docker run --shm-size 8g"
)
# a semaphore or a file for shared memory, without which no worker starts
_SHARED_FILES = ("multiprocessing/synchronize.py", "multiprocessing/heap.py")
_RECEIVING = "torch/multiprocessing/reductions.py"
# the time in which the end of a process that was killed is seen
_SECONDS_TO_END = 5.0
# the time in which a signal reaches all processes
_SECONDS_OF_SIGNALS = 0.5

# a loader that could not start has no such attribute: torch would print a traceback when it is
# deleted
_MultiProcessingDataLoaderIter._shutdown = True


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
    except (RuntimeError, OSError, ValueError, EOFError) as error:
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


def is_worker_error(error: BaseException | None) -> bool:
    """Returns whether `worker_errors` replaces an error by one line that says what to do."""
    return isinstance(error, (RuntimeError, OSError, EOFError)) and bool(_reason(error))


def _reason(error: Exception) -> str:
    """Returns what is missing and what to do; "" if no worker ran out of anything or was killed."""
    text = _texts(error)
    of_worker = _WORKER_ENDED.search(text) or _RAISED_IN_WORKER.search(text)
    cannot_start = "the worker processes that load data cannot start"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        if _is_raised_in(error, "popen_fork.py"):
            return _memory(f"{cannot_start}: there is not enough")
    elif isinstance(error, OSError) and _is_raised_in(error, *_SHARED_FILES):
        reason = f"because shared memory (/dev/shm) cannot be used ({error.strerror})"
        return f"{cannot_start}, {reason}: {_LESS}"
    if _OPEN_FILES.search(text) and (of_worker or isinstance(error, RuntimeError)):
        return (
            "the worker processes that load data have too many open files: lower "
            "DATALOADER.NUM_WORKERS, or raise the limit with ulimit -n 65536"
        )
    if of_worker and _SHARED_MEMORY.search(text):
        return f"a worker process that loads data ran out of shared memory (/dev/shm): {_LESS}"
    ended = _WORKER_ENDED.search(text)
    # in the moment before torch sees that a worker has ended
    is_lost = isinstance(error, (ConnectionError, EOFError)) and _is_raised_in(error, _RECEIVING)
    if ended or is_lost:
        how = " ".join(ended[1].splitlines()[0].split()).rstrip(".") if ended else ""
        return _memory(f"a worker process that loads data {how or 'ended'}; usually it ran out of")
    return ""


def _is_raised_in(error: Exception, *files: str) -> bool:
    """Returns whether an error came from a function in one of the files."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename.replace(os.sep, "/").endswith(files) for frame in frames)


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
            handle_sending_errors()
            outlive_sigterm()
            _share(sample)
        return sample


@cache
def handle_sending_errors() -> None:
    """Handles the errors of the two threads that send samples; call it in the worker.

    Python prints them and goes on, and the training would wait forever for the sample: without a
    free file descriptor a thread prints the same traceback again and again. Now the training gets
    the error in place of the sample, or the worker ends.
    """
    Queue._on_queue_feeder_error = _send_error
    print_error = sys.excepthook

    # the thread that serves the file descriptors of tensors calls it
    def hook(kind, error, trace):
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            os._exit(_NO_FILE)
        lost = isinstance(error, (ConnectionError, EOFError))
        # a training that was killed in the middle of a transfer
        if not (lost and wait([multiprocessing.parent_process().sentinel], _SECONDS_TO_END)):
            print_error(kind, error, trace)

    sys.excepthook = hook


def _send_error(queue: Queue, error: Exception, item: object) -> None:
    """Puts the error that the sending of an item raised into the queue, in its place."""
    if not isinstance(item, tuple):
        # torch sends pairs of an index and a sample; this one is already in bytes
        os._exit(1)
    where = f"in DataLoader worker process {get_worker_info().id}"
    wrapper = ExceptionWrapper((type(error), error, error.__traceback__), where)
    queue.put((item[0], wrapper))


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
