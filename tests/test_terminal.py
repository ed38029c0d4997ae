"""Log lines with names of files and folders in them."""

import logging

import pytest

from flowdet.terminal import escape_log_lines


@pytest.fixture
def escaping():
    make = logging.getLogRecordFactory()
    escape_log_lines()
    # a second call changes nothing
    escape_log_lines()
    yield
    logging.setLogRecordFactory(make)


@pytest.mark.parametrize(
    ("name", "message", "shown"),
    [
        ("flowdet.data", "a\x1b[31mb\udcff\n\tc\u202e", "a\\x1b[31mb\\udcff\n\tc\\u202e"),
        (
            "detectron2.config",
            "\x1b[31mred\x1b[39m \x1b]0;t\x07",
            "\x1b[31mred\x1b[39m \\x1b]0;t\\x07",
        ),
        ("flowdet", "100 % of é", "100 % of é"),
    ],
)
def test_control_characters_in_log_lines_are_escaped(escaping, caplog, name, message, shown):
    logging.getLogger(name).warning("%s", message)
    logging.getLogger(name).warning(message)
    assert [record.getMessage() for record in caplog.records] == [shown, shown]
    # it can be written to log.txt
    shown.encode()


def test_a_message_with_wrong_arguments_is_left_to_the_handlers(escaping):
    record = logging.getLogger("x").makeRecord("x", 30, "f", 1, "%d", ("a",), None)
    assert record.msg == "%d"
