"""Temporary files: no link decides where their content goes, and nothing else is changed."""

import os
import re
from pathlib import Path

import pytest

from flowdet.temporary_file import new_temporary, remove_temporary_files, temporary_file

FOLDER = Path(__file__).parents[1] / "flowdet"


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("of somebody else")
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "file.json"
    # all names that a reader of the code could expect
    for name in ("file.json", "file.json.partial", "file.partial.json"):
        (folder / name).symlink_to(elsewhere)
    with temporary_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".json" and temporary.parent == folder
    assert elsewhere.read_text() == "of somebody else"
    assert path.read_text() == "new" and not path.is_symlink()


def test_two_writers_of_a_path_do_not_mix(tmp_path):
    path = tmp_path / "file"
    with temporary_file(path) as first, temporary_file(path) as second:
        first.write_text("first " * 9)
        second.write_text("second")
    assert path.read_text() == "first " * 9 and os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), temporary_file(path):
        raise KeyboardInterrupt
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["file"]


def test_a_name_of_the_largest_length(tmp_path):
    path = tmp_path / ("x" * 251 + ".jpg")
    with temporary_file(path):
        pass
    assert os.listdir(tmp_path) == [path.name]


def test_an_error_names_the_file_to_write(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone/file.jpg'$"):
        new_temporary(tmp_path / "gone" / "file.jpg")


def test_what_a_killed_process_leaves_is_deleted_and_nothing_else(tmp_path):
    (tmp_path / "download.partial").write_text("of the user")
    new_temporary(tmp_path / "model_final.pth")
    new_temporary(tmp_path / "report.html")
    remove_temporary_files(tmp_path)
    assert os.listdir(tmp_path) == ["download.partial"]


def test_no_module_has_temporary_names_of_its_own():
    own = {"temporary_file.py"}
    found = [
        str(path)
        for path in FOLDER.rglob("*.py")
        if path.name not in own and re.search(r"\.partial[\"'{.]", path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of 255 bytes for a name")
def test_a_name_that_is_too_long_is_an_error_before_anything_is_written(tmp_path):
    path = tmp_path / f"{'a' * 260}.png"
    with pytest.raises(OSError, match="too long.*a.png'$") as caught, temporary_file(path):
        raise AssertionError("the file was written")
    assert caught.value.filename == str(path) and os.listdir(tmp_path) == []


def test_an_error_of_the_new_name_has_the_path(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught, temporary_file(tmp_path / "folder"):
        pass
    assert caught.value.filename == str(tmp_path / "folder") and caught.value.filename2 is None
    assert os.listdir(tmp_path) == ["folder"]
