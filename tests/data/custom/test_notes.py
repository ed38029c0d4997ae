"""Notes on facts that are allowed but may be unintended."""

from flowdet.data.custom.notes import dataset_notes, split_notes
from flowdet.data.custom.raw import Category, ClassList


def record(name, *classes, **more):
    annotations = [{"category_id": index, "bbox": [0, 0, 1, 1]} for index in classes]
    return {"file_name": name, "image_id": name, "annotations": annotations, **more}


def classes_of(*names, **groups):
    return ClassList(
        tuple(Category(name, i, groups.get(name, "")) for i, name in enumerate(names)), ""
    )


def test_an_ordinary_dataset_has_no_notes():
    records = {"train": [record("/x/a.png", 0, 1), record("/x/b.png")]}
    assert dataset_notes(records, classes_of("cat", "car")) == []


def test_class_names_that_differ_in_case_or_blanks():
    (note,) = dataset_notes({}, classes_of("Traffic light", "traffic_light", "car"))
    assert "'Traffic light' and 'traffic_light' differ only in letter case" in note


def test_a_class_that_only_groups_others():
    classes = classes_of("shapes", "disc", "square", disc="shapes", square="shapes")
    (note,) = dataset_notes({"train": [record("/x/a.png", 1, 2)]}, classes)
    assert note.startswith("class 'shapes' is the supercategory of other classes and has no object")
    assert dataset_notes({"train": [record("/x/a.png", 0, 1)]}, classes) == []


def test_a_file_under_two_ids():
    records = {"train": [record("/x/a.png", 0), record("/x/a.png", 1), record("/x/b.png", 0)]}
    (note,) = dataset_notes(records, classes_of("cat", "dog"))
    assert note.startswith("1 file of train with more than one image id, e.g. /x/a.png")


def test_an_object_that_is_listed_twice():
    records = {"train": [record("/x/a.png", 0, 0, 1), record("/x/b.png", 0)]}
    (note,) = dataset_notes(records, classes_of("cat", "dog"))
    assert note.startswith("1 object of train with the class and the box of another object")
    assert note.endswith("e.g. in /x/a.png")


def test_orientations():
    records = {"val": [record("/x/a.jpg", 0, orientation=3), record("/x/b.jpg", 0)]}
    (note,) = dataset_notes(records, classes_of("cat"))
    assert note.startswith("1 image of val rotated or mirrored") and "EXIF" in note


def test_absent_classes_and_shared_images(tmp_path):
    path = str(tmp_path / "a.png")
    records = {"train": [record(path, 0, 1)], "val": [record(path, 0)]}
    assert split_notes(records, ["cat", "dog"]) == [
        "1 images are in both train and val",
        "val has no object of dog",
    ]
