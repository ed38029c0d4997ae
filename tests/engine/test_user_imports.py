"""Modules in IMPORTS."""

import sys

import pytest

from flowdet.engine.user_imports import import_parts


def test_a_file_is_imported_once(tmp_path, monkeypatch):
    part = tmp_path / "part.py"
    part.write_text("import sys\nsys.parts_imported = getattr(sys, 'parts_imported', 0) + 1\n")
    monkeypatch.chdir(tmp_path)
    import_parts([str(part), "part.py"])
    import_parts(["part.py"])
    assert sys.parts_imported == 1
    del sys.parts_imported


def test_files_of_the_same_name_are_two_modules(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.py").write_text(f"import sys\nsys.part_{folder} = True\n")
    import_parts([str(tmp_path / folder / "part.py") for folder in "ab"])
    assert sys.part_a and sys.part_b
    del sys.part_a, sys.part_b


def test_module_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_own_parts.py").write_text("import my_own_lack\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_parts(["json"])
    with pytest.raises(
        ImportError, match="'my_lost_parts'.*not on Python's path.*or give the path of a .py"
    ):
        import_parts(["my_lost_parts"])
    # another module is missing than the named one
    with pytest.raises(ModuleNotFoundError, match="No module named 'my_own_lack'"):
        import_parts(["my_own_parts"])


def test_file_that_failed_is_imported_again(tmp_path):
    part = tmp_path / "part.py"
    part.write_text("import my_own_lack\n")
    with pytest.raises(ModuleNotFoundError, match="my_own_lack"):
        import_parts([str(part)])
    part.write_text("")
    import_parts([str(part)])
    with pytest.raises(FileNotFoundError, match="IMPORTS names a file 'no.py'"):
        import_parts(["no.py"])
