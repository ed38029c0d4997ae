"""Reading CVAT for images: shapes, labels, subsets, image folders, and errors for bad files."""

import math
import re

import pytest

from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.formats.cvat import CVAT
from tests.data.custom.example_datasets import write_image
from tests.data.custom.formats.reading import (
    find,
    objects,
    problem_of,
    random_boxes,
    read,
    texts,
)

READER = CVAT()
LABELS = "<meta><task><labels>{}</labels></task></meta>".format(
    "".join(f"<label><name>{x}</name></label>" for x in ("dog", "cat", "cow"))
)


def box(x1=4, y1=6, x2=20, y2=30, label="cat", extra=""):
    corners = f'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"'
    return f'<box label="{label}" occluded="0" {corners} z_order="0" {extra}></box>'


def image(name, *shapes, subset="", size='width="64" height="48"'):
    shapes = "\n".join(shapes)
    subset = f'subset="{subset}"' if subset else ""
    return f'<image id="0" name="{name}" {subset} {size}>\n{shapes}\n</image>'


def write(folder, *images, meta=LABELS, files=("a.png",), file="annotations.xml", encoding="utf-8"):
    """Writes a file with one element per line, and images."""
    lines = ['<?xml version="1.0"?>', "<annotations>", meta, *images, "</annotations>"]
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes("\n".join(lines).encode(encoding))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name)
    return folder


@pytest.mark.parametrize("seed", range(20))
def test_random_boxes_are_read_exactly(seed, tmp_path):
    boxes = random_boxes(seed)
    write(tmp_path, image("a.png", *(box(*x) for x in boxes)))
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", corners) for corners in boxes]}
    assert not findings.problems and not findings.repairs
    assert splits["all"].origin == 0
    assert [c.name for c in splits["all"].categories] == ["dog", "cat", "cow"]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (box(10, 10, 30, 20, extra='rotation="90.0"'), (15, 5, 25, 25)),
        (box(10, 10, 30, 20, extra='rotation="-90"'), (15, 5, 25, 25)),
        (
            box(10, 10, 20, 20, extra='rotation="45"'),
            (7.92893219, 7.92893219, 22.07106781, 22.07106781),
        ),
        ('<polygon label="cat" points="4.5,6;20,6.25;9,30"/>', (4.5, 6, 20, 30)),
        ('<ellipse label="cat" cx="20" cy="15" rx="10" ry="5"/>', (10, 10, 30, 20)),
        ('<ellipse label="cat" cx="20" cy="15" rx="10" ry="5" rotation="90"/>', (15, 5, 25, 25)),
    ],
)
def test_shapes_that_are_no_upright_boxes(shape, expected, tmp_path):
    write(tmp_path, image("a.png", shape))
    splits, findings = read(READER, tmp_path)
    ((name, corners),) = objects(splits["all"])["a.png"]
    assert name == "cat" and corners == pytest.approx(expected, abs=1e-6)
    assert [x.kind for x in findings.repairs] == ["box of a polygon"]
    assert not findings.problems


def test_rotated_box_encloses_its_corners(tmp_path):
    """Any angle, against the corners turned one by one."""
    for angle in range(5, 360, 25):
        write(tmp_path, image("a.png", box(10, 12, 30, 20, extra=f'rotation="{angle}"')))
        ((_, corners),) = objects(read(READER, tmp_path)[0]["all"])["a.png"]
        turn = complex(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
        points = [complex(20, 16) + complex(x, y) * turn for x in (-10, 10) for y in (-4, 4)]
        xs, ys = [p.real for p in points], [p.imag for p in points]
        assert corners == pytest.approx((min(xs), min(ys), max(xs), max(ys)), abs=1e-9)


def test_no_rotation_is_no_repair(tmp_path):
    write(tmp_path, image("a.png", box(extra='rotation="0.00"')))
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", (4, 6, 20, 30))]}
    assert not findings.repairs


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (box(x2="a"), "xbr of <box> is 'a', not a number"),
        (box(y1="nan"), "ytl of <box> is 'nan'"),
        (box(y1="inf"), "ytl of <box> is 'inf'"),
        (box(y1="1,5"), "ytl of <box> is '1,5'"),
        (box(y1=""), "ytl of <box> is missing"),
        ('<box label="cat" xtl="1" ytl="2" ybr="9"/>', "xbr of <box> is missing"),
        (box(extra='rotation="x"'), "rotation of <box> is 'x'"),
        (box(label=""), "<box> has no label"),
        ('<box xtl="1" ytl="2" xbr="8" ybr="9"/>', "<box> has no label"),
        ('<polygon label="cat" points="1,2;3,4"/>', "points of the polygon .*at least 3"),
        ('<polygon label="cat" points="1,2;3,4;5"/>', "points of the polygon"),
        ('<polygon label="cat" points="1,2;3,4;5,nan"/>', "points of the polygon"),
        ('<polygon label="cat"/>', "points of the polygon"),
        ('<ellipse label="cat" cx="20" cy="15" rx="10"/>', "ry of <ellipse> is missing"),
        ('<mask label="cat" rle="1, 2" left="1" top="2" width="3" height="1"/>', "is a <mask>"),
        ('<polyline label="cat" points="1,2;3,4"/>', "is a <polyline>"),
        ('<points label="cat" points="1,2"/>', "is a <points>"),
        ('<cuboid label="cat" xtl1="1"/>', "is a <cuboid>"),
        ('<skeleton label="cat"><points/></skeleton>', "is a <skeleton>"),
    ],
)
def test_unusable_shapes_are_problems(shape, message, tmp_path):
    write(tmp_path, image("a.png", box(), shape))
    # the line of the second shape
    assert re.search(rf"annotations\.xml:6: .*{message}", problem_of(READER, tmp_path))
    assert objects(read(READER, tmp_path)[0]["all"]) == {"a.png": [("cat", (4, 6, 20, 30))]}


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (box(extra='outside="1"'), "object outside of the view"),
        ('<tag label="night" source="manual"></tag>', "tag of an image"),
    ],
)
def test_entries_that_are_left_out(shape, kind, tmp_path):
    write(tmp_path, image("a.png", box(), shape))
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", (4, 6, 20, 30))]}
    assert [x.kind for x in findings.repairs] == [kind] and not findings.problems


@pytest.mark.parametrize(
    "size", ["", 'width="" height="48"', 'width="64" height="x"', 'width="0" height="48"']
)
def test_missing_sizes_are_repaired(size, tmp_path):
    write(tmp_path, image("a.png", box(), size=size))
    splits, findings = read(READER, tmp_path)
    assert [x.size for x in splits["all"].images] == [None]
    assert [x.kind for x in findings.repairs] == ["image size missing"]


# Labels


@pytest.mark.parametrize("parent", ["task", "project", "job"])
def test_labels(parent, tmp_path):
    labels = LABELS.replace("task", parent).replace(
        "</labels>", "<label><name>leg</name><parent>cow</parent></label></labels>"
    )
    write(tmp_path, image("a.png", box()), meta=labels)
    categories = read(READER, tmp_path)[0]["all"].categories
    assert [category.name for category in categories] == ["dog", "cat", "cow"]


def test_without_labels_the_classes_are_those_of_the_objects(tmp_path):
    write(tmp_path, image("a.png", box()), meta="<version>1.1</version>")
    assert read(READER, tmp_path)[0]["all"].categories is None


# Images


@pytest.mark.parametrize(
    ("name", "files", "repaired"),
    [
        ("a.png", ["a.png"], False),
        ("a.png", ["images/a.png"], False),
        ("cam/a.png", ["images/cam/a.png"], False),
        ("a.png", ["pictures/a.png"], False),
        ("cam\\a.png", ["images/cam/a.png"], True),
        ("/home/django/a.png", ["images/a.png"], True),
        ("A.png", ["images/a.png"], True),
    ],
)
def test_names_and_folders_of_images(name, files, repaired, tmp_path):
    write(tmp_path, image(name, box()), files=files)
    splits, findings = read(READER, tmp_path)
    assert [x.path for x in splits["all"].images] == [tmp_path / files[0]]
    assert not findings.problems
    assert [x.kind for x in findings.repairs] == ["file name adapted"] * repaired


def test_same_name_in_the_folders_of_two_subsets(tmp_path):
    files = ["images/day/a.png", "images/night/a.png"]
    images = [image("a.png", box(x1=x), subset=s) for s, x in (("day", 1), ("night", 2))]
    write(tmp_path, *images, files=files)
    splits, findings = read(READER, tmp_path)
    assert [(x.path, x.objects[0].corners[0]) for x in splits["all"].images] == [
        (tmp_path / files[0], 1), (tmp_path / files[1], 2)
    ]  # fmt: skip
    assert [x.image_id for x in splits["all"].images] == ["images/day/a", "images/night/a"]
    assert not findings.problems


@pytest.mark.parametrize(
    ("images", "files", "message"),
    [
        ([image("lost.png", box())], ["a.png"], r":4: there is no image lost\.png"),
        ([image("a.png"), image("a.png")], ["a.png"], r":7: .*a\.png is listed twice.*xml:4"),
        ([image("a.png"), image("")], ["a.png"], ":7: the image has no name"),
        ([image("a.png")], ["a.png", "b.png"], "b.png: .*annotations.xml does not list this image"),
    ],
)
def test_problems_with_images(images, files, message, tmp_path):
    write(tmp_path, *images, files=files)
    assert any(re.search(message, x) for x in texts(read(READER, tmp_path)[1].problems))


def test_image_without_shapes_is_background(tmp_path):
    write(tmp_path, image("a.png", box()), image("b.png"), files=["a.png", "b.png"])
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"])["b.png"] == [] and splits["all"].annotated
    assert not findings.problems


# Splits


@pytest.mark.parametrize("files", ["{name}", "images/{name}", "images/{subset}/{name}"])
def test_subsets_are_splits(files, tmp_path):
    subsets = {"Train": "a.png", "Validation": "b.png", "test": "c.png"}
    images = [image(name, *([box()] * (x != "test")), subset=x) for x, name in subsets.items()]
    write(tmp_path, *images, files=[files.format(name=n, subset=s) for s, n in subsets.items()])
    splits, findings = read(READER, tmp_path)
    assert {split: list(objects(raw)) for split, raw in splits.items()} == {
        "train": ["a.png"], "val": ["b.png"], "test": ["c.png"]
    }  # fmt: skip
    assert [raw.annotated for raw in splits.values()] == [True, True, False]
    assert not findings.problems


@pytest.mark.parametrize("subset", ["default", ""])
def test_image_without_split_next_to_splits(subset, tmp_path):
    images = [
        image("a.png", subset="Train"),
        image("b.png", subset="Val"),
        image("c.png", subset=subset),
    ]
    write(tmp_path, *images, files=["a.png", "b.png", "c.png"])
    message = rf"image without split: .*xml:10: image c\.png has the subset {subset!r}"
    assert re.search(message, problem_of(READER, tmp_path))


@pytest.mark.parametrize(
    "files", [["train/a.png", "val/b.png"], ["images/train/a.png", "images/val/b.png"]]
)
@pytest.mark.parametrize("with_folders", [True, False])
def test_splits_by_the_folders_of_images(files, with_folders, tmp_path):
    names = files if with_folders else ["a.png", "b.png"]
    write(tmp_path, *(image(name, box()) for name in names), files=files)
    splits, findings = read(READER, tmp_path)
    assert {split: list(objects(raw)) for split, raw in splits.items()} == {
        "train": ["a.png"], "val": ["b.png"]
    }  # fmt: skip
    assert not findings.problems


@pytest.mark.parametrize("file", ["{}/annotations.xml", "{}.xml", "{}/cvat.xml"])
@pytest.mark.parametrize("images", ["images/{}_{}", "images/{}/{}"])
def test_a_file_per_split(file, images, tmp_path):
    for split in ("train", "val"):
        path = images.format(split, "a.png")
        name = path.rpartition("/")[2]
        write(tmp_path, image(name, box()), file=file.format(split), files=[path])
    splits, findings = read(READER, tmp_path)
    assert {split: [x.path for x in raw.images] for split, raw in splits.items()} == {
        split: [tmp_path / images.format(split, "a.png")] for split in ("train", "val")
    }
    assert not findings.problems


def test_several_files_without_splits(tmp_path):
    for name in ("job_1.xml", "job_2.xml"):
        write(tmp_path, image("a.png"), file=name)
    with pytest.raises(ValueError, match=r"several CVAT .xml files.*job_1\.xml, job_2\.xml"):
        find(READER, tmp_path)


# Files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding, tmp_path):
    images = [image("a.png", box(label="Kätze"), subset="Train")]
    images += [image("b.png", box(), subset="Validation")]
    write(tmp_path, *images, files=["a.png", "b.png"], encoding=encoding)
    splits, findings = read(READER, tmp_path)
    assert objects(splits["train"]) == {"a.png": [("Kätze", (4, 6, 20, 30))]}
    assert list(splits) == ["train", "val"] and not findings.problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-30], r"annotations\.xml:\d+: "),
        (
            lambda text: text.replace("</image>", "</picture>"),
            r"annotations\.xml:6: mismatched tag",
        ),
        (lambda text: text.replace('"cat"', '"\xe4"').encode("latin-1"), r"xml:5: .*encod"),
        (
            lambda text: text.replace("<image", '<track id="0" label="cat"></track>\n<image'),
            r"annotations\.xml:4: .*tracks of a video: export it as 'CVAT for images'",
        ),
    ],
)
def test_unreadable_files(change, message, tmp_path):
    write(tmp_path, image("a.png", box()))
    path = tmp_path / "annotations.xml"
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    assert re.search(message, problem_of(READER, tmp_path))
    assert not read(READER, tmp_path)[0]["all"].readable


def test_voc_files_are_not_cvat(tmp_path):
    (tmp_path / "annotations.xml").write_text("<annotation><object/></annotation>")
    assert find(READER, tmp_path) is None


@pytest.mark.parametrize("name", [" a.png", "b\\a.png"])
def test_images_of_another_split_are_listed_whatever_their_name(name, tmp_path):
    images = [image(name, box(), subset="Train"), image("c.png", box(), subset="Validation")]
    write(tmp_path, *images, files=(name, "c.png"))
    assert check_dataset(tmp_path).problems == []
