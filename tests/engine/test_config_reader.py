"""Config files that cannot be read: the error names the file and the line."""

import pytest

from flowdet.engine import load_config
from flowdet.engine.config_reader import ConfigFileError, read_config_file


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("SOLVER:\n\tBASE_LR: 1.0\n", "line 2: there is a tab; indent with spaces"),
        ("SOLVER:\n  BASE_LR:\t1.0\n  GAMMA: [\t0.1\n", "line"),
        ("SEED: 1\nSOLVER: {BASE_LR: \n", "line 3: it is not valid YAML"),
        ("SEED: 1\n  GAMMA: 2\n", "line 2: it is not valid YAML"),
        ("SEED: 1\nSOLVER:\n  BASE_LR: 'x\n", "line 4: it is not valid YAML"),
        ("SEED: 1\nSEED: 2\n", "line 2: SEED is set again, after line 1: keep one"),
        ("SOLVER:\n  GAMMA: 1.0\nSOLVER:\n  MAX_ITER: 2\n", "line 3: SOLVER is set again"),
        ("SOLVER.BASE_LR: 1.0\n", "line 1: write SOLVER.BASE_LR as SOLVER: and, indented below"),
        ("SEED: 1\n# caf\xe9\n".encode("latin-1"), "line 2: it is not UTF-8 text"),
        (b"PK\x03\x04\0\0\0", " is a binary file, not a config file"),
        ("", " is empty"),
        ("# only a comment\n", " is empty"),
        ("- a\n- b\n", " contains a list, not keys with values"),
        ("just a sentence\n", " contains a str, not keys with values"),
        ("SEED: !!python/object:os.system 1\n", "line 1: "),
        ("_BASE_: 3\n", ": _BASE_ is 3"),
        ("_BASE_: [3]\n", ": _BASE_ is 3"),
        ("_BASE_: config.yaml\n", " is its own base"),
    ],
)
def test_unreadable_file(tmp_path, content, message):
    path = write(tmp_path / "config.yaml", content)
    with pytest.raises(ConfigFileError) as info:
        load_config(path)
    text = str(info.value)
    assert text.startswith(path) and message in text and "\n" not in text


def test_missing_and_circular_bases(tmp_path):
    path = write(tmp_path / "a.yaml", "_BASE_: nowhere.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"a.yaml: _BASE_ names 'nowhere.yaml'"):
        load_config(path)
    path = write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    write(tmp_path / "b.yaml", "_BASE_: [a.yaml]\n")
    with pytest.raises(ConfigFileError, match="a.yaml is its own base"):
        load_config(path)


def test_error_in_a_base_names_the_base(tmp_path):
    write(tmp_path / "base.yaml", "SEED: 1\nSOLVER:\n\tGAMMA: 1\n")
    path = write(tmp_path / "config.yaml", "_BASE_: base.yaml\n")
    with pytest.raises(ConfigFileError, match="base.yaml, line 3: there is a tab"):
        load_config(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_text_editors(tmp_path, encoding):
    path = write(tmp_path / "config.yaml", "SEED: 5\nOUTPUT_DIR: läufe\n".encode(encoding))
    cfg = load_config(path)
    assert (cfg.SEED, cfg.OUTPUT_DIR) == (5, "läufe")


def test_later_files_replace_the_keys_of_earlier_ones(tmp_path):
    write(tmp_path / "one.yaml", "SEED: 1\nSOLVER: {GAMMA: 0.1, MAX_ITER: 7}\n")
    write(tmp_path / "two.yaml", "SEED: 2\n")
    text = "_BASE_: [one.yaml, two.yaml]\nSOLVER:\n  GAMMA: 0.2\nINPUT:\n"
    file = read_config_file(write(tmp_path / "config.yaml", text))
    assert file.keys == {"SEED": 2, "SOLVER": {"GAMMA": 0.2, "MAX_ITER": 7}, "INPUT": None}
    keys = ("SEED", "SOLVER.GAMMA", "SOLVER.MAX_ITER")
    assert [file.file_of(x).rpartition("/")[2] for x in keys] == [
        "two.yaml",
        "config.yaml",
        "one.yaml",
    ]


def test_a_folder_is_no_config_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder; give a file.*config.yaml"):
        load_config(str(tmp_path))
