"""Reading datasets in darknet format: obj.data, obj.names and lists of images."""

import re

import pytest

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.check import check_dataset
from tests.data.custom.example_datasets import boxes_of, read_all
from tests.data.custom.formats.yolo_datasets import (
    CAT_BOX,
    CONTENT,
    DOG_BOX,
    write_text,
    write_yolo,
)

OBJECTS = [(0, CAT_BOX), (1, DOG_BOX)]
DATA = (
    "classes = 2",
    "train  = data/train.txt",
    "valid  = data/test.txt",
    "names = data/obj.names",
    "backup = backup/",
)


def write_darknet(root, data=DATA, folder="data/obj_train_data", prefix=None):
    """Writes obj.data, and data/ with obj.names, the lists, the images and their labels."""
    write_yolo(root, None, f"{folder}/{{name}}.png", f"{folder}/{{name}}.txt")
    prefix = f"{folder}/" if prefix is None else prefix
    write_text(root / "data" / "obj.names", "cat", "dog")
    for split, file in (("train", "train.txt"), ("val", "test.txt")):
        write_text(root / "data" / file, *(f"{prefix}{name}.png" for name in CONTENT[split]))
    write_text(root / "obj.data", *data)
    return root


@pytest.fixture
def root(tmp_path):
    return write_darknet(tmp_path / "pets")


def assert_is_read(root):
    """All objects are read; returns the kinds of the repairs."""
    check = check_dataset(root)
    assert not check.problems
    assert check.format == "Darknet"
    assert check.class_names == ["cat", "dog"]
    assert boxes_of(check.records["train"]) == [("a", OBJECTS), ("b", OBJECTS)]
    assert boxes_of(check.records["val"]) == [("c", OBJECTS), ("d", OBJECTS)]
    return {repair.kind for repair in check.repairs}


def test_usual_files(root):
    assert assert_is_read(root) == set()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_and_comments_of_the_data_file(root, encoding):
    lines = ["# pets", "", "classes=2", "train=data/train.txt", "valid=data/test.txt"]
    text = "\r\n".join([*lines, "names=data/obj.names"])
    (root / "obj.data").write_text(text, encoding=encoding)
    assert assert_is_read(root) == set()


@pytest.mark.parametrize("path", ["coco.data", "cfg/pets.data"])
def test_other_names_of_the_data_file(root, path):
    (root / path).parent.mkdir(exist_ok=True)
    (root / "obj.data").rename(root / path)
    assert_is_read(root)


@pytest.mark.parametrize("prefix", ["build/darknet/x64/data/", "C:\\pets\\", "/content/data/"])
def test_paths_of_another_machine(tmp_path, prefix):
    root = write_darknet(
        tmp_path / "pets",
        [line.replace("= data/", f"= {prefix}") for line in DATA],
        prefix=f"{prefix}obj_train_data/",
    )
    assert assert_is_read(root) <= {"file name adapted", "folder name adapted"}


def test_labels_in_a_parallel_folder(tmp_path):
    root = write_darknet(tmp_path / "pets", folder="data/images")
    (root / "data" / "labels").mkdir()
    for label in (root / "data" / "images").glob("*.txt"):
        label.rename(root / "data" / "labels" / label.name)
    assert assert_is_read(root) == set()


def test_training_list_only(tmp_path):
    """CVAT exports a task as one list: a part of it is held out."""
    root = write_darknet(tmp_path / "pets", [line for line in DATA if "valid" not in line])
    dataset = CustomDataset(root)
    assert dataset.splits == ["train", "val"]
    assert len(dataset.read("train").records) + len(dataset.read("val").records) == 2


def test_missing_list(root):
    (root / "data" / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"obj\.data:3: val: data/test\.txt: there is no"):
        read_all(root)


def test_number_of_classes_differs(root):
    write_text(root / "obj.data", "classes = 80", *DATA[1:])
    assert assert_is_read(root) == {"number of classes differs"}


def test_missing_names(root):
    (root / "data" / "obj.names").unlink()
    with pytest.raises(ValueError, match=r"obj\.data:4: names: data/obj\.names: there is no file"):
        read_all(root)
    write_text(root / "pets.names", "cat", "dog")
    assert assert_is_read(root) == {"file name adapted"}


def test_two_data_files(root):
    write_text(root / "other.data", *DATA)
    with pytest.raises(ValueError, match=r"obj\.data and .*other\.data both describe"):
        read_all(root)


def test_other_files_with_the_suffix_are_passed_over(root):
    (root / "weights.data").write_bytes(b"\0\xff\xfe train")
    assert assert_is_read(root) == set()


def test_data_file_in_another_encoding(root):
    (root / "obj.data").write_bytes("classes = 2\ntrain = tr\xe4in.txt\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"obj\.data:2: .*UTF-8"):
        read_all(root)


def test_bad_row(root):
    write_text(root / "data" / "obj_train_data" / "a.txt", "0 0.5 0.5 0.1")
    (problem,) = check_dataset(root).problems
    assert re.search(r"obj_train_data/a\.txt:1$", problem.where)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c", "\x1c"])
def test_a_class_name_with_a_separator_is_one_class(root, separator):
    names = root / "data" / "obj.names"
    names.write_text(f"ca{separator}t\ndog\n", encoding="utf-8")
    problems = check_dataset(root).problems
    assert len(problems) == 1 and "has a control character" in problems[0].text
    # both kinds of line ends
    names.write_bytes(b"cat\r\ndog\r")
    assert CustomDataset(root).class_names == ["cat", "dog"]
