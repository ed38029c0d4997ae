"""Reading LabelMe: shapes, names of images, sizes, splits, and errors for bad files."""

import json
import re

import pytest

from flowdet.data.custom.formats.labelme import LabelMe
from tests.data.custom.example_datasets import write_image
from tests.data.custom.formats.reading import (
    find,
    objects,
    problem_of,
    random_boxes,
    read,
    texts,
)

LABELME = LabelMe()
BOX = (4, 6, 20, 30)


def rectangle(box=BOX, label="cat", **keys):
    x1, y1, x2, y2 = box
    return {"label": label, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", **keys}


def shape(kind, *points, **keys):
    return {"label": "cat", "points": [list(x) for x in points], "shape_type": kind, **keys}


def write(path, *shapes, image=True, encoding="utf-8", **keys):
    """Writes the annotation of an image to `path`.json, and the image beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes or [rectangle()]),
        "imagePath": f"{path.name}.png",
        "imageData": None,
        "imageHeight": 48,
        "imageWidth": 64,
    }
    text = json.dumps(data | keys, indent=2)
    path.with_name(f"{path.name}.json").write_bytes(text.encode(encoding))
    if image:
        write_image(path.with_name(f"{path.name}.png"))


@pytest.mark.parametrize("seed", range(20))
def test_random_boxes_are_read_exactly(seed, tmp_path):
    boxes = random_boxes(seed)
    shapes = []
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        # LabelMe keeps the order in which the corners were drawn
        corners = [[[x1, y1], [x2, y2]], [[x2, y1], [x1, y2]], [[x2, y2], [x1, y1]]][number % 3]
        shapes.append(shape("rectangle", *corners))
    write(tmp_path / "a", *shapes)
    splits, findings = read(LABELME, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", box) for box in boxes]}
    assert not findings.problems and not findings.repairs
    assert splits["all"].origin == 0


SQUARE = [(4, 6), (20, 6), (20, 30), (4, 30)]


@pytest.mark.parametrize(
    ("kind", "points", "box", "repaired"),
    [
        ("rectangle", SQUARE, BOX, False),
        ("rectangle", [(12, 0), (24, 10), (12, 20), (0, 10)], (0, 0, 24, 20), True),
        ("polygon", SQUARE, BOX, True),
        ("polygon", [(4, 30), (20, 18), (9, 6)], BOX, True),
        (None, SQUARE, BOX, True),
        ("rotation", SQUARE, BOX, True),
        ("oriented_rectangle", SQUARE, BOX, True),
        ("circle", [(20, 20), (23, 24)], (15, 15, 25, 25), True),
        ("mask", [(4, 6), (20, 30)], BOX, True),
    ],
)
def test_shapes_with_a_box(kind, points, box, repaired, tmp_path):
    write(tmp_path / "a", shape(kind, *points))
    splits, findings = read(LABELME, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", box)]}
    assert not findings.problems
    assert [x.kind for x in findings.repairs] == ["box of a polygon"] * repaired


def test_outlines_of_a_group_are_one_object(tmp_path):
    parts = [shape("polygon", *((x + dx, y) for x, y in SQUARE), group_id=1) for dx in (0, 20)]
    others = [shape("polygon", *SQUARE, group_id=2), rectangle(group_id=1), rectangle(group_id=1)]
    write(tmp_path / "a", *parts, *others)
    splits, findings = read(LABELME, tmp_path)
    boxes = [box for _, box in objects(splits["all"])["a.png"]]
    assert boxes == [(4, 6, 40, 30), BOX, BOX, BOX]
    assert [x.where for x in findings.repairs if x.kind == "box of a group"] == [
        f"{tmp_path / 'a.json'}, shape 2 (cat)"
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("point", (4, 6)), "shape 2 .cat.: the shape is a point"),
        (shape("line", (4, 6), (9, 9)), "is a line,"),
        (shape("linestrip", (4, 6), (9, 9)), "is a linestrip,"),
        (shape("polygon", (4, 6), (9, 9)), "polygon has 2 points, not at least 3"),
        (shape("rectangle", (4, 6)), "rectangle has 1 points, not 2 or 4"),
        (shape("circle", (4, 6), (9, 9), (1, 1)), "circle has 3 points"),
        (shape("rectangle", (4, 6), (float("nan"), 9)), "points of the rectangle .*nan"),
        (shape("rectangle", (4, 6), (float("inf"), 9)), "points of the rectangle .*inf"),
        (shape("rectangle", (4, 6), ("9", 9)), "points of the rectangle .*'9'"),
        (shape("rectangle", (4, 6), (9, 9, 9)), "points of the rectangle"),
        (shape("rectangle"), "points of the rectangle"),
        (rectangle(points=None), "points of the rectangle are None"),
        (rectangle(label=""), "label is ''"),
        (rectangle(label=None), "label is None"),
        (rectangle(label=3), "label is 3"),
        ("cat", "label is None"),
    ],
)
def test_unusable_shapes_are_problems(bad, message, tmp_path):
    write(tmp_path / "a", rectangle(), bad)
    splits, findings = read(LABELME, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", BOX)]}
    assert any(re.search(message, text) for text in texts(findings.problems))
    assert all("a.json, shape 2" in text for text in texts(findings.problems))


@pytest.mark.parametrize("keys", [{"imageHeight": None}, {"imageWidth": "64"}, {"imageWidth": 0}])
def test_missing_sizes_are_repaired(keys, tmp_path):
    write(tmp_path / "a", **keys)
    splits, findings = read(LABELME, tmp_path)
    assert [image.size for image in splits["all"].images] == [None]
    assert [x.kind for x in findings.repairs] == ["image size missing"]


def test_size_and_ids(tmp_path):
    for name in ("cam1/0", "cam2/0", "b.c"):
        write(tmp_path / name)
    (image_b, *images) = read(LABELME, tmp_path)[0]["all"].images
    assert image_b.size == (48, 64) and image_b.annotated
    assert [image.image_id for image in (image_b, *images)] == ["b.c", "cam1/0", "cam2/0"]
    assert [image.path.parent.name for image in images] == ["cam1", "cam2"]


# Names of images


@pytest.mark.parametrize(
    ("image_path", "repaired"),
    [
        ("a.png", False),
        ("./a.png", False),
        ("..\\pictures\\a.png", True),
        ("C:\\Users\\me\\a.png", True),
        ("/home/me/pictures/a.png", True),
        ("../lost/a.png", True),
        ("A.PNG", True),
        ("old_name.png", True),
        (None, True),
        (3, True),
    ],
)
def test_names_of_images(image_path, repaired, tmp_path):
    write(tmp_path / "a", imagePath=image_path)
    splits, findings = read(LABELME, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", BOX)]}
    assert not findings.problems
    assert [x.kind for x in findings.repairs] == ["file name adapted"] * repaired


@pytest.mark.parametrize("image_path", ["../images/{}.png", "..\\images\\{}.png", "{}.png"])
def test_images_in_another_folder(image_path, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "labels" / name, image=False, imagePath=image_path.format(name))
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png")
    splits, findings = read(LABELME, tmp_path)
    assert [x.path for x in splits["all"].images] == [
        tmp_path / "images" / f"{name}.png" for name in ("a", "b")
    ]
    assert not findings.problems


def test_image_beside_the_file_comes_before_a_similar_name_elsewhere(tmp_path):
    write(tmp_path / "cam1/renamed", imagePath="0.png")
    (tmp_path / "cam2").mkdir()
    write_image(tmp_path / "cam2/0.png")
    image = read(LABELME, tmp_path)[0]["all"].images[0]
    assert image.path == tmp_path / "cam1/renamed.png"


def test_embedded_image_without_a_file(tmp_path):
    write(tmp_path / "b")
    write(tmp_path / "a", image=False, imageData="iVBORw0KGgo=")
    problem = problem_of(LABELME, tmp_path)
    assert re.search(r"missing image: .*a\.json.*imageData.*write the images to files", problem)


def test_embedded_image_is_ignored_if_the_file_exists(tmp_path):
    write(tmp_path / "a", imageData="not an image")
    _, findings = read(LABELME, tmp_path)
    assert not findings.problems and not findings.repairs


def test_missing_image(tmp_path):
    write(tmp_path / "street_1")
    write(tmp_path / "street_2", image=False)
    assert re.search(r"street_2\.json: .*street_2\.png", problem_of(LABELME, tmp_path))


def test_two_files_of_one_image(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", image=False, imagePath="a.png")
    assert re.search(r"b\.json: .*a\.json is also", problem_of(LABELME, tmp_path))


# Files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding, tmp_path):
    write(tmp_path / "a", rectangle(label="Katze ä"), encoding=encoding)
    path = tmp_path / "a.json"
    path.write_bytes(
        path.read_bytes().replace(b"\n", b"\r\n") if "8" in encoding else path.read_bytes()
    )
    assert objects(read(LABELME, tmp_path)[0]["all"]) == {"a.png": [("Katze ä", BOX)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"b\.json:1: .*not JSON"),
        (b'{"shapes": [\n{"label": ', r"b\.json:2: .*not JSON"),
        (b"[]", r"b\.json:1: .*list, not an object"),
        (b'{"version": 1}', r"b\.json: not a LabelMe file"),
        (b'{"shapes": null, "imagePath": "b.png"}', r"b\.json: not a LabelMe file"),
        ('{\n"shapes": ["ä"]}'.encode("latin-1"), r"b\.json:2: .*encoding"),
        (b"[" * 100_000, r"b\.json:1: .*not JSON"),
    ],
)
def test_unreadable_files(content, message, tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    (tmp_path / "b.json").write_bytes(content)
    assert re.search(message, problem_of(LABELME, tmp_path))


def test_image_without_a_file_is_not_background(tmp_path):
    write(tmp_path / "a")
    write_image(tmp_path / "b.png")
    assert re.search(
        r"image without annotation: .*b\.png: there is no b\.json", problem_of(LABELME, tmp_path)
    )
    assert list(objects(read(LABELME, tmp_path)[0]["all"])) == ["a.png"]


def test_file_without_shapes_is_background(tmp_path):
    write(tmp_path / "a", shapes=[])
    splits, findings = read(LABELME, tmp_path)
    assert objects(splits["all"]) == {"a.png": []} and splits["all"].annotated
    assert not findings.problems


# Splits


def test_splits_by_folders(tmp_path):
    for folder in ("Train", "validation"):
        write(tmp_path / folder / "a")
    (tmp_path / "test").mkdir()
    write_image(tmp_path / "test/c.png")
    splits, findings = read(LABELME, tmp_path)
    assert {split: list(objects(raw)) for split, raw in splits.items()} == {
        "train": ["a.png"], "val": ["a.png"], "test": ["c.png"]
    }  # fmt: skip
    assert [raw.annotated for raw in splits.values()] == [True, True, False]
    assert not findings.problems


def test_common_image_folder_of_the_splits(tmp_path):
    (tmp_path / "images").mkdir()
    for split, name in (("train", "a"), ("val", "b")):
        path = f"../../images/{name}.png"
        write(tmp_path / "labels" / split / name, image=False, imagePath=path)
        write_image(tmp_path / "images" / f"{name}.png")
    splits, findings = read(LABELME, tmp_path)
    assert {split: list(objects(raw)) for split, raw in splits.items()} == {
        "train": ["a.png"], "val": ["b.png"]
    }  # fmt: skip
    assert not findings.problems


def test_folder_without_a_split_next_to_splits(tmp_path):
    for folder in ("train", "val", "extra"):
        write(tmp_path / folder / "a")
    with pytest.raises(ValueError, match="extra contains LabelMe files.*rename"):
        find(LABELME, tmp_path)


@pytest.mark.parametrize(
    "content", ['{"images": [], "annotations": [], "categories": []}', "{}", '{"assets": {}}']
)
def test_other_json_files_are_not_labelme(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    assert find(LABELME, tmp_path) is None
