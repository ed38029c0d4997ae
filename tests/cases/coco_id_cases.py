"""Cases in COCO format: ids of images and categories, and class names."""

from __future__ import annotations

import copy
from pathlib import Path

from tests.cases.case import (
    ACCEPTED,
    ANY,
    CONTENT,
    NAMES,
    READS,
    REPAIRED,
    STOPS,
    Case,
    Content,
)
from tests.cases.coco_writer import (
    add_category,
    added,
    category_ids,
    coco,
    every,
    first,
    image_ids,
    top,
    write_coco,
)


def write_half_objects_twice(folder: Path) -> None:
    """The first file is listed twice, each time with half of its objects."""

    def edit(data, split):
        data["images"].append({**data["images"][0], "id": 77})
        data["annotations"][1]["image_id"] = 77

    write_coco(folder, edit)


def halved() -> Content:
    content = copy.deepcopy(CONTENT)
    for images in content.values():
        name, objects = next(iter(images.items()))
        images[name], images["again"] = objects[:1], objects[1:]
    return content


def missing_categories(data, split):
    if split == "val":
        del data["categories"]


def only_used_category(data, split):
    """The validation file has only the classes of its own objects (here the second)."""
    if split == "val":
        data["categories"] = data["categories"][1:]
        data["annotations"] = [a for a in data["annotations"] if a["category_id"] == 2]


def second_class_only() -> Content:
    val = {name: objects[1:] for name, objects in CONTENT["val"].items()}
    return {**CONTENT, "val": val}


def swapped_categories(data, split):
    if split == "val":
        for category, name in zip(data["categories"], reversed(NAMES), strict=True):
            category["name"] = name
        for annotation in data["annotations"]:
            annotation["category_id"] = 3 - annotation["category_id"]


COCO_ID_CASES: dict[str, Case] = {
    "coco_string_image_ids": Case(coco(image_ids(lambda i: f"img_{i}"))),
    "coco_float_ids": Case(
        coco(image_ids(float), every("annotations", category_id=lambda i, _: float(i))), ACCEPTED
    ),
    "coco_float_category_ids_in_both": Case(coco(category_ids(1.0, 2.0)), ACCEPTED),
    "coco_image_id_0": Case(coco(image_ids(lambda i: i - 1))),
    "coco_image_ids_negative": Case(coco(image_ids(lambda i: -i))),
    "coco_image_ids_large": Case(coco(image_ids(lambda i: 10**17 + i))),
    "coco_image_ids_mixed": Case(coco(image_ids(lambda i: i if i % 2 else str(i)))),
    "coco_image_ids_text_numbers": Case(coco(image_ids(str))),
    "coco_image_ids_text_in_images_only": Case(
        coco(image_ids(str, int)), ANY, "(?i)id", note="'1' and 1: matched and told, or one line"
    ),
    "coco_image_ids_text_in_annotations_only": Case(coco(image_ids(int, str)), ANY, "(?i)id"),
    "coco_image_ids_text_float": Case(coco(image_ids(lambda i: f"{i}.0")), ACCEPTED),
    "coco_image_ids_uuid": Case(coco(image_ids(lambda i: f"7f9c-{i}-aa"))),
    "coco_image_id_null": Case(
        coco(first("images", "train", id=None)),
        (STOPS,),
        "(?i)id",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
    ),
    "coco_image_id_list": Case(
        coco(first("images", "train", id=[1])),
        (STOPS,),
        "(?i)id",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
    ),
    "coco_image_id_missing": Case(
        coco(first("images", "train", id=...)),
        (STOPS,),
        "(?i)id",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
    ),
    "coco_image_id_repeated": Case(
        coco(
            lambda data, split: data["images"].append(
                {**data["images"][1], "id": data["images"][0]["id"]}
            )
        ),
        (STOPS,),
        "(?i)id",
        note="two files with one id: the objects belong to one of them",
        content={},
    ),
    "coco_annotation_of_unknown_image": Case(coco(added(image_id=4711)), (STOPS,), "4711"),
    "coco_annotation_of_list_image": Case(coco(added(image_id=[1])), (STOPS,), "(?i)id"),
    "coco_annotation_without_image_id": Case(coco(added(image_id=...)), (STOPS,), "(?i)image"),
    "coco_same_file_twice": Case(
        write_half_objects_twice,
        ACCEPTED,
        r"(?i)(twice|two|several|more than one|same|2 )",
        halved(),
        note="told in a remark: one file under two image ids",
    ),
    "coco_gap_ids_with_0": Case(
        coco(category_ids(90, 0), add_category(id=3, name="nothing")), classes=(*NAMES, "nothing")
    ),
    "coco_demo_category_ids": Case(
        coco(category_ids(90, 0), add_category(id=7, name="other")), classes=(*NAMES, "other")
    ),
    "coco_string_category_ids": Case(coco(category_ids("1", "2")), ACCEPTED),
    "coco_word_category_ids": Case(coco(category_ids("sq", "di")), ANY, "(?i)categor"),
    "coco_mixed_category_ids": Case(coco(category_ids(1, "2")), ACCEPTED),
    "coco_category_ids_text_in_annotations_only": Case(
        coco(every("annotations", category_id=lambda i, _: str(i))), ANY, "(?i)categor"
    ),
    "coco_category_id_fraction": Case(
        coco(category_ids(1.5, 2)), (STOPS,), "(?i)categor", content={}
    ),
    "coco_category_id_null": Case(coco(add_category(id=None, name="x")), (STOPS,), "(?i)categor"),
    "coco_category_id_list": Case(coco(add_category(id=[3], name="x")), (STOPS,), "(?i)categor"),
    "coco_category_id_repeated": Case(
        coco(add_category(id=2, name="x")), (STOPS,), "(?i)categor|id|twice", content={}
    ),
    "coco_category_ids_negative": Case(coco(category_ids(-1, 5))),
    "coco_category_ids_large": Case(coco(category_ids(10**12, 5))),
    "coco_unknown_category": Case(coco(added(category_id=17)), (STOPS,), "17"),
    "coco_category_of_annotation_null": Case(
        coco(added(category_id=None)), (STOPS,), "(?i)categor"
    ),
    "coco_category_of_annotation_list": Case(coco(added(category_id=[1])), (STOPS,), "(?i)categor"),
    "coco_category_of_annotation_missing": Case(
        coco(added(category_id=...)), (STOPS,), "(?i)categor"
    ),
    "coco_same_name_in_two_supercategories": Case(
        coco(add_category(name="disc", supercategory="other")), (STOPS,), "disc"
    ),
    "coco_supercategory_without_objects": Case(
        coco(
            category_ids(1, 2),
            add_category(id=0, name="shapes"),
            lambda data, split: (
                [c.update(supercategory="shapes") for c in data["categories"][:2]]
            ),
        ),
        (READS,),
        "shapes",
        classes=(*NAMES, "shapes"),
        note="3 classes and a remark that 'shapes' is only the supercategory of the others; "
        "training 2 classes with a note would be right too",
    ),
    "coco_class_names_path": Case(coco(names=("../x", "a/b")), names=("../x", "a/b")),
    "coco_class_names_odd": Case(
        coco(names=("R&D <x>", "100% 'q' \"r\" {0}")), names=("R&D <x>", "100% 'q' \"r\" {0}")
    ),
    "coco_class_names_dots": Case(coco(names=("..", ".")), names=("..", ".")),
    "coco_class_names_chinese": Case(coco(names=("方块", "Größe ø")), names=("方块", "Größe ø")),
    "coco_class_names_case": Case(
        coco(names=("Car", "car")), (READS,), "(?i)car.*case|case.*car|differ", names=("Car", "car")
    ),
    "coco_class_names_blank": Case(
        coco(names=("disc ", "disc")),
        ACCEPTED,
        "(?i)blank|space|differ",
        names=("disc ", "disc"),
        note="2 classes and a remark",
    ),
    "coco_class_name_null": Case(coco(add_category(name=None)), (STOPS,), "(?i)name"),
    "coco_class_name_missing": Case(coco(add_category()), (STOPS,), "(?i)name"),
    "coco_class_name_empty": Case(coco(add_category(name="")), (STOPS,), "(?i)name"),
    "coco_class_name_number": Case(
        coco(add_category(name=7)), ANY, "(?i)name", classes=(*NAMES, "7")
    ),
    "coco_categories_empty": Case(coco(top(categories=[])), (STOPS,), "(?i)categor", {}),
    "coco_train_lacks_categories": Case(
        coco(top("train", categories=...)), (STOPS,), "categories", content={}
    ),
    "coco_val_other_category_ids": Case(
        coco(swapped_categories), (STOPS,), "(?i)order|categor", note="one line, as the README says"
    ),
    "coco_val_lacks_categories": Case(
        coco(missing_categories), (REPAIRED,), "(?i)categor", note="the ids of the training split"
    ),
    "coco_val_empty_categories": Case(coco(top("val", categories=[])), (REPAIRED,), "(?i)categor"),
    "coco_val_has_fewer_categories": Case(
        coco(only_used_category),
        (REPAIRED,),
        "(?i)categor|class|square",
        second_class_only(),
        note="the same ids and names, some left out by the tool: read with a note",
    ),
    "coco_val_has_a_category_more": Case(
        coco(lambda data, split: split == "val" and add_category(name="owl")(data, split)),
        ANY,
        "owl",
        note="no object of it: told; with an object it stops",
    ),
    "coco_val_has_objects_of_a_category_more": Case(
        coco(
            lambda data, split: (
                split == "val"
                and (add_category(name="owl")(data, split), added(category_id=3)(data, split))
            )
        ),
        (STOPS,),
        "owl",
    ),
    "coco_val_names_in_another_case": Case(
        coco(lambda data, split: split == "val" and data["categories"][1].update(name="Disc")),
        (STOPS,),
        "Disc",
        {},
    ),
    "coco_identical_image_twice": Case(
        coco(lambda data, split: data["images"].append(dict(data["images"][0]))),
        (REPAIRED, STOPS),
        "(?i)twice|id|listed|same",
        content={},
        note="the same entry twice (merged exports): left out with a note, or one line",
    ),
    "coco_one_class": Case(
        coco(every("annotations", category_id=1), top(categories=[{"id": 1, "name": "class 0"}])),
        names=("class 0", "class 0"),
        classes=("class 0",),
    ),
}
