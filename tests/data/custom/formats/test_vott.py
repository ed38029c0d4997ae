"""Reading VoTT: regions, tags, names of images, files, and errors for bad files."""

import json
import re

import pytest

from flowdet.data.custom.formats.vott import VoTT
from tests.data.custom.example_datasets import write_image
from tests.data.custom.formats.reading import (
    find,
    objects,
    problem_of,
    random_boxes,
    read,
    texts,
)

READER = VoTT()
EXPORT = "vott-json-export/pets-export.json"
BOX = (4, 6, 20, 30)
POINTS = [{"x": x, "y": y} for x, y in ((4, 6), (20, 6), (20, 30), (4, 30))]


def region(box=BOX, tags=("cat",), **keys):
    x1, y1, x2, y2 = box
    bounding_box = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
    entry = {"id": "r", "type": "RECTANGLE", "tags": list(tags), "boundingBox": bounding_box}
    return {**entry, "points": POINTS, **keys}


def asset(name="a.png", /, *regions, **keys):
    entry = {
        "format": "png",
        "id": "0a1b",
        "name": name,
        "path": f"file:C:/Users/me/{name}",
        "size": {"width": 64, "height": 48},
        "state": 2,
        "type": 1,
    }
    return {"asset": {**entry, **keys}, "regions": list(regions), "version": "2.2.0"}


def write(folder, *assets, files=("a.png",), file=EXPORT, encoding="utf-8", **keys):
    """Writes an export, and images beside it."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    project = {
        "name": "pets",
        "tags": [{"name": name, "color": "#fff"} for name in ("dog", "cat", "cow")],
        "assets": {str(number): entry for number, entry in enumerate(assets)},
    }
    path.write_bytes(json.dumps(project | keys, indent=1).encode(encoding))
    for name in files:
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(path.parent / name)


@pytest.mark.parametrize("seed", range(20))
def test_random_boxes_are_read(seed, tmp_path):
    boxes = random_boxes(seed)
    write(tmp_path, asset("a.png", *(region(box) for box in boxes)))
    splits, findings = read(READER, tmp_path)
    (image,) = splits["all"].images
    for obj, box in zip(image.objects, boxes, strict=True):
        # left + width is rounded
        assert obj.corners == pytest.approx(box, abs=1e-6)
    assert not findings.problems and not findings.repairs
    assert [c.name for c in splits["all"].categories] == ["dog", "cat", "cow"]
    assert image.size == (48, 64) and image.image_id == "a" and splits["all"].origin == 0


def test_region_with_several_tags(tmp_path):
    write(tmp_path, asset("a.png", region(tags=["cat", "dog"])))
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", BOX), ("dog", BOX)]}
    assert [x.kind for x in findings.repairs] == ["region with several tags"]


@pytest.mark.parametrize("name", [None, "", 3, ["cat"]])
def test_unusable_tags_of_the_project(name, tmp_path):
    write(tmp_path, asset("a.png", region()), tags=[{"name": "cat"}, {"name": name}])
    problem = problem_of(READER, tmp_path)
    assert f"pets-export.json: a tag of the project has the name {name!r}" in problem


@pytest.mark.parametrize(
    ("keys", "repaired"), [({}, False), ({"boundingBox": None}, True), ({"boundingBox": {}}, None)]
)
def test_polygons(keys, repaired, tmp_path):
    write(tmp_path, asset("a.png", region(type="POLYGON", **keys)))
    splits, findings = read(READER, tmp_path)
    if repaired is None:
        assert "boundingBox is {}" in problem_of(READER, tmp_path)
        return
    assert objects(splits["all"]) == {"a.png": [("cat", BOX)]}
    assert [x.kind for x in findings.repairs] == ["box of a polygon"] * repaired


def box_with(**keys):
    return region() | {"boundingBox": region()["boundingBox"] | keys}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (box_with(left="4"), "boundingBox is .*'4'"),
        (box_with(left=None), "boundingBox is .*None"),
        (box_with(width=float("nan")), "boundingBox is .*nan"),
        (box_with(width=float("inf")), "boundingBox is .*inf"),
        (region(boundingBox=[1, 2, 3, 4]), r"boundingBox is \[1, 2, 3, 4\]"),
        (region(boundingBox=None, points=None), "boundingBox is None"),
        (region(boundingBox=None, points=[{"x": 1}] * 3), "boundingBox is None"),
        (region(tags=[]), r"tags is \[\]"),
        (region(tags=[""]), r"tags is \[''\]"),
        (region(tags=[3]), r"tags is \[3\]"),
        (region() | {"tags": "cat"}, "tags is 'cat'"),
        (region(type="POINT"), "the region is a POINT, which has no box"),
        (region(type="POLYLINE"), "the region is a POLYLINE"),
        (None, "tags is None"),
    ],
)
def test_unusable_regions_are_problems(bad, message, tmp_path):
    write(tmp_path, asset("a.png", region(), bad))
    problem = problem_of(READER, tmp_path)
    assert re.search(rf"pets-export\.json, asset a\.png, region 2: .*{message}", problem)
    assert objects(read(READER, tmp_path)[0]["all"]) == {"a.png": [("cat", BOX)]}


@pytest.mark.parametrize("size", [None, {}, {"width": 0, "height": 48}, {"width": "64"}, [48, 64]])
def test_missing_sizes_are_repaired(size, tmp_path):
    write(tmp_path, asset("a.png", region(), size=size))
    splits, findings = read(READER, tmp_path)
    assert [x.size for x in splits["all"].images] == [None]
    assert [x.kind for x in findings.repairs] == ["image size missing"]


# Images


@pytest.mark.parametrize(
    ("keys", "files", "repaired"),
    [
        ({}, ["a.png"], False),
        ({"name": "A.png"}, ["a.png"], True),
        ({"name": None}, ["a.png"], True),
        ({"name": "", "path": "file:/home/me/photos/a%20b.png"}, ["a b.png"], True),
        ({"name": "", "path": "https://x.blob.net/c/a.png?sv=2018&sig=x"}, ["a.png"], True),
        ({}, ["../images/a.png"], False),
    ],
)
def test_names_of_images(keys, files, repaired, tmp_path):
    write(tmp_path, asset("a.png", region(), **keys), files=files)
    splits, findings = read(READER, tmp_path)
    ((name, entries),) = objects(splits["all"]).items()
    assert name == files[0].rpartition("/")[2] and entries == [("cat", BOX)]
    assert not findings.problems
    assert [x.kind for x in findings.repairs] == ["file name adapted"] * repaired


def test_paths_tell_images_of_one_name_apart(tmp_path):
    paths = ["cam1/a.png", "cam2/a.png"]
    entries = [
        asset("a.png", region((x, 6, 20, 30)), path=f"file:D:/{path}")
        for x, path in enumerate(paths)
    ]
    write(tmp_path, *entries, files=paths)
    images = read(READER, tmp_path)[0]["all"].images
    assert [(x.path.parent.name, x.objects[0].corners[0]) for x in images] == [
        ("cam1", 0), ("cam2", 1)
    ]  # fmt: skip
    assert len({x.image_id for x in images}) == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (asset("lost.png", region()), r"missing image: .*asset lost\.png: .*lost\.png"),
        (asset("a.png", region(), path="file:a.png"), "image listed twice|missing image"),
        (asset("b.png", state=0), "image without annotation: .*asset b.png: .*not been visited"),
        (asset("", path=""), "asset 2: the asset has no name"),
        (asset("b.png") | {"regions": {"x": 1}}, "asset b.png: regions is .*not a list"),
        ({"regions": []}, "1 of 2 assets have no `asset`"),
        (None, "1 of 2 assets have no `asset`"),
    ],
)
def test_problems_with_images(entry, message, tmp_path):
    write(tmp_path, asset("a.png", region()), entry, files=["a.png", "b.png"])
    assert any(re.search(message, text) for text in texts(read(READER, tmp_path)[1].problems))


def test_visited_image_without_regions_is_background(tmp_path):
    write(tmp_path, asset("a.png", region()), asset("b.png", state=1), files=["a.png", "b.png"])
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", BOX)], "b.png": []}
    assert not findings.problems


def test_video_is_left_out(tmp_path):
    write(tmp_path, asset("a.png", region()), asset("film.mp4", type=2))
    splits, findings = read(READER, tmp_path)
    assert list(objects(splits["all"])) == ["a.png"]
    assert [x.kind for x in findings.repairs] == ["video"] and not findings.problems


# Files


@pytest.mark.parametrize(
    "file", ["{}/vott-json-export/x-export.json", "{}/x.json", "{}.json", "export_{}.json"]
)
def test_a_file_per_split(file, tmp_path):
    for split in ("train", "val"):
        name = f"{split}.png"
        write(tmp_path, asset(name, region()), file=file.format(split), files=[name])
    splits, findings = read(READER, tmp_path)
    assert {split: list(objects(raw)) for split, raw in splits.items()} == {
        "train": ["train.png"], "val": ["val.png"]
    }  # fmt: skip
    assert not findings.problems


def test_several_files_without_splits(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, asset("a.png"), file=f"vott-json-export/{name}-export.json")
    with pytest.raises(ValueError, match="several VoTT .json files.*a-export.json"):
        find(READER, tmp_path)


def test_a_file_per_image(tmp_path):
    for name in ("a", "b"):
        entry = asset(f"{name}.png", region())
        (tmp_path / f"{name}-asset.json").write_text(json.dumps(entry))
        write_image(tmp_path / f"{name}.png")
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", BOX)], "b.png": [("cat", BOX)]}
    assert splits["all"].categories is None and not findings.problems


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding, tmp_path):
    write(tmp_path, asset("a.png", region(tags=["Kätze"])), encoding=encoding)
    assert objects(read(READER, tmp_path)[0]["all"]) == {"a.png": [("Kätze", BOX)]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-40], r"pets-export\.json:\d+: the file is not JSON"),
        (lambda data: data.replace(b'"cat"', '"\xe4"'.encode("latin-1")), r"json:\d+: .*encoding"),
    ],
)
def test_unreadable_files(change, message, tmp_path):
    write(tmp_path, asset("a.png", region()))
    path = tmp_path / EXPORT
    path.write_bytes(change(path.read_bytes()))
    assert re.search(message, problem_of(READER, tmp_path))
    assert not read(READER, tmp_path)[0]["all"].readable


@pytest.mark.parametrize("content", ['{"images": [], "annotations": []}', '{"shapes": []}', "{}"])
def test_other_json_files_are_not_vott(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    assert find(READER, tmp_path) is None
