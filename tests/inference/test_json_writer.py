"""JsonArrayWriter: complete files only."""

import json

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


def test_an_error_keeps_the_previous_file(tmp_path):
    (tmp_path / "rows.json").write_text("old")
    with pytest.raises(KeyError), JsonArrayWriter(tmp_path / "rows.json") as rows:
        rows.add([{"a": 1}])
        raise KeyError
    assert (tmp_path / "rows.json").read_text() == "old"
    assert [x.name for x in tmp_path.iterdir()] == ["rows.json"]


def test_without_a_file_it_only_counts():
    with JsonArrayWriter(None) as rows:
        rows.add([{"a": 1}])
    assert rows.count == 1
