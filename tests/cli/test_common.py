"""Options, overrides, errors and descriptions of all commands."""

import argparse
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from flowdet.cli import report
from flowdet.cli.common import command, command_parser, parse_with_overrides, user_errors
from flowdet.config.errors import ConfigError, UnknownKeyError, UsageError

ROOT = Path(__file__).parents[2]


def parse(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--budget", type=int, nargs="+")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    return parse_with_overrides(parser, words)


@pytest.mark.parametrize(
    "words",
    [
        ["--opts", "SOLVER.BASE_LR", "1"],
        ["SOLVER.BASE_LR", "1"],
        ["--", "SOLVER.BASE_LR", "1"],
        ["SOLVER.BASE_LR", "1", "--opts", "SEED", "-1"],
        ["SEED", "-1", "MODEL.FLOW_DET.NUM_STEPS", "4"],
    ],
)
@pytest.mark.parametrize("options", [["--methods", "flow", "backprop"], ["--budget", "3", "4"], []])
def test_overrides_follow_any_option(options, words):
    args = parse(*options, *words)
    assert args.opts == [word for word in words if not word.startswith("--")]
    assert args.methods in (None, ["flow", "backprop"]) and args.budget in (None, [3, 4])
    assert [args.methods, args.budget].count(None) == 2 - bool(options)


def test_a_command_line_without_overrides():
    assert parse("--methods", "CSE", "a.B").methods == ["CSE", "a.B"]
    assert parse().opts == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a value is wrong"), "error: a value is wrong"),
        (FileNotFoundError("there is no file x"), "error: there is no file x"),
        # without the quotes of its str()
        (KeyError("A.B is no config key"), "error: A.B is no config key"),
    ],
)
def test_an_error_of_the_user_ends_the_program_with_its_message(error, message):
    with pytest.raises(SystemExit) as end, user_errors():
        raise error
    assert end.value.code == message


@pytest.mark.parametrize(
    "number, status",
    [(errno.EPIPE, 141), (errno.ENOSPC, 1)],
)
def test_output_that_cannot_be_printed_is_named(number, status, capsys):
    reason = os.strerror(number)
    with pytest.raises(SystemExit) as end, user_errors():
        raise OSError(number, reason)
    assert end.value.code == status
    message = f"error: what the command prints cannot be written: {reason}\n"
    assert capsys.readouterr().err == message
    # that of a file has its path
    with pytest.raises(SystemExit, match=f"^error: a.json: {reason}$"), user_errors():
        raise OSError(number, reason, "a.json")


@pytest.mark.parametrize(
    "path, option",
    [
        *(("out dir", " (--output)"), ("out dir/a/b.png", " (--output)"), ("x", "")),
        *(("deep/folder", " (--sheet)"), ("out dir2", "")),
    ],
)
def test_the_error_of_a_file_names_its_option(path, option, monkeypatch):
    words = ["--flag", "--output", "out dir", "--sheet", "deep/folder/x.png", "--json", ""]
    monkeypatch.setattr("sys.argv", ["tools/x.py", *words])
    reason = os.strerror(errno.ENAMETOOLONG)
    with pytest.raises(SystemExit) as end, user_errors():
        raise OSError(errno.ENAMETOOLONG, reason, path)
    assert end.value.code == f"error: {path}: {reason}{option}"
    # of two files, the second is the one that is written
    with pytest.raises(SystemExit) as end, user_errors():
        raise OSError(errno.ENAMETOOLONG, reason, "temporary", None, path)
    assert end.value.code == f"error: {path}: {reason}{option}"


@pytest.mark.parametrize("kind", [UsageError, ConfigError, UnknownKeyError])
def test_an_error_of_an_option_or_key_has_the_exit_status_of_a_wrong_option(kind, capsys):
    with pytest.raises(SystemExit) as end, user_errors():
        raise kind("A.B is 0, but must be above 0")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: A.B is 0, but must be above 0\n"


def test_ctrl_c_ends_the_program_with_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/x/bin/flowdet-export", "--output", "a b.onnx"])
    with pytest.raises(SystemExit) as end, user_errors():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("    flowdet-export --output 'a b.onnx'\n")
    with pytest.raises(KeyboardInterrupt), user_errors(interrupts=False):
        raise KeyboardInterrupt


class InterruptedEnd:
    """An object at whose end Ctrl-C is pressed: Python ignores it, as after a fork."""

    def __del__(self):
        raise KeyboardInterrupt


@pytest.fixture
def interrupts():
    """SIGINT is not ignored, as it is in a program that a script runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_where_python_ignores_it_ends_the_program(capsys):
    @command
    def main():
        InterruptedEnd()
        time.sleep(20)

    start = time.monotonic()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130 and time.monotonic() - start < 10
    assert capsys.readouterr().err.startswith("\nStopped by Ctrl-C. Start again with:")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at x.cpp:1] DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nProcess 1"),
    ],
)
def test_too_little_memory_is_one_line(error):
    with pytest.raises(SystemExit) as end, user_errors():
        raise error
    assert end.value.code.startswith("error: memory ran out (") and "\n" not in end.value.code


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError), user_errors():
        raise RuntimeError("a bug")
    with pytest.raises(KeyError), user_errors((OSError,)):
        raise KeyError("a bug")


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/x/bin/flowdet-report", "flowdet-report"),
        ("/checkout/tools/report.py", "tools/report.py"),
        (report.__file__, "python -m flowdet.cli.report"),
    ],
)
def test_examples_start_with_the_program_as_it_was_started(monkeypatch, program, name):
    monkeypatch.setattr("sys.argv", [program])
    text = command_parser("What.\n\n    tools/x.py --run a\n\nNot tools/x.py here.\n").format_help()
    assert text.startswith(f"usage: {name} ")
    assert f"\n    {name} --run a\n\nNot tools/x.py here." in text


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_a_deleted_current_folder_is_one_line(monkeypatch):
    monkeypatch.setattr(os, "getcwd", Mock(side_effect=FileNotFoundError(2, "No such file")))
    with pytest.raises(
        SystemExit, match=r"error: the current folder cannot be used \(No such file"
    ):
        command(lambda: None)()


def test_too_little_memory_to_load_pytorch_is_one_line():
    error = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    with pytest.raises(SystemExit, match="error: memory ran out .*ulimit -v"):
        command(Mock(side_effect=error))()
    with pytest.raises(ImportError, match="no module"):
        command(Mock(side_effect=ImportError("no module")))()


def test_closed_streams_are_opened(tmp_path):
    program = (
        "import sys; from flowdet.cli.common import open_missing_streams\n"
        "open_missing_streams()\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    print('lost'); print('lost', file=sys.stderr)\n"
        "    print(file.fileno() > 2, sys.stdout.isatty(), sys.stdin.read() == '', file=file)\n"
    )
    words = shlex.join([sys.executable, "-c", program, str(tmp_path / "file")])
    subprocess.run(["sh", "-c", f"{words} <&- >&- 2>&-"], check=True, cwd=ROOT)
    assert (tmp_path / "file").read_text() == "True False True\n"
