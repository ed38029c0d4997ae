"""Checks and repairs of boxes, classes and image sizes, for all formats."""

import numpy as np
import pytest
from PIL import Image

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.raw import Category, ClassList, RawImage, RawObject, RawSplit
from flowdet.data.custom.records import build_records, class_list

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(file)
    return file


@pytest.fixture
def findings(tmp_path):
    return Findings(tmp_path, "skip")


def split_of(path, *corners, origin=0, size=(HEIGHT, WIDTH), categories=None):
    objects = [RawObject("cat", box, f"line {i}") for i, box in enumerate(corners, 1)]
    image = RawImage(path, "a", "line 0", size, objects=objects)
    return RawSplit([image], path.parent, categories, "train", origin)


def records_of(raw, findings, kind="coco", open_images=True):
    return build_records(raw, class_list(raw), kind, findings, open_images)


def boxes_of(raw, findings, **settings):
    return [a["bbox"] for r in records_of(raw, findings, **settings) for a in r["annotations"]]


@pytest.mark.parametrize("origin", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_in_the_image_keep_their_exact_corners(path, findings, origin, seed):
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 40, (20, 2))
    boxes = np.concatenate([starts, starts + rng.uniform(0.01, 8, (20, 2))], axis=1)
    written = (boxes + (origin, origin, 0, 0)).tolist()
    assert np.allclose(
        boxes_of(split_of(path, *written, origin=origin), findings), boxes, atol=1e-9
    )
    assert findings.problems == findings.repairs == []


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ((-1, 0, 20, 20), [0, 0, 20, 20]),
        ((40, 10, 64.9, 48.5), [40, 10, 64, 48]),
    ],
)
def test_a_pixel_outside_is_clipped_without_notice(path, findings, corners, box):
    assert boxes_of(split_of(path, corners), findings) == [box]
    assert findings.problems == findings.repairs == []


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ((-3, 10, 20, 30), [0, 10, 20, 30]),
        ((40, 30, 69, 53), [40, 30, 64, 48]),
    ],
)
def test_some_pixels_outside_are_clipped_and_reported(path, findings, corners, box):
    assert boxes_of(split_of(path, corners), findings) == [box]
    (repair,) = findings.repairs
    assert repair.kind == "box clipped to the image" and repair.where == "line 1"
    assert "leaves the image of 64x48" in repair.text


def test_in_a_large_image_more_pixels_are_clipped(tmp_path, findings):
    path = tmp_path / "large.png"
    Image.new("L", (1000, 600)).save(path)
    raw = split_of(path, (900, 10, 1028, 90), size=(600, 1000))
    assert boxes_of(raw, findings) == [[900, 10, 1000, 90]]
    raw = split_of(path, (900, 10, 1032, 90), size=(600, 1000))
    assert boxes_of(raw, findings) == [] and len(findings.problems) == 1


@pytest.mark.parametrize(
    "corners",
    [
        # more pixels than a rounding, less than half inside, none inside
        *((40, 10, 90, 40), (-9, 10, 30, 20), (-4, 10, 3, 20), (-4, 10, 0, 20), (64, 1, 65, 9)),
        (1000, 1000, 1100, 1100),
    ],
)
def test_a_box_that_belongs_elsewhere_is_a_problem(path, findings, corners):
    assert boxes_of(split_of(path, corners, (1, 1, 9, 9)), findings) == [[1, 1, 9, 9]]
    (problem,) = findings.problems
    assert problem.kind == "box outside the image" and problem.where == "line 1"
    assert not findings.repairs


@pytest.mark.parametrize(
    ("corners", "origin"),
    [((5, 5, 5, 9), 0), ((5, 5, 9, 5), 0), ((0, 0, 0, 0), 1), ((5, 5, 5, 9), 1), ((5, 5, 4, 9), 1)],
)
def test_a_box_without_area_is_left_out_and_reported(path, findings, corners, origin):
    assert boxes_of(split_of(path, corners, origin=origin), findings) == []
    assert [r.kind for r in findings.repairs] == ["box without area"] and not findings.problems


@pytest.mark.parametrize("corners", [(9, 5, 5, 9), (5, 9, 9, 5), (5, 5, 3, 9)])
@pytest.mark.parametrize("origin", [0, 1])
def test_swapped_corners_are_a_problem(path, findings, corners, origin):
    assert boxes_of(split_of(path, corners, origin=origin), findings) == []
    assert [p.kind for p in findings.problems] == ["corners in the wrong order"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("position", range(4))
def test_corners_that_are_not_finite_are_a_problem(path, findings, value, position):
    corners = [5.0, 5.0, 9.0, 9.0]
    corners[position] = value
    assert boxes_of(split_of(path, tuple(corners)), findings) == []
    assert len(findings.problems) == 1 and not findings.repairs


def test_annotations_have_the_keys_of_their_evaluator(path, findings):
    raw = split_of(path, (5, 5, 9, 9))
    raw.images[0].objects[0].area = 3.5
    (record,) = records_of(raw, findings)
    assert record["annotations"][0].keys() == {
        *("category_id", "bbox", "bbox_mode", "iscrowd", "area")
    }
    (record,) = records_of(raw, findings, "pascal_voc")
    assert record["annotations"][0]["difficult"] == 0 and "area" not in record["annotations"][0]


def test_a_missing_size_is_taken_from_the_image(path, findings):
    (record,) = records_of(split_of(path, (5, 5, 9, 9), size=None), findings, open_images=False)
    assert (record["height"], record["width"]) == (HEIGHT, WIDTH)


def test_an_image_of_another_size_is_a_problem(path, findings):
    raw = split_of(path, (5, 5, 9, 9), size=(WIDTH, HEIGHT))
    assert records_of(raw, findings) == []
    (problem,) = findings.problems
    assert problem.text == "the annotated size is 48x64, the image is 64x48"
    assert len(records_of(raw, findings, open_images=False)) == 1


def test_an_image_that_cannot_be_read_is_a_problem(path, findings):
    path.write_bytes(b"<html></html>")
    assert records_of(split_of(path, (5, 5, 9, 9)), findings) == []
    (problem,) = findings.problems
    assert problem.kind == "unreadable image" and problem.where == str(path)
    assert str(path) not in problem.text


@pytest.mark.parametrize(
    ("orientation", "size", "is_told"),
    [(1, (48, 64), False), (3, (48, 64), True), (6, (64, 48), False), (6, None, True)],
)
def test_images_whose_orientation_the_size_does_not_show(
    tmp_path, findings, orientation, size, is_told
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    (record,) = records_of(split_of(path, (5, 5, 9, 9), size=size), findings)
    assert ("orientation" in record) == is_told and not findings.problems


def test_classes_without_a_list_are_the_sorted_names(path):
    raw = split_of(path, (5, 5, 9, 9), (1, 1, 2, 2))
    raw.images[0].objects[0].name = "dog"
    assert class_list(raw).names == ("cat", "dog") and class_list(raw).ids == []


CLASSES = ClassList((Category("cat", 3), Category("dog", 7)), "train.json")


@pytest.mark.parametrize(
    ("categories", "problems", "repairs"),
    [
        # the ids may differ, the order not
        ([("cat", 1), ("dog", 2)], [], []),
        ([("dog", 1), ("cat", 2)], ["class list differs"], []),
        # some categories are left out by the tool
        ([("cat", 3)], [], ["class list completed"]),
        # an additional one without object does no harm
        ([("cat", 3), ("dog", 7), ("owl", 8)], [], ["class list completed"]),
    ],
)
def test_categories_of_another_split(path, findings, categories, problems, repairs):
    raw = split_of(path, (5, 5, 9, 9), categories=[Category(*pair) for pair in categories])
    (record,) = build_records(raw, CLASSES, "coco", findings, False)
    assert record["annotations"][0]["category_id"] == 0
    assert [p.kind for p in findings.problems] == problems
    assert [r.kind for r in findings.repairs] == repairs


def test_objects_of_an_additional_category_are_counted_once(path, findings):
    raw = split_of(path, (5, 5, 9, 9), (1, 1, 3, 3), categories=[Category("owl", 1)])
    for obj in raw.images[0].objects:
        obj.name = "owl"
    (record,) = build_records(raw, CLASSES, "coco", findings, False)
    assert record["annotations"] == []
    (problem,) = findings.problems
    assert "only in this file: owl; only in train.json: cat, dog; 2 objects" in problem.text


@pytest.mark.parametrize(("name", "index"), [(3, 0), (7, 1), ("7", 1)])
def test_without_categories_the_ids_of_the_training_split_count(path, findings, name, index):
    raw = split_of(path, (5, 5, 9, 9))
    raw.images[0].objects[0].name, raw.names_are_ids = name, True
    (record,) = build_records(raw, CLASSES, "coco", findings, False)
    assert record["annotations"][0]["category_id"] == index
    assert [r.kind for r in findings.repairs] == ["categories missing"]
