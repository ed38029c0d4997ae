"""Reading datasets in COCO format: accepted layouts, values, and errors for broken files."""

import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.formats.base import read_flag
from tests.data.custom.example_datasets import (
    assert_first_problem,
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
        # flowdet keeps the area for the evaluation
        assert [x.pop("area") for x in a["annotations"]] == [28 * 30, 20 * 30]
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
        r"train.json, image 1: there is no image a.png in .*train or .*pets$",
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
        change("annotations", 1, "bbox", to=[-6, 10, 30, 20]),
        r"annotation 2 of a.png: the box of a 'dog' leaves the image",
    ),
    "negative width": (
        change("annotations", 1, "bbox", to=[40, 10, -20, 20]),
        r"annotation 2 of a.png: the box of a 'dog' has its corners in the wrong order: x 40 to 20",
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
        r"train.json: the list of categories is empty",
    ),
    "categories by id": (
        change("categories", to={"2": "cat"}),
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
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_dataset_raises_its_first_problem(root, name):
    break_it, message = BROKEN[name]
    break_it(root)
    # what follows from it in the same file is not listed
    assert_first_problem(root, message, {"class twice": 2, "image id twice": 3}.get(name, 1))


def test_images_with_one_id_are_left_out_with_their_objects(root):
    """The objects could belong to either of them."""
    change("images", 1, "id", to=1)(root)
    data = load_coco(root)
    data["images"].append({**data["images"][0], "id": 3, "file_name": "c.png"})
    data["annotations"].append({**data["annotations"][0], "image_id": 3})
    save_coco(root, data)
    (root / "val" / "c.png").rename(root / "train" / "c.png")
    save_coco(root, load_coco(root), "val")
    dataset = CustomDataset(root, "skip")
    assert [stem for stem, _ in boxes_of(dataset.read("train").records)] == ["c"]
    assert "image listed twice" in [p.kind for p in dataset.findings.problems]


def test_an_entry_that_is_repeated_is_harmless(root):
    data = load_coco(root)
    data["images"].append(data["images"][0])
    save_coco(root, data)
    dataset = CustomDataset(root)
    assert [stem for stem, _ in boxes_of(dataset.read("train").records)] == ["a", "b"]
    assert [r.kind for r in dataset.findings.repairs] == ["image listed twice"]


@pytest.mark.parametrize(("ids", "names"), [((10, 9), ["dog", "cat"]), (("10", 9), ["dog", "cat"])])
def test_classes_have_the_order_of_their_ids_as_numbers(root, ids, names):
    for split in ("train", "val"):
        data = load_coco(root, split)
        for category, new in zip(data["categories"], ids, strict=True):
            for annotation in data["annotations"]:
                if annotation["category_id"] == category["id"]:
                    annotation["category_id"] = new
            category["id"] = new
        save_coco(root, data, split)
    dataset = CustomDataset(root)
    assert dataset.class_names == names
    first = boxes_of(dataset.read("train").records)[0][1]
    assert [(names[index], box) for index, box in first] == [
        ("cat", [2, 3, 30, 33]),
        ("dog", [40, 10, 60, 40]),
    ]


@pytest.mark.parametrize(
    ("image_id", "is_known"),
    [("1", True), (1.0, True), ("01", False), ("1.0", False), (" 1", False)],
)
def test_an_id_is_a_number_or_its_text(root, image_id, is_known):
    change("annotations", 0, "image_id", to=image_id)(root)
    dataset = CustomDataset(root, "skip")
    num_objects = len(dataset.read("train").records[0]["annotations"])
    assert (num_objects == 2) == is_known and len(dataset.findings.problems) == (not is_known)
