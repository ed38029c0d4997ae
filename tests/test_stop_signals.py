"""Signals that stop a command as Ctrl-C does."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from flowdet import stop_signals as signals
from flowdet.stop_signals import handled_signals, stop_name, stop_signals, stop_status

NAMES = [("SIGTERM", 143), ("SIGHUP", 129)]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def default_handlers(monkeypatch):
    monkeypatch.setattr(signals._Received, "number", signal.SIGINT)
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@pytest.mark.parametrize("name, status", NAMES)
def test_a_signal_raises_a_keyboard_interrupt(name, status):
    number = signal.Signals[name]
    with pytest.raises(KeyboardInterrupt), stop_signals():
        assert (stop_name(), stop_status()) == ("Ctrl-C", 130)
        signal.raise_signal(number)
    assert (stop_name(), stop_status()) == (name, status)
    assert signal.getsignal(number) is signal.SIG_DFL
    with pytest.raises(KeyboardInterrupt), stop_signals():
        raise KeyboardInterrupt
    assert (stop_name(), stop_status()) == ("Ctrl-C", 130)


def test_ignored_signals_and_other_handlers_stay():
    def handler(*_):
        calls.append(1)

    calls = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, handler)
    with stop_signals():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert handled_signals() == [signal.SIGINT]
    assert calls == [1] and signal.getsignal(signal.SIGTERM) is handler


def test_a_command_that_is_called_by_another_one():
    with stop_signals():
        with stop_signals():
            pass
        assert handled_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def test_another_thread_has_no_handlers():
    def run():
        with stop_signals():
            found.append(handled_signals())

    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [[signal.SIGINT]]


def test_a_forked_process_ends_as_usual():
    with stop_signals():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(7)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


PROGRAM = """
import os, signal, sys
from flowdet.cli.common import command

@command
def main():
    os.close(2) if sys.argv[1] == "closed" else None
    os.kill(os.getpid(), signal.SIGTERM)

main()
"""


@pytest.mark.parametrize("error", ["open", "closed"])
def test_a_command_ends_with_the_status_of_the_signal_and_its_command(error):
    words = [sys.executable, "-c", PROGRAM, error]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 143
    if error == "open":
        assert done.stderr.startswith("\nStopped by SIGTERM. Start again with:\n    ")
        assert "Traceback" not in done.stderr
