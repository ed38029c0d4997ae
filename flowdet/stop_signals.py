"""Signals that stop a command as Ctrl-C does.

SIGTERM comes from SLURM, Docker and systemd, SIGHUP from a terminal that is closed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Windows has no SIGHUP
_OTHERS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _Received:
    """The process whose signals are handled, and the last one that it received."""

    process = 0
    number = signal.SIGINT


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raises KeyboardInterrupt at SIGTERM and SIGHUP, too.

    Signals that are ignored, such as SIGHUP after `nohup`, or that have a handler stay as they are.
    """
    # only the main thread can have a signal handler
    is_main_thread = threading.current_thread() is threading.main_thread()
    numbers = [x for x in _OTHERS if is_main_thread and signal.getsignal(x) is signal.SIG_DFL]
    if numbers:
        _Received.process, _Received.number = os.getpid(), signal.SIGINT
    for number in numbers:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _) -> None:
    if os.getpid() != _Received.process:
        # a process that was forked ends as it would without this handler
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    note_stop_signal(number)
    raise KeyboardInterrupt


def handled_signals() -> list[int]:
    """Returns SIGINT, and the signals that `stop_signals` handles now."""
    return [signal.SIGINT, *(x for x in _OTHERS if signal.getsignal(x) is _interrupt)]


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Handles Ctrl-C, and the signals of `stop_signals`, only at the end of the block.

    For C++ code that calls Python, such as that of `torch.save`: an exception of a handler there is
    replaced by another one, or ends the process.
    """
    received: list[int] = []
    is_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {x: signal.getsignal(x) for x in (signal.SIGINT, *_OTHERS) if is_main_thread}
    # signals that are ignored, or end the process at once, stay as they are
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)


def note_stop_signal(number: int) -> None:
    """Notes the signal that stops this process. Without a note, it is Ctrl-C."""
    _Received.number = number


def stop_signal() -> int:
    """Returns the number of the signal that stops this process."""
    return _Received.number


def stop_name() -> str:
    """Returns what stops this process, for messages: "Ctrl-C", or the name of the signal."""
    number = _Received.number
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def stop_status() -> int:
    """Returns the exit status of a program that is stopped: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _Received.number
