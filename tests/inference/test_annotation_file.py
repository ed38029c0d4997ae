"""AnnotationFile: image ids and category ids of a COCO file, for images in any folder."""

import json

import pytest
from PIL import Image

from flowdet.inference.annotation_file import AnnotationFile


def entry(number, file_name, **keys):
    return {"id": number, "file_name": file_name, **keys}


@pytest.fixture
def write(tmp_path):
    """Writes an annotation file from its images and categories; returns an `AnnotationFile`."""

    def write(images=(), categories=({"id": 1, "name": "cat"},), encoding="utf-8"):
        path = tmp_path / "annotations.json"
        content = {"images": list(images), "categories": list(categories)}
        path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        return AnnotationFile(path)

    return write


@pytest.fixture
def files(tmp_path):
    """Writes images of 30x20 pixels; returns their paths."""

    def write(*names):
        paths = [tmp_path / "data" / name for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20)).save(path)
        return paths

    return write


def ids_by_name(annotations, paths):
    messages = []
    ids = annotations.image_ids(paths, messages.append)
    return {path.name: number for path, number in ids.items()}, messages


@pytest.mark.parametrize(
    "listed",
    [
        "a.png",
        "val/a.png",
        "./val/a.png",
        "val\\a.png",
        # of another machine, or of the folder in which the set was made
        "C:\\data\\images\\a.png",
        "/home/me/images/a.png",
        "images/a.png",
        "A.PNG",
    ],
)
def test_an_image_is_found_by_its_path_or_name(write, files, listed):
    annotations = write([entry(7, listed), entry(8, "b.png")])
    ids, messages = ids_by_name(annotations, files("val/a.png", "val/b.png"))
    assert ids == {"a.png": 7, "b.png": 8} and messages == []


def test_unicode_forms_are_the_same(write, files):
    composed, decomposed = "caf\u00e9.png", "cafe\u0301.png"
    ids, _ = ids_by_name(write([entry(3, composed)]), files(decomposed))
    assert ids == {decomposed: 3}


@pytest.mark.parametrize("number", [0, 12345678901234, "image-5", 2.0])
def test_ids_are_those_of_the_file(write, files, number):
    ids, _ = ids_by_name(write([entry(number, "a.png")]), files("a.png"))
    assert list(ids.values()) == [number]


def test_the_folder_decides_between_images_of_one_name(write, files):
    annotations = write([entry(1, "x/a.png"), entry(2, "y/a.png"), entry(3, "a.png")])
    paths = files("x/a.png", "y/a.png", "z/a.png")
    assert list(annotations.image_ids(paths, print).values()) == [1, 2, 3]


def test_an_ambiguous_image_is_an_error(write, files):
    annotations = write([entry(1, "x/a.png"), entry(2, "y/a.png")])
    with pytest.raises(ValueError, match=r"z/a.png belongs to 2 images .* x/a.png \(id 1\), y/a"):
        annotations.image_ids(files("z/a.png"), print)


def test_one_file_under_two_ids_is_an_error(write, files):
    annotations = write([entry(1, "a.png"), entry(2, "a.png")])
    with pytest.raises(ValueError, match="belongs to 2 images"):
        annotations.image_ids(files("a.png"), print)


def test_two_files_of_one_entry_are_an_error(write, files):
    with pytest.raises(ValueError, match=r"both belong to the image a.png \(id 1\)"):
        write([entry(1, "a.png")]).image_ids(files("x/a.png", "y/a.png"), print)


def test_images_that_are_not_listed_or_not_given_are_told(write, files):
    annotations = write([entry(1, "a.png"), entry(2, "b.png"), entry(3, "c.png")])
    ids, messages = ids_by_name(annotations, files("a.png", "other.png"))
    assert ids == {"a.png": 1}
    assert len(messages) == 2
    assert "does not list them: other.png" in messages[0].replace("lists", "list")
    assert "lists 3 images, and 1 of them were given" in messages[1]


def test_a_file_of_other_images_is_an_error(write, files):
    with pytest.raises(ValueError, match="lists none of the 1 images, such as a.png"):
        write([entry(1, "b.png")]).image_ids(files("a.png"), print)


def test_an_image_of_another_size_is_an_error(write, files):
    paths = files("a.png")
    for width, height in ((30, 20), (20, 30), (30.0, 20.0), (None, 20), ("x", "y"), (0, 0)):
        annotations = write([entry(1, "a.png", width=width, height=height)])
        assert annotations.image_ids(paths, print) == {paths[0]: 1}
    with pytest.raises(ValueError, match="a.png has 30x20 pixels, but .* a.png with 60x40"):
        write([entry(1, "a.png", width=60, height=40)]).image_ids(paths, print)


def test_a_broken_image_is_left_to_its_reader(write, files):
    (path,) = files("a.png")
    path.write_bytes(b"")
    annotations = write([entry(1, "a.png", width=60, height=40)])
    assert annotations.image_ids([path], print) == {path: 1}


def test_classes_get_the_ids_of_their_names(write):
    annotations = write([], [{"id": 9, "name": "dog"}, {"id": 0, "name": "cat "}])
    assert annotations.category_ids(["cat", "dog"], pytest.fail) == [0, 9]
    annotations = write([], [{"id": "d", "name": "dog"}, {"id": "c", "name": "cat"}])
    assert annotations.category_ids(["cat", "dog"], pytest.fail) == ["c", "d"]


def test_a_class_without_category_gets_an_id_that_no_category_has(write):
    messages = []
    annotations = write([], [{"id": 1, "name": "dog"}, {"id": 3, "name": "cow"}])
    ids = annotations.category_ids(["cat", "dog", "owl"], messages.append)
    assert ids == [2, 1, 4]
    assert len(messages) == 1 and "has no category for cat, owl" in messages[0]


def test_other_and_repeated_categories_are_errors(write):
    with pytest.raises(ValueError, match="has the categories cat, but .* the classes a, b"):
        write([]).category_ids(["a", "b"], print)
    with pytest.raises(ValueError, match="has the categories none, but"):
        write([], []).category_ids(["a"], print)
    two = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
    with pytest.raises(ValueError, match=r"2 categories with the name 'cat' \(ids 1, 2\)"):
        write([], two).category_ids(["cat"], print)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read(write, files, encoding):
    ids, _ = ids_by_name(write([entry(1, "é.png")], encoding=encoding), files("é.png"))
    assert ids == {"é.png": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable JSON file"),
        (b"{", "not a readable JSON file"),
        (b"\xff\xfe\xfa", "not a readable JSON file"),
        (b"[]", "no list images and no list categories"),
        (b'{"images": []}', "it has no list categories"),
        (b'{"images": {}, "categories": []}', "it has no list images"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "other.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"other.json .*{message}") as error:
        AnnotationFile(tmp_path / "other.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [None, True, [1], {}])
def test_unusable_ids_are_refused(write, number):
    with pytest.raises(ValueError, match="'a.png' in `images` has the id"):
        write([entry(number, "a.png")])
    with pytest.raises(ValueError, match="'cat' in `categories` has the id"):
        write([], [{"id": number, "name": "cat"}])


def test_repeated_ids_are_refused(write):
    with pytest.raises(ValueError, match="'a.png' and 'b.png' in `images` have the same id 1"):
        write([entry(1, "a.png"), entry(1, "b.png")])


def test_objects_of_images(tmp_path):
    path = tmp_path / "boxes.json"
    content = {"images": [{"id": 1}], "categories": [{"id": "c", "name": " cat "}]}
    box = {"image_id": 1, "category_id": "c", "bbox": [1, 2, 3, "4"]}
    path.write_text(json.dumps(content | {"annotations": [box, box | {"iscrowd": 1}]}))
    expected = {"name": "cat", "box": [1, 2, 4, 6]}
    objects = AnnotationFile(path).objects()
    assert objects == {1: [expected | {"iscrowd": False}, expected | {"iscrowd": True}]}
    path.write_text(json.dumps(content | {"annotations": [box | {"iscrowd": "0"}]}))
    assert AnnotationFile(path).objects() == {1: [expected | {"iscrowd": False}]}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no list `annotations`"):
        AnnotationFile(path).objects()
    boxes = [{"bbox": x} for x in ([1, 2, 3], None, [10**400, 0, 1, 1])]
    boxes += [
        {"bbox": x} for x in ([1, 2, float("nan"), 3], [float("-inf"), 2, 3, 4], [1, 2, -3, 4])
    ]
    others = ({"category_id": "d"}, {"image_id": [1]}, {"image_id": "1"}, {"iscrowd": "maybe"})
    for wrong in (*boxes, *others):
        path.write_text(json.dumps(content | {"annotations": [box, box | wrong]}))
        with pytest.raises(ValueError, match="annotation 1 needs"):
            AnnotationFile(path).objects()
