"""Reading datasets in COCO format: accepted layouts, values, and errors for broken files."""

import re

import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.coco import evaluation_copy, read_flag
from tests.data.custom.example_datasets import (
    boxes_of,
    coco_file,
    load_coco,
    read_all,
    save_coco,
    write_coco,
)


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


def change(*keys, to, split="train"):
    """Returns a function that sets an entry of a json file; `to` None deletes it."""

    def apply(root):
        data = load_coco(root, split)
        parent = data
        for key in keys[:-1]:
            parent = parent[key]
        if to is None:
            del parent[keys[-1]]
        else:
            parent[keys[-1]] = to
        save_coco(root, data, split)

    return apply


def test_agrees_with_detectron2(root):
    ours = read_all(root)["train"]
    theirs = load_coco_json(str(coco_file(root)), str(root / "train"), "pets_by_detectron2")
    for a, b in zip(ours, theirs, strict=True):
        for x in b["annotations"]:
            x["bbox"] = BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS)
            x["bbox_mode"] = BoxMode.XYXY_ABS
        assert a == b
    assert CustomDataset(root).class_names == ["cat", "dog"]


@pytest.mark.parametrize("folder", ["train2017", "images/train", "images/train2017", "images"])
def test_images_in_the_usual_folders(root, folder):
    coco_file(root).rename(root / "annotations" / "instances_train2017.json")
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "train").rename(root / folder)
    records = read_all(root)["train"]
    assert records[0]["file_name"] == str(root / folder / "a.png")


def test_file_names_may_contain_folders(root):
    change("images", 0, "file_name", to="train/a.png")(root)
    change("images", 1, "file_name", to="train/b.png")(root)
    assert read_all(root)["train"][1]["file_name"] == str(root / "train/b.png")


def test_other_annotation_files_of_coco_are_ignored(root):
    for name in ("captions_train.json", "person_keypoints_val.json", "image_info_test.json"):
        (root / "annotations" / name).write_text("{}")
    assert list(read_all(root)) == ["train", "val"]


@pytest.mark.parametrize("subfolder", ["", "images"])
def test_folder_per_split(root, subfolder):
    for split, name in (("train", "train"), ("val", "valid")):
        (root / split).rename(root / name)
        coco_file(root, split).rename(root / name / "_annotations.coco.json")
        if subfolder:
            (root / name / subfolder).mkdir()
            for image in (root / name).glob("*.png"):
                image.rename(image.parent / subfolder / image.name)
    (root / "annotations").rmdir()
    assert [stem for stem, _ in boxes_of(read_all(root)["train"])] == ["a", "b"]
    assert list(CustomDataset(root).layout.splits) == ["train", "val"]


def test_images_without_objects_are_kept(root):
    data = load_coco(root)
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] == 1]
    save_coco(root, data)
    assert [len(boxes) for _, boxes in boxes_of(read_all(root)["train"])] == [2, 0]


def test_category_ids_may_differ_between_splits(root):
    data = load_coco(root, "val")
    for category in data["categories"]:
        category["id"] += 10
    for annotation in data["annotations"]:
        annotation["category_id"] += 10
    save_coco(root, data, "val")
    assert boxes_of(read_all(root)["val"])[1][1] == [(1, [40, 10, 60, 40]), (0, [2, 3, 30, 33])]


def test_boxes_that_leave_the_image_by_a_pixel_are_clipped(root):
    change("annotations", 1, "bbox", to=[40.5, -0.4, 24, 48.8])(root)
    assert boxes_of(read_all(root)["train"])[0][1][1][1] == [40.5, 0, 64, 48]


def test_the_evaluation_copy_has_numbered_annotations_flags_and_areas(root):
    data = load_coco(root)
    data["annotations"][0] |= {"id": 0, "iscrowd": "1", "area": None}
    data["annotations"][1] |= {"id": "b", "iscrowd": None, "area": "large"}
    data["annotations"][2] |= {"id": "b", "iscrowd": "false", "area": 0}
    del data["annotations"][3]["area"], data["annotations"][3]["iscrowd"]
    copy, image_ids = evaluation_copy(data)
    annotations = copy["annotations"]
    assert [a["id"] for a in annotations] == [1, 2, 3, 4] and image_ids is None
    assert [a["iscrowd"] for a in annotations] == [1, 0, 0, 0]
    for a in annotations:
        assert a["area"] == a["bbox"][2] * a["bbox"][3]
    # the dataset itself is not changed
    assert data["annotations"][0]["id"] == 0 and "info" in copy


def test_positive_areas_are_kept(root):
    data = load_coco(root)
    data["annotations"][0]["area"] = 12.5
    assert evaluation_copy(data)[0]["annotations"][0]["area"] == 12.5


def test_image_ids_that_are_not_all_integers_are_numbered(root):
    data = load_coco(root)
    for annotation in data["annotations"]:
        annotation["image_id"] = {1: "scan/7", 2: 2}[annotation["image_id"]]
    data["images"][0]["id"] = "scan/7"
    copy, image_ids = evaluation_copy(data)
    assert image_ids == {"scan/7": 1, 2: 2}
    assert [x["id"] for x in copy["images"]] == [1, 2]
    assert {a["image_id"] for a in copy["annotations"]} == {1, 2}


@pytest.mark.parametrize(
    "value, flag",
    [(None, 0), ("", 0), (0, 0), (False, 0), ("0", 0), ("False", 0), (0.0, 0)]
    + [(1, 1), (True, 1), ("1", 1), ("true", 1), (1.0, 1)]
    + [("maybe", None), (2, None), ([], None), ({}, None)],
)
def test_flags(value, flag):
    assert read_flag(value) == flag


# how the dataset is broken, and the error
BROKEN = {
    "image is missing": (
        lambda root: (root / "train/a.png").unlink(),
        r"train.json, image 1: there is no image a.png in .*train$",
    ),
    "annotation without image": (
        change("annotations", 2, "image_id", to=99),
        r"train.json, annotation 3: no image has the id 99",
    ),
    "unknown class": (
        change("annotations", 1, "category_id", to=7),
        r"train.json, annotation 2 of a.png: category 7 is unknown; the categories are 2 \(cat\), "
        r"5 \(dog\)",
    ),
    "box outside": (
        change("annotations", 1, "bbox", to=[40, 10, 30, 20]),
        r"annotation 2 of a.png: the box of a 'dog' leaves the image of 64x48: corners 40, 10, 70",
    ),
    "negative box": (
        change("annotations", 1, "bbox", to=[-5, 10, 30, 20]),
        r"annotation 2 of a.png: the box of a 'dog' leaves the image",
    ),
    "no area": (
        change("annotations", 1, "bbox", to=[40, 10, 0, 20]),
        r"annotation 2 of a.png: the box of a 'dog' has no area: x 40 to 40, y 10 to 30",
    ),
    "three numbers for a box": (
        change("annotations", 1, "bbox", to=[40, 10, 20]),
        r"annotation 2 of a.png: bbox is \[40, 10, 20\]; give \[x, y, width, height\]",
    ),
    "not a number": (
        change("annotations", 1, "bbox", to=[40, 10, float("nan"), 2]),
        r"annotation 2 of a.png: bbox is \[40, 10, nan, 2\]",
    ),
    "unknown flag": (
        change("annotations", 1, "iscrowd", to="maybe"),
        r"annotation 2 of a.png: iscrowd is 'maybe'; give 0 or 1",
    ),
    "no images": (
        lambda root: [change(x, to=[], split="val")(root) for x in ("images", "annotations")],
        r"val.json: the split has no image",
    ),
    "no objects": (
        change("annotations", to=[], split="val"),
        r"val.json: the split has no object",
    ),
    "not JSON": (
        lambda root: coco_file(root).write_text('{\n"images": [],\n}'),
        r"train.json:(3: the file is not JSON: Expecting property name|"
        r"2: the file is not JSON: Illegal trailing)",
    ),
    "no list of categories": (
        change("categories", to=None),
        r"train.json: not a COCO file: it has no list of objects under categories",
    ),
    "no categories": (
        lambda root: [change(x, to=[])(root) for x in ("categories", "annotations")],
        r"train.json: the list of categories is empty",
    ),
    "another class in val": (
        change("categories", 1, "name", to="emu", split="val"),
        r"val.json: the categories differ from those of the training split; only in this file: "
        r"emu; only in .*train.json: dog",
    ),
    "another order in val": (
        lambda root: [
            change("categories", i, "id", to=5 - 3 * i, split="val")(root) for i in (0, 1)
        ],
        r"val.json: .*sorted by id they are dog, cat in this file and cat, dog in .*train.json",
    ),
    "class twice": (
        change("categories", 1, "name", to="cat"),
        r"train.json: category 'cat' \(id 5\) has the id or the name of another category",
    ),
    "image id twice": (
        change("images", 1, "id", to=1),
        r"train.json, image 1: b.png has the id of another image",
    ),
    "image without size": (
        change("images", 0, "width", to=None),
        r"train.json, image 1: a.png has no usable width",
    ),
}
# number of problems where one mistake causes others
NUM_PROBLEMS = {
    "no categories": 2,
    "class twice": 4,
    "image id twice": 3,
    "image without size": 3,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_dataset_raises_its_first_problem(root, name):
    break_it, message = BROKEN[name]
    break_it(root)
    with pytest.raises(ValueError) as caught:
        read_all(root)
    text, hint = str(caught.value).split(" (tools/check_data.py")
    assert hint == f" --data {root} lists all problems)"
    assert re.search(message, text) and "\n" not in text
    problems = check_dataset(root).problems
    assert text == str(problems[0])
    assert len(problems) == NUM_PROBLEMS.get(name, 1), problems
