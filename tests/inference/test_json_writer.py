"""JsonArrayWriter: files are valid JSON, whatever interrupts the writing."""

import json
import math
import resource

import pytest

from flowdet.inference.json_writer import JsonArrayWriter


def test_rows_are_written_in_order(tmp_path):
    path = tmp_path / "new" / "rows.json"
    with JsonArrayWriter(path) as rows:
        rows.add([{"a": 1}, {"a": 2}])
        rows.add([])
        rows.add([{"a": 3}])
        assert not path.exists()
    assert json.loads(path.read_text()) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert rows.count == 3 and len(path.read_text().splitlines()) == 5


def test_no_rows_give_an_empty_list(tmp_path):
    with JsonArrayWriter(tmp_path / "rows.json"):
        pass
    assert json.loads((tmp_path / "rows.json").read_text()) == []


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_interruption_keeps_the_finished_rows(tmp_path, error):
    (tmp_path / "rows.json").write_text("old")
    with pytest.raises(error), JsonArrayWriter(tmp_path / "rows.json") as rows:
        rows.add([{"a": 1}, {"a": 2}])
        raise error
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"a": 1}, {"a": 2}]
    assert [x.name for x in tmp_path.iterdir()] == ["rows.json"]


def test_an_error_before_the_first_row_keeps_the_previous_file(tmp_path):
    (tmp_path / "rows.json").write_text("old")
    with pytest.raises(KeyError), JsonArrayWriter(tmp_path / "rows.json"):
        raise KeyError
    assert (tmp_path / "rows.json").read_text() == "old"
    assert [x.name for x in tmp_path.iterdir()] == ["rows.json"]


def test_a_full_disk_leaves_complete_rows(tmp_path):
    """A limit on the size of files makes writing fail in the middle of a row."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError), JsonArrayWriter(tmp_path / "rows.json") as rows:
            for i in range(99):
                rows.add([{"number": i, "text": "x" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["number"] for row in written] == list(range(len(written)))
    assert len(written) == rows.count == 7


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError), JsonArrayWriter(tmp_path / "rows.json") as rows:
        rows.add([{"score": 0.5}])
        rows.add([{"score": math.nan}])
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"score": 0.5}]


def test_without_a_file_it_only_counts():
    with JsonArrayWriter(None) as rows:
        rows.add([{"a": 1}])
    assert rows.count == 1
