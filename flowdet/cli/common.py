"""Shared code of all commands: one-line errors, signals, closed streams, options, overrides."""

from __future__ import annotations

import _thread
import argparse
import atexit
import errno
import functools
import io
import itertools
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

from flowdet.config.user_imports import trust_config_files
from flowdet.reporting.command_line import program_name, typed_command
from flowdet.stop_signals import stop_name, stop_signal, stop_signals, stop_status

_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
# a reader that has ended, such as `| head`, a full disk and a closed terminal
_STREAM_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
# the exit status of a program that ends by SIGPIPE
_BROKEN_PIPE = 141
P, T = ParamSpec("P"), TypeVar("T")

# the names of the modes are not options of argparse: IMPORTS of the config can register others
MODE_HELP = (
    "inference mode: single_step, ensemble, multi_step, multi_step_ensemble or your own (default: "
    "the config's)"
)


def command_parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser whose help prints the description, changed only by `with_program`.

    It has the option `--trust-config`.
    """
    program = program_name()
    parser = argparse.ArgumentParser(
        prog=program,
        description=with_program(description, program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_trust_option(parser)
    return parser


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--trust-config`, which holds for all config files that the command reads."""
    trust_config_files(False)
    parser.add_argument(
        "--trust-config",
        action=_TrustConfig,
        nargs=0,
        default=False,
        help="import the modules that config files name in IMPORTS, which runs their code",
    )


class _TrustConfig(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, True)
        trust_config_files(True)


def with_program(description: str, program: str) -> str:
    """Replaces `tools/NAME.py` at the start of indented example lines by the program's name."""
    return re.sub(r"^    tools/\w+\.py", f"    {program}", description, flags=re.MULTILINE)


def command(main: Callable[P, T]) -> Callable[P, T]:
    """Decorates the `main` of a command: Ctrl-C, SIGTERM and SIGHUP end it with the exit status of
    the signal and the command that starts it again wherever nothing else handles them, such as in
    the seconds in which PyTorch is loaded. Standard streams that are closed are opened. A current
    folder that was deleted, and too little memory to load PyTorch, end it with one line."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        open_missing_streams()
        check_current_folder()
        try:
            with stop_signals(), _no_interrupt_is_lost():
                return main(*args, **kwargs)
        except KeyboardInterrupt:
            _end_after_interrupt()
        except ImportError as error:
            if "failed to map segment" not in str(error):
                raise
            sys.exit(f"error: memory ran out ({error}): raise the limit of the process (ulimit -v)")
        finally:
            # a second Ctrl-C would print the traceback of what runs at the end
            atexit.unregister(_ignore_interrupts)
            atexit.register(_ignore_interrupts)

    return run


@contextmanager
def _no_interrupt_is_lost() -> Iterator[None]:
    """Raises Ctrl-C again where Python cannot raise it, such as in functions that run after a fork.

    A signal that comes during a fork, at the start of a process that loads data, is always handled
    there. Python prints a traceback of it, and the program would go on.
    """
    process, before = os.getpid(), sys.unraisablehook

    def hook(unraisable) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            before(unraisable)
        elif os.getpid() == process:
            # later: here it would be lost again
            threading.Timer(0.01, _interrupt_main).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt_main() -> None:
    # a signal also ends what the main thread waits for
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, stop_signal())
    else:
        _thread.interrupt_main()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def open_missing_streams() -> None:
    """Opens the standard streams that are closed (`>&-`): Python has None in their place, and the
    next file that is opened would get the output of libraries."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)


def check_current_folder() -> None:
    """Ends the program if its current folder was deleted: PyTorch could not be loaded."""
    try:
        os.getcwd()
    except OSError as error:
        sys.exit(f"error: the current folder cannot be used ({error.strerror}): change to another")


def _end_after_interrupt() -> NoReturn:
    print_error(f"\nStopped by {stop_name()}. Start again with:\n    {typed_command()}")
    sys.exit(stop_status())


def print_error(text: str) -> None:
    """Prints on standard error, if that can be written: its terminal may be closed."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


@contextmanager
def user_errors(
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError),
    interrupts: bool = True,
) -> Iterator[None]:
    """Ends the program with a one-line message if a file, key or value of the user is wrong, or if
    memory runs out.

    The exit status is 2 for an error of an option or the config, and 1 for one of a file or a run.

    Characters that the terminal cannot show are escaped, instead of an error, and in log lines also
    control characters. Ctrl-C ends the program with exit status 130, and the signals of
    `stop_signals` with theirs, and the command that starts it again.

    Args:
        kinds: the exceptions that end the program this way; all others are raised as usual.
        interrupts: False leaves Ctrl-C and the other signals to the caller.
    """
    # they load torch: a command enters this block after its options are read
    from flowdet.config.errors import UsageError
    from flowdet.data.custom.findings import one_line
    from flowdet.data.workers import worker_errors
    from flowdet.terminal import escape_log_lines

    escape_log_lines()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with worker_errors():
            yield
    except kinds as error:
        # str() of a KeyError adds quotes to its message
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if isinstance(error, UsageError):
            # the exit status of an option that is not valid
            print_error(f"error: {one_line(text)}")
            sys.exit(2)
        if isinstance(error, OSError) and _is_of_stream(error):
            print_error(f"error: what the command prints cannot be written: {error.strerror}")
            sys.exit(_BROKEN_PIPE if error.errno == errno.EPIPE else 1)
        if isinstance(error, OSError) and text.startswith("[Errno"):
            text = _file_error(error)
        sys.exit(f"error: {one_line(text)}")
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        sys.exit(
            f"error: memory ran out ({one_line(str(error))[:200] or 'MemoryError'}): lower "
            "SOLVER.IMS_PER_BATCH, the image size (INPUT) or DATALOADER.NUM_WORKERS"
        )
    except KeyboardInterrupt:
        if not interrupts:
            raise
        _end_after_interrupt()


def _is_of_stream(error: OSError) -> bool:
    """Returns whether standard output cannot be written: an error of a file has its path."""
    is_unnamed = error.filename is None and str(error).startswith("[Errno")
    return is_unnamed and error.errno in _STREAM_ERRORS


def _file_error(error: OSError) -> str:
    """Returns the message for an error of the operating system, with the option of the file."""
    path = error.filename2 or error.filename
    if path is None:
        return str(error)
    path = Path(os.fsdecode(path))
    options = (
        word
        for word, value in itertools.pairwise(sys.argv)
        if word.startswith("--") and value
        if path.is_relative_to(value) or path == Path(value).parent
    )
    option = next(options, None)
    return f"{path}: {error.strerror}{f' ({option})' if option else ''}"


def is_memory_error(error: BaseException | None) -> bool:
    """Returns whether memory ran out, of this process or of a GPU."""
    # torch's error for the CPU has no type of its own
    is_torch = isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))
    return is_torch or isinstance(error, MemoryError)


def at_least_one(text: str) -> int:
    """Converts the text of an option to an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: the text is not an integer of at least 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


def positive(text: str) -> float:
    """Converts the text of an option to a positive number, an integer if it is one.

    Raises:
        argparse.ArgumentTypeError: the text is not a positive number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return int(number) if number.is_integer() else number


# a config key: one with a dot, such as SOLVER.BASE_LR, or a key without a dot; KEY=VALUE too,
# which load_config refuses with an explanation
_KEY = re.compile(
    r"([A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|SEED|OUTPUT_DIR|VIS_PERIOD|CUDNN_BENCHMARK|IMPORTS)(=.*)?"
)


def parse_with_overrides(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parses a command line that ends with `KEY VALUE` pairs.

    Everything from the first config key on, or after `--opts`, goes to `opts`, even if the option
    before it takes any number of words.

    Args:
        parser: a parser with a positional argument `opts` that takes the remainder.
        argv: the arguments of the command line; None takes `sys.argv[1:]`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    start = next(
        (i for i, word in enumerate(words) if word == "--opts" or _KEY.fullmatch(word)), None
    )
    if start is not None:
        # tells argparse that no option follows
        words.insert(start, "--")
    args = parser.parse_args(words)
    args.opts = [word for word in args.opts if word not in ("--", "--opts")]
    return args
