"""The content of a COCO file for the evaluation."""

from flowdet.data.custom.evaluation_copy import coco_content
from flowdet.data.custom.raw import Category, ClassList


def record(image_id, *annotations):
    return {
        "file_name": f"{image_id}.png",
        "image_id": image_id,
        "height": 48,
        "width": 64,
        "annotations": [
            {"category_id": 0, "bbox": [1.5, 2, 4, 6], "iscrowd": 0, **a} for a in annotations
        ],
    }


def classes(*ids):
    return ClassList(tuple(Category(f"class {i}", i) for i in ids), "")


def test_annotations_are_numbered_from_1_and_areas_are_completed():
    records = [record(7, {}, {"area": 3.5}), record(3, {"category_id": 1, "iscrowd": 1})]
    content, ids = coco_content(records, classes(0, 90))
    annotations = content["annotations"]
    assert [a["id"] for a in annotations] == [1, 2, 3]
    assert [a["image_id"] for a in annotations] == [7, 7, 3]
    assert [a["category_id"] for a in annotations] == [0, 0, 90]
    assert [a["area"] for a in annotations] == [10, 3.5, 10]
    assert [a["iscrowd"] for a in annotations] == [0, 0, 1]
    assert annotations[0]["bbox"] == [1.5, 2, 2.5, 4]
    assert ids.thing_dataset_id_to_contiguous_id == {0: 0, 90: 1}
    assert ids.evaluation_image_ids is None


def test_ids_that_are_not_all_integers_are_numbered():
    content, ids = coco_content([record("scan/7", {}), record(2)], classes("a", 5))
    assert [image["id"] for image in content["images"]] == [1, 2]
    assert content["annotations"][0]["image_id"] == 1
    assert ids.evaluation_image_ids == {"scan/7": 1, 2: 2}
    assert [c["id"] for c in content["categories"]] == [1, 2]
    assert ids.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}


def test_classes_without_ids_have_their_index():
    content, ids = coco_content([record(1, {"category_id": 1})], ClassList.of_names("ab", ""))
    assert content["annotations"][0]["category_id"] == 1
    assert ids.thing_dataset_id_to_contiguous_id == {0: 0, 1: 1}


def test_a_split_without_annotations_has_no_list_of_annotations():
    content, _ = coco_content([record(1)], classes(1), annotated=False)
    assert "annotations" not in content
