"""log.txt on a full disk: one line, not the tracebacks of Python's logging."""

import contextlib
import logging
from pathlib import Path

import pytest
from detectron2.utils import logger as detectron2_logger

from flowdet.engine.atomic_file import DiskError
from flowdet.engine.log_file import open_log_file

# every write to it fails as on a full disk
FULL = Path("/dev/full")
NAMES = ("flowdet", "fvcore", "detectron2")


@pytest.fixture
def loggers():
    """The three loggers without handlers; they get theirs back."""
    caches = (detectron2_logger.setup_logger, detectron2_logger._cached_log_stream)
    found = [logging.getLogger(name) for name in NAMES]
    states = [(x.handlers, x.level, x.propagate) for x in found]
    for logger in found:
        logger.handlers = []
    for cache in caches:
        cache.cache_clear()
    yield found
    for logger, (handlers, level, propagate) in zip(found, states):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    for cache in caches:
        cache.cache_clear()


def test_all_loggers_write_to_one_file(tmp_path, loggers):
    open_log_file(str(tmp_path))
    # detectron2 sets its loggers up once more
    detectron2_logger.setup_logger(str(tmp_path), distributed_rank=0)
    for logger in loggers:
        logger.info("from %s", logger.name)
    text = (tmp_path / "log.txt").read_text()
    assert [text.count(f"from {name}") for name in NAMES] == [1, 1, 1]


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_line(tmp_path, loggers, capsys):
    (tmp_path / "log.txt").symlink_to(FULL)
    open_log_file(str(tmp_path))
    with pytest.raises(DiskError, match=r"log.txt cannot be written: the disk of .* is full"):
        loggers[0].info("first")
    for logger in loggers:
        logger.info("later")
    output = capsys.readouterr()
    assert output.out.count("later") == 3 and "Logging error" not in output.err


@pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
def test_a_terminal_that_is_gone_is_one_line(tmp_path, loggers, capsys, monkeypatch):
    with open(FULL, "w", encoding="utf-8", buffering=1) as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        open_log_file(str(tmp_path))
        for logger in loggers:
            logger.info("from %s", logger.name)
        lines = (tmp_path / "log.txt").read_text().splitlines()
        assert [line.split()[-1] for line in lines] == list(NAMES)
        expected = "messages cannot be printed (No space left on device): log.txt has them\n"
        assert capsys.readouterr().err == expected
        # what it could not write would be written again
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            terminal.close()


def test_log_txt_has_all_characters_in_every_locale(tmp_path, loggers, monkeypatch):
    stream = open(tmp_path / "log.txt", "a", encoding="ascii")
    monkeypatch.setattr(detectron2_logger, "_cached_log_stream", lambda path: stream)
    open_log_file(str(tmp_path))
    loggers[0].info("Käfer")
    stream.close()
    assert "Käfer" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_other_errors_of_a_message_do_not_end_the_program(tmp_path, loggers, capsys):
    open_log_file(str(tmp_path))
    loggers[0].info("%d", "no number")
    assert "Logging error" in capsys.readouterr().err
