"""Reading datasets in YOLO format: layouts, label files, class names, and errors for bad files."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.yolo.format import YOLO
from tests.data.custom.example_datasets import boxes_of, read_all, write_image
from tests.data.custom.formats.yolo_datasets import (
    CAT_BOX,
    CAT_ROW,
    DOG_BOX,
    DOG_ROW,
    YAML,
    add_image,
    write_text,
    write_yolo,
)

OBJECTS = [(0, CAT_BOX), (1, DOG_BOX)]


@pytest.fixture
def root(tmp_path):
    return write_yolo(tmp_path / "pets")


def assert_is_read(root, names=("cat", "dog")):
    """All objects are read; returns the kinds of the repairs."""
    check = check_dataset(root)
    assert not check.problems
    assert check.class_names == list(names)
    assert boxes_of(check.records["train"]) == [("a", OBJECTS), ("b", OBJECTS)]
    assert boxes_of(check.records["val"]) == [("c", OBJECTS), ("d", OBJECTS)]
    return {repair.kind for repair in check.repairs}


def problems_of(root):
    """The problems of a dataset as texts; a training reports the first one in one line."""
    problems = [f"{x.kind}: {x}" for x in check_dataset(root).problems]
    with pytest.raises(ValueError) as error:
        read_all(root)
    assert str(error.value).count("\n") == 0
    assert problems[0].partition(": ")[2] in str(error.value)
    return problems


# Layouts


@pytest.mark.parametrize(
    "yaml",
    [
        YAML,
        "path: .\n" + YAML,
        "path:\ntrain: ./images/train/\nval: 'images/val'\ntest:\nnc: 2\nnames: {1: dog, 0: cat}\n",
        "train: [images/train]\nval:\n- images/val\ntest: []\nnames:\n  0: cat\n  1: dog\n",
        "train: ../images/train\nvalid: ../images/val\nnames: ['cat', \"dog\"]\ndownload: x.zip\n",
        "{train: images/train, val: images/val, names: [cat, dog]}",
        "val: images/val/c.png\n" + YAML.replace("val: images/val", "validation: x"),
    ],
)
def test_yaml_files(root, yaml):
    write_text(root / "data.yaml", yaml)
    if "c.png" in yaml:
        assert len(read_all(root)["val"]) == 1
    else:
        assert assert_is_read(root) == set()


@pytest.mark.parametrize(
    "path, train, val",
    [
        ("/home/me/data/pets", "images/train", "images/val"),
        ("../datasets/pets", "images/train", "images/val"),
        ("C:\\data\\pets", "images\\train", "images\\val"),
        (".", "D:/pets/images/train", "D:/pets/images/val"),
        (".", "Images/Train", "Images/Val"),
        (".", "pets/images/train", "pets/images/val"),
        ("/data", "train", "val"),
    ],
)
def test_paths_of_another_machine(root, path, train, val):
    write_text(
        root / "data.yaml", f"path: {path}", f"train: {train}", f"val: {val}", "names: [cat, dog]"
    )
    assert assert_is_read(root) == {"folder name adapted"}


def test_path_elsewhere_on_this_machine(root, tmp_path):
    (root / "images").rename(tmp_path / "images")
    (root / "labels").rename(tmp_path / "labels")
    (root / "data.yaml").write_text(f"path: {tmp_path}\n{YAML}")
    assert assert_is_read(root) == set()


def test_path_that_stands_for_two_folders(root, tmp_path):
    shutil.copytree(root, tmp_path / "old")
    (root / "data.yaml").write_text(f"path: {tmp_path / 'old'}\n{YAML}")
    with pytest.raises(ValueError, match=r"data\.yaml:2: train: images/train may be .*old.* or"):
        read_all(root)


def test_similar_folder_of_another_split_is_not_taken(root):
    write_text(root / "data.yaml", "train: images/train\nval: other/test/images\nnames: [cat, dog]")
    with pytest.raises(FileNotFoundError, match=r"data\.yaml:2: val: other/test/images: there is"):
        read_all(root)


@pytest.mark.parametrize("name", ["dataset.yaml", "pets.yml", "PETS.YAML", "data.yaml"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_names_and_encodings_of_yaml_files(root, name, encoding):
    (root / "data.yaml").unlink()
    (root / name).write_text(YAML.replace("cat", "猫").replace("\n", "\r\n"), encoding=encoding)
    assert assert_is_read(root, ("猫", "dog")) == set()


@pytest.mark.parametrize(
    "images, labels",
    [
        ("{split}/images/{name}.png", "{split}/labels/{name}.txt"),
        ("{split}/{name}.png", "{split}/{name}.txt"),
        ("Images/{split}/{name}.png", "Labels/{split}/{name}.txt"),
        ("images/x/{split}/{name}.png", "labels/x/{split}/{name}.txt"),
        ("{split}2017/images/{name}.png", "{split}2017/labels/{name}.txt"),
        ("img/{split}/{name}.png", "ann/{split}/{name}.txt"),
        ("{split}/img/{name}.png", "{split}/txt/{name}.txt"),
        ("{split}/{name}.png", "annotations/{name}.txt"),
        ("JPEGImages/{split}/{name}.png", "labels/{split}/{name}.txt"),
    ],
)
def test_folders_without_yaml(tmp_path, images, labels):
    root = tmp_path / "pets"
    write_yolo(root, None, images, labels)
    write_text(root / "classes.txt", "cat", "dog")
    assert assert_is_read(root) == set()


@pytest.mark.parametrize("labels", ["labels/{name}.txt", "label/{split}/{name}.txt"])
def test_labels_in_other_folders_with_yaml(tmp_path, labels):
    root = write_yolo(tmp_path / "pets", labels=labels)
    assert assert_is_read(root) == {"folder name adapted"}
    shutil.copytree(root / labels.split("/")[0], root / "copy")
    problems = problems_of(root)
    assert all("no image has a label file" in problem for problem in problems)


def test_equal_names_in_two_splits(tmp_path):
    for split, row in (("train", CAT_ROW), ("val", DOG_ROW)):
        add_image(tmp_path / "pets" / "img" / split / "0.png")
        write_text(tmp_path / "pets" / "ann" / split / "0.txt", row)
    write_text(tmp_path / "pets" / "classes.txt", "cat", "dog")
    records = read_all(tmp_path / "pets")
    assert boxes_of(records["train"]) == [("0", [(0, CAT_BOX)])]
    assert boxes_of(records["val"]) == [("0", [(1, DOG_BOX)])]


@pytest.mark.parametrize("images", ["{name}.png", "images/{name}.png", "pictures/{name}.png"])
@pytest.mark.parametrize("labels", ["{name}.txt", "labels/{name}.txt", "boxes/{name}.txt"])
def test_undivided_folders(tmp_path, images, labels):
    root = write_yolo(tmp_path / "pets", None, images, labels)
    write_text((root / labels).parent / "classes.txt", "cat", "dog")
    check = check_dataset(root)
    assert not check.problems
    records = [*check.records["train"], *check.records["val"]]
    assert sorted(boxes_of(records)) == [(name, OBJECTS) for name in "abcd"]


def test_lists_without_yaml(tmp_path):
    root = write_yolo(tmp_path / "pets", None, "data/{name}.png", "data/{name}.txt")
    write_text(root / "pets.names", "cat", "dog")
    write_text(root / "train.txt", "data/a.png", "data/b.png")
    write_text(root / "valid.txt", "data/c.png", "", "data/d.png")
    assert assert_is_read(root) == set()


def test_lists_of_names_without_suffix(tmp_path):
    root = write_yolo(tmp_path / "pets", None, "images/{name}.png", "labels/{name}.txt")
    write_text(root / "classes.txt", "cat", "dog")
    write_text(root / "ImageSets" / "train.txt", "a", "b")
    write_text(root / "ImageSets" / "val.txt", "c", "d")
    assert assert_is_read(root) <= {"file name adapted"}


@pytest.mark.parametrize("prefix", ["images/train/", "./images/train/", "..\\x\\", "/home/me/", ""])
def test_list_files(root, prefix):
    (root / "data.yaml").write_text(YAML.replace("images/train", "lists/train.txt"))
    write_text(root / "lists" / "train.txt", f"{prefix}a.png", "", f"{prefix}b.png")
    assert assert_is_read(root) <= {"file name adapted"}


def test_image_listed_twice(root):
    (root / "data.yaml").write_text(YAML.replace("images/train", "train.txt"))
    write_text(root / "train.txt", "images/train/a.png", "./images/train/../train/a.png")
    problems = problems_of(root)
    assert len(problems) == 1
    assert re.search(r"image listed twice: .*train\.txt:2", problems[0])


def test_missing_image_of_a_list(root):
    (root / "data.yaml").write_text(YAML.replace("images/train", "train.txt"))
    write_text(root / "train.txt", "images/train/a.png", "images/train/aa.jpg")
    (problem,) = problems_of(root)
    assert re.search(
        r"missing image: .*train\.txt:2: there is no image images/train/aa\.jpg", problem
    )


def test_image_in_two_folders_of_a_list_is_read_once(root):
    (root / "data.yaml").write_text(YAML.replace("images/train", "[images/train, images/train/]"))
    assert assert_is_read(root) == set()


def test_hidden_files_are_passed_over(root):
    for name in ("images/train/._a.png", "labels/train/._a.txt", "._data.yaml", "images/.DS_Store"):
        (root / name).write_bytes(b"\0\5\26\7")
    shutil.copytree(root / "labels" / "train", root / "labels" / ".ipynb_checkpoints")
    assert assert_is_read(root) == set()


def test_cache_files_and_notes_are_passed_over(root):
    (root / "labels" / "train.cache").write_bytes(b"\0")
    write_text(root / "README.roboflow.txt", "pets - v1", "https://example.org")
    write_text(root / "images" / "train" / "notes.txt", "taken in May")
    assert assert_is_read(root) == set()


def test_data_file_in_a_subfolder(root, tmp_path):
    write_text(root.parent / "README.txt", "pets")
    assert_is_read(tmp_path)


def test_test_split_without_labels(root):
    add_image(root / "images" / "test" / "e.png")
    (root / "data.yaml").write_text(YAML + "test: images/test\n")
    dataset = CustomDataset(root)
    content = dataset.read("test")
    assert not content.annotated
    assert boxes_of(content.records) == [("e", [])]
    assert not dataset.findings.repairs


def test_test_folder_that_does_not_exist(root):
    (root / "data.yaml").write_text(YAML + "test: ../test/images\n")
    check = check_dataset(root)
    assert [*check.records] == ["train", "val"]
    (repair,) = check.repairs
    expected = r"data\.yaml:4: test: \.\./test/images: .*there is no test split"
    assert re.search(expected, str(repair))


@pytest.mark.parametrize("split", ["train", "val"])
def test_split_without_labels(root, split):
    shutil.rmtree(root / "labels" / split)
    (problem,) = problems_of(root)
    expected = f"images/{split}: no image has a label file, such as .*labels/{split}/[ac].txt"
    assert re.search(expected, problem)


def test_other_yaml_files_are_passed_over(root):
    write_text(root / "args.yaml", "model: yolo11n.pt", "data: data.yaml", "lr0: 0.01")
    write_text(root / "broken.yaml", "a: [")
    assert assert_is_read(root) == set()


def test_two_data_files(root):
    write_text(root / "other.yaml", YAML.replace("cat", "owl"))
    with pytest.raises(ValueError, match=r"data\.yaml and .*other\.yaml both describe"):
        read_all(root)
    write_text(root / "other.yaml", YAML)
    assert_is_read(root)


@pytest.mark.parametrize(
    "yaml, message",
    [
        ("train: images/train\n\tval: images/val\nnames: [cat", r"data\.yaml:2: .*not YAML"),
        (YAML + "names: [owl]\n", r"data\.yaml:4: .*'names' is repeated"),
        ('train: "C:\\Users\\me"\nval: x\nnames: [a]\n', r"data\.yaml:1: .*without quotes"),
        ("train: images/lost\nval: images/val\nnames: [a]\n", r"data\.yaml:1: .*images/lost"),
        (
            "val: images/val\ntrain: [images/train, no/where]\nnc: 2",
            r"yaml:2: .*no/where: there is",
        ),
        ("train: {a: b}\nval: images/val\nnames: [a]\n", r"data\.yaml:1: train must be a path"),
        (f"train: {'x' * 5000}\nval: images/val\nnames: [a]\n", r"data\.yaml:1: .*there is no"),
        ("train:\nval: null\nnames: [cat, dog]\n", r"data\.yaml: .*train and val"),
        ('"\ntrain: x\nnames: y"\n', r"data\.yaml:1: .*no keys"),
        ("train: a\nnames: [\x07]\n", r"data\.yaml:2: .*'.x07' is not allowed"),
    ],
)
def test_broken_data_files(root, yaml, message):
    (root / "data.yaml").write_text(yaml)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_all(root)
    assert "\n" not in str(error.value)


def test_data_file_in_another_encoding(root):
    (root / "data.yaml").write_bytes(YAML.replace("cat", "cät").encode("latin-1"))
    with pytest.raises(ValueError, match=r"data\.yaml:3: .*UTF-8"):
        read_all(root)


# Label files


def change_rows(root, *rows, name="labels/train/a.txt"):
    write_text(root / name, CAT_ROW, DOG_ROW, *rows)


@pytest.mark.parametrize("seed", range(5))
def test_random_boxes_are_read_exactly(tmp_path, seed):
    rng = np.random.default_rng(seed)
    height, width = (int(x) for x in rng.integers(20, 3000, 2))
    root = tmp_path / "boxes"
    boxes = {}
    for split in ("train", "val"):
        corners = np.sort(rng.uniform(0, 1, (50, 2, 2)), axis=1) * (width, height)
        boxes[split] = corners.reshape(-1, 4)
        x1, y1, x2, y2 = boxes[split].T
        center = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
        rows = np.stack([*center, (x2 - x1) / width, (y2 - y1) / height], axis=1).tolist()
        (root / "images" / split).mkdir(parents=True)
        write_image(root / "images" / split / "0.png", (height, width))
        lines = [" ".join(map(repr, [i % 2, *row])) for i, row in enumerate(rows)]
        write_text(root / "labels" / split / "0.txt", *lines)
    write_text(root / "data.yaml", YAML)
    for split, (record,) in read_all(root).items():
        annotations = record["annotations"]
        assert [a["category_id"] for a in annotations] == [i % 2 for i in range(50)]
        actual = [a["bbox"] for a in annotations]
        np.testing.assert_allclose(actual, boxes[split], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        f"{CAT_ROW}\n{DOG_ROW}",
        f"\n{CAT_ROW}  \n\n  {DOG_ROW}\n\n",
        f"{CAT_ROW}\r\n{DOG_ROW}\r\n",
        f"{CAT_ROW}\n{DOG_ROW}\n".replace(" ", "\t"),
        f"{CAT_ROW}\n{DOG_ROW}\n".replace(" ", "   "),
        "0 2.5E-1 .25 0.250000 +0.25\n1.0 0.75 0.5 0.25 5e-1",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spellings_of_rows(root, text, encoding):
    (root / "labels" / "train" / "a.txt").write_bytes(text.encode(encoding))
    assert assert_is_read(root) == set()


@pytest.mark.parametrize(
    "row, kind, message",
    [
        ("2 0.5 0.5 0.1 0.1", "unknown class", r"class 2 is unknown; .*0 \(cat\), 1 \(dog\)"),
        ("-1 0.5 0.5 0.1 0.1", "unknown class", "class -1 is unknown"),
        ("cat 0.5 0.5 0.1 0.1", "unreadable annotation", "the class id is 'cat'"),
        ("0.5 0.5 0.5 0.1 0.1", "unreadable annotation", "the class id is '0.5'"),
        ("1e300 0.5 0.5 0.1 0.1", "unreadable annotation", "the class id is '1e300'"),
        ("nan 0.5 0.5 0.1 0.1", "unreadable annotation", "the class id is 'nan'"),
        ("0 0.5 0.5 0.1", "unreadable annotation", "the row is '0 0.5 0.5 0.1'"),
        ("0", "unreadable annotation", "the row is '0'"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "unreadable annotation", "the row is"),
        ("0 nan 0.5 0.1 0.1", "unreadable annotation", "'nan' is not a number"),
        ("0 0.5 inf 0.1 0.1", "unreadable annotation", "'inf' is not a number"),
        ("0 0.5 0.5 0.1 1e999", "unreadable annotation", "'1e999' is not a number"),
        ("0 a b c d", "unreadable annotation", "'a' is not a number"),
        ("0 0_5 0.5 0.1 0.1", "unreadable annotation", "'0_5' is not a number"),
        ("0 0,5 0,5 0,1 0,1", "unreadable annotation", "'0,5' is not a number"),
        ("0,0.5,0.5,0.1,0.1", "unreadable annotation", "separated by blanks"),
        ("0 30 20 10 10", "unreadable annotation", "30 is not a fraction"),
        ("0 0.5 0.5 10 10", "unreadable annotation", "10 is not a fraction"),
        ("0 1 1 30 1 30 20 1 20", "unreadable annotation", "30 is not a fraction"),
        ("0 0.5 0.5 -0.1 0.1", "unreadable annotation", "negative width or height"),
        ("0 0.9 0.5 0.6 0.1", "box outside the image", "leaves the image"),
        ("0 0.5 0.5 0.2 0.1 1.57", "unreadable annotation", "6th value, 1.57"),
        ("\0\0\0\0", "unreadable annotation", "the row is"),
    ],
)
def test_bad_rows(root, row, kind, message):
    change_rows(root, row)
    (problem,) = problems_of(root)
    assert re.search(rf"{kind}: .*labels/train/a\.txt:3: .*{message}", problem)
    # the other rows are kept
    dataset = CustomDataset(root, on_problem="skip")
    assert boxes_of(dataset.read("train").records) == [("a", OBJECTS), ("b", OBJECTS)]


def test_label_file_in_another_encoding(root):
    (root / "labels" / "train" / "a.txt").write_bytes(f"{CAT_ROW}\n\xe4\n".encode("latin-1"))
    (problem,) = problems_of(root)
    assert re.search(r"labels/train/a\.txt:2: .*UTF-8", problem)


@pytest.mark.parametrize(
    "row, kind, box",
    [
        ("1 0.25 0.25 0.5 0.25 0.5 0.75", "box of a polygon", [16, 12, 32, 36]),
        ("1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5", "box of a polygon", [16, 12, 48, 36]),
        ("1 0.5 0.5 0.25 0.5 0.9", "confidence left out", [24, 12, 40, 36]),
        ("1 0.5 0.5 0 0.5", "box without area", None),
        ("1 0.99 0.5 0.06 0.5", "box clipped to the image", [61.44, 12, 64, 36]),
        ("1 0.99 0.5 0.0200001 0.5", None, [62.72, 12, 64, 36]),
    ],
)
def test_repaired_rows(root, row, kind, box):
    change_rows(root, row)
    check = check_dataset(root)
    assert not check.problems
    assert [x.kind for x in check.repairs] == ([kind] if kind else [])
    assert all(re.search(r"labels/train/a\.txt:3", x.where) for x in check.repairs)
    boxes = [a["bbox"] for a in check.records["train"][0]["annotations"][2:]]
    np.testing.assert_allclose(boxes, [box] if box else np.empty((0,)), atol=1e-4)


def test_keypoints(root):
    rows = [f"{row} 0.3 0.3 2 0.4 0.4 0 0.5 0.5 1 0.6 0.6 1" for row in (CAT_ROW, DOG_ROW)]
    for name in ("train/a", "train/b", "val/c", "val/d"):
        write_text(root / "labels" / f"{name}.txt", *rows)
    (root / "data.yaml").write_text(YAML + "kpt_shape: [4, 3]\n")
    assert assert_is_read(root) == {"keypoints left out"}


def test_image_without_label_file_is_background(root):
    (root / "labels" / "train" / "b.txt").unlink()
    (root / "labels" / "val" / "d.txt").write_text("")
    check = check_dataset(root)
    assert not check.problems
    assert boxes_of(check.records["train"]) == [("a", OBJECTS), ("b", [])]
    assert boxes_of(check.records["val"]) == [("c", OBJECTS), ("d", [])]
    (repair,) = check.repairs
    assert repair.kind == "image without label file"
    assert repair.where.endswith("images/train/b.png")


@pytest.mark.parametrize(
    "label", ["labels/train/e.txt", "labels/train/x/e.txt", "images/train/e.txt"]
)
def test_label_file_without_image(root, label):
    write_text(root / label, CAT_ROW)
    (problem,) = problems_of(root)
    assert re.search(rf"annotation without image: .*{label}: there is no image .*e\.\*", problem)


def test_label_file_of_a_picture_that_cannot_be_read(root):
    write_text(root / "labels" / "train" / "e.txt", CAT_ROW)
    (root / "images" / "train" / "e.HEIC").write_bytes(b"\0")
    (problem,) = problems_of(root)
    assert re.search(r"but e\.HEIC: convert it", problem)


@pytest.mark.parametrize("name", ["A.txt", "a.TXT", "a.png.txt", "A.PNG.TXT"])
def test_similar_names_of_label_files(root, name):
    (root / "labels" / "train" / "a.txt").rename(root / "labels" / "train" / name)
    assert assert_is_read(root) == (set() if name == "a.TXT" else {"file name adapted"})


def test_unicode_forms_of_names(tmp_path):
    root = write_yolo(tmp_path / "pets")
    (root / "images/train/a.png").rename(root / "images/train/\u00e4.png")
    (root / "labels/train/a.txt").rename(root / "labels/train/a\u0308.txt")
    records = read_all(root)["train"]
    assert [boxes for _, boxes in boxes_of(records)] == [OBJECTS, OBJECTS]


def test_two_label_files_of_an_image(root):
    write_text(root / "images" / "train" / "a.txt", CAT_ROW, DOG_ROW)
    assert assert_is_read(root) == set()
    write_text(root / "images" / "train" / "a.txt", CAT_ROW)
    (problem,) = problems_of(root)
    assert re.search(r"images/train/a\.txt: .*labels/train/a\.txt is another label file", problem)


def test_two_images_with_one_label_file(root):
    Image.open(root / "images/train/a.png").save(root / "images/train/a.jpg")
    (problem,) = problems_of(root)
    assert re.search(r"two files of one name: .*a\.png: .*a\.jpg has the same label file", problem)


@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs.github.com/spec/v1"])
def test_unreadable_image(root, content):
    (root / "images" / "train" / "a.png").write_bytes(content)
    (problem,) = problems_of(root)
    assert re.search(r"unreadable image: .*images/train/a\.png: ", problem)
    assert problem.count("a.png") == 1


def test_sizes_are_read_from_the_images(root):
    """The split of the reader has the measured sizes, so that they are not read again."""
    write_image(root / "images" / "train" / "b.png", (100, 30))
    sources = YOLO().find(root)
    images = YOLO().read(sources["train"], Findings(root)).images
    assert [(x.size, x.measured) for x in images] == [((48, 64), True), ((100, 30), True)]


def test_image_ids_are_file_names_or_paths(root):
    assert [r["image_id"] for r in read_all(root)["train"]] == ["a", "b"]
    add_image(root / "images" / "train" / "x" / "a.png")
    write_text(root / "labels" / "train" / "x" / "a.txt", CAT_ROW)
    ids = [r["image_id"] for r in read_all(root)["train"]]
    assert ids == ["images/train/a", "images/train/b", "images/train/x/a"]


# Class names


@pytest.mark.parametrize(
    "names, expected",
    [
        ("[yes, no]", ["yes", "no"]),
        ("[007, 1.0]", ["007", "1.0"]),
        ("['a/b', '../x']", ["a/b", "../x"]),
        ("{0: cat, 1: 'dog: big'}", ["cat", "dog: big"]),
        ("\n- null\n- true", ["null", "true"]),
    ],
)
def test_names_are_texts(root, names, expected):
    (root / "data.yaml").write_text(YAML.replace("[cat, dog]", names))
    assert assert_is_read(root, expected) == set()


def test_class_ids_with_gaps(tmp_path):
    root = write_yolo(tmp_path / "pets", rows=[CAT_ROW.replace("0 ", "3 ", 1), DOG_ROW])
    (root / "data.yaml").write_text(YAML.replace("[cat, dog]", "{3: cat, 1: dog}"))
    dataset = CustomDataset(root)
    records = dataset.read("train").records
    assert dataset.class_names == ["dog", "cat"]
    assert dataset.classes.ids == [1, 3]
    assert boxes_of(records)[0] == ("a", [(1, CAT_BOX), (0, DOG_BOX)])


@pytest.mark.parametrize(
    "names, message",
    [
        ("[cat, cat]", "classes 0 and 1 have the same name 'cat'"),
        ("[cat, '']", "class 1 has no name"),
        ("{cat: 0, dog: 1}", "names must be a list of class names"),
        ("{-1: cat, 0: dog}", "names must be a list of class names"),
        ("[[cat], [dog]]", "names must be a list of class names"),
        ("{0: cat, 00: dog}", "names has a repeated class id"),
        ("x" * 5000, "there is no file"),
        (f"{{0: cat, {'9' * 50}: dog}}", "names must be a list of class names"),
        ("cat", "there is no file .*cat; give the class names as a list"),
    ],
)
def test_bad_names(root, names, message):
    (root / "data.yaml").write_text(YAML.replace("[cat, dog]", names))
    problems = problems_of(root)
    assert len(problems) == 1
    assert re.search(rf"unreadable class list: .*data\.yaml:3: .*{message}", problems[0])


@pytest.mark.parametrize("count", ["3", "1", "two"])
def test_number_of_classes_differs(root, count):
    (root / "data.yaml").write_text(YAML + f"nc: {count}\n")
    assert assert_is_read(root) == {"number of classes differs"}


@pytest.mark.parametrize("nc", ["", "nc: 2\n"])
def test_names_in_a_text_file(root, nc):
    (root / "data.yaml").write_text(YAML.replace("names: [cat, dog]\n", nc))
    write_text(root / "classes.txt", "cat", "dog", "")
    assert assert_is_read(root) == {"class names missing"}


def test_names_key_with_a_file(root):
    (root / "data.yaml").write_text(YAML.replace("[cat, dog]", "lists/pets.names"))
    write_text(root / "lists" / "pets.names", "cat", "dog")
    assert assert_is_read(root) == set()


def test_number_of_classes_without_names(root):
    (root / "data.yaml").write_text(YAML.replace("names: [cat, dog]", "nc: 2"))
    assert assert_is_read(root, ["0", "1"]) == {"class names missing"}


@pytest.mark.parametrize("nc", ["", "nc: many\n", "nc: 0\n", f"nc: {'9' * 5000}\n"])
def test_no_class_names(root, nc):
    (root / "data.yaml").write_text(YAML.replace("names: [cat, dog]\n", nc))
    (problem,) = problems_of(root)
    assert re.search(r"data\.yaml: no file has the class names: add names", problem)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_class_files(tmp_path, encoding):
    root = write_yolo(tmp_path / "pets", None)
    (root / "classes.txt").write_bytes("猫\r\ndog\r\n".encode(encoding))
    assert assert_is_read(root, ["猫", "dog"]) == set()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"cat\n\ndog\n", r"classes\.txt:2: the line has no class name"),
        (b"cat\ncat\n", r"classes\.txt:2: classes 0 and 1 have the same name"),
        (b"\n \n", r"classes\.txt: the file contains no class name"),
        (b"c\xe4t\ndog\n", r"classes\.txt:1: .*UTF-8"),
    ],
)
def test_bad_class_files(tmp_path, content, message):
    root = write_yolo(tmp_path / "pets", None)
    (root / "classes.txt").write_bytes(content)
    (problem,) = problems_of(root)
    assert re.search(message, problem)


def test_class_files_that_differ(tmp_path):
    """labelImg writes a classes.txt into every folder, in the order in which classes were used."""
    root = write_yolo(tmp_path / "pets", None, "{split}/{name}.png", "{split}/{name}.txt")
    write_text(root / "train" / "classes.txt", "cat", "dog")
    write_text(root / "val" / "classes.txt", "cat", "dog")
    assert assert_is_read(root) == set()
    write_text(root / "val" / "classes.txt", "dog", "cat")
    (problem,) = problems_of(root)
    assert "class list differs" in problem
    write_text(root / "classes.txt", "dog", "cat")
    assert any("the class ids are ambiguous" in x for x in problems_of(root))


def test_class_file_that_differs_from_the_data_file(root):
    write_text(root / "labels" / "train" / "classes.txt", "dog", "cat")
    assert assert_is_read(root) == {"class names differ"}


# Searched folders


def test_labels_in_two_folders(tmp_path):
    root = write_yolo(tmp_path / "pets", None, "pictures/{name}.png", "first/{name}.txt")
    write_text(root / "classes.txt", "cat", "dog")
    shutil.copytree(root / "first", root / "second")
    with pytest.raises(ValueError, match="first and .*second both have YOLO labels"):
        read_all(root)


@pytest.mark.parametrize("yaml", [None, YAML])
def test_label_file_of_two_images(tmp_path, yaml):
    root = tmp_path / "pets"
    for split in ("train", "val"):
        add_image(root / "images" / split / "0.png")
    write_text(root / "labels" / "0.txt", CAT_ROW)
    write_text(root / "classes.txt", "cat", "dog")
    if yaml:
        write_text(root / "data.yaml", yaml)
    message = "no image has a label file" if yaml else r"labels/0\.txt may belong to"
    with pytest.raises(ValueError, match=message):
        read_all(root)


def test_labels_outside_of_the_splits(root):
    (root / "data.yaml").unlink()
    write_text(root / "classes.txt", "cat", "dog")
    add_image(root / "more" / "e.png")
    write_text(root / "more" / "e.txt", CAT_ROW)
    with pytest.raises(ValueError, match="more has YOLO labels, but belongs to no split"):
        read_all(root)


@pytest.mark.parametrize("images", ["{name}.png", "images/{name}.png"])
def test_images_without_labels_are_reported(tmp_path, images):
    root = write_yolo(tmp_path / "pets", None, images, images.replace("png", "txt"))
    write_text(root / "classes.txt", "cat", "dog")
    add_image((root / images).parent / "docs" / "example.png")
    check = check_dataset(root)
    assert not check.problems
    assert {repair.kind for repair in check.repairs} == {"images without labels"}
    assert sum(map(len, check.records.values())) == 4


def test_images_outside_of_the_splits_are_reported(root):
    (root / "data.yaml").unlink()
    write_text(root / "classes.txt", "cat", "dog")
    add_image(root / "docs" / "example.png")
    assert assert_is_read(root) == {"images without labels"}


@pytest.mark.parametrize(
    "text", ["1 2 3 4\n", "0.1 0.2 0.3 0.4 0.5\n", "a b c d e\n", "", "1,2,3,4,5\n", "\0\0"]
)
def test_text_files_without_labels_are_not_yolo(tmp_path, text):
    add_image(tmp_path / "pets" / "a.png")
    write_text(tmp_path / "pets" / "a.txt", text)
    with pytest.raises(ValueError, match="contains no dataset"):
        read_all(tmp_path / "pets")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["data.yaml", "labels/train/a.txt", "lists/train.txt"])
def test_random_changes_of_files(root, name, seed):
    """Whatever is in a file, the result is a list of one-line findings, or a one-line error."""
    rng = np.random.default_rng(seed)
    (root / "data.yaml").write_text(YAML.replace("images/train", "lists/train.txt"))
    write_text(root / "lists" / "train.txt", "../images/train/a.png", "../images/train/b.png")
    content = bytearray((root / name).read_bytes())
    for _ in range(rng.integers(1, 6)):
        position = int(rng.integers(len(content)))
        piece = rng.choice([b"\0", b"\n", b"\t", b": ", b"[", b"-1 ", b"\xff", b"nan", b"9", b" "])
        content[position : position + int(rng.integers(4))] = bytes(piece)
    (root / name).write_bytes(content)
    try:
        check = check_dataset(root)
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error)
        return
    assert not any("\n" in str(x) for x in [*check.problems, *check.repairs])
    boxes = [a["bbox"] for split in check.records.values() for r in split for a in r["annotations"]]
    assert np.isfinite(boxes).all()
