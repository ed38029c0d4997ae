"""Cases of the layouts of VOC and COCO folders, and of folders that are no dataset."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from tests.cases.case import (
    ACCEPTED,
    ALL_IMAGES,
    ANY,
    CONTENT,
    HEIGHT,
    NAMES,
    READS,
    REPAIRED,
    STOPS,
    WIDTH,
    WITH_TEST,
    Case,
    Content,
    undivided,
    write_picture,
    write_text,
    write_then,
)
from tests.cases.coco_writer import coco, coco_data, every, write_coco
from tests.cases.voc_writer import pairs, voc, write_voc
from tests.cases.yolo_cases import write_undivided_yolo


def write_one_coco(
    folder: Path, file_name="result.json", images="images", prefix="images/", **keys
):
    """One file for all images."""
    data = coco_data(ALL_IMAGES)
    for image in data["images"]:
        write_picture(folder / images / image["file_name"], ALL_IMAGES[image["file_name"][:-4]])
        image["file_name"] = prefix + image["file_name"]
    write_text(folder / file_name, json.dumps(data | keys))


def write_label_studio(folder: Path, prefix="images/") -> None:
    """The COCO export of Label Studio: names with a hash, ids from 0, absolute paths at times."""
    data = coco_data({f"1a2b3c4d-{name}": objects for name, objects in ALL_IMAGES.items()})
    for category in data["categories"]:
        category["id"] -= 1
    for number, annotation in enumerate(data["annotations"]):
        annotation["id"], annotation["category_id"] = number, annotation["category_id"] - 1
        annotation["ignore"] = 0
    for image in data["images"]:
        name = image["file_name"]
        write_picture(folder / "images" / name, ALL_IMAGES[name[9:-4]])
        image["file_name"] = prefix + name
    write_text(folder / "result.json", json.dumps(data))


def write_roboflow_coco(folder: Path) -> None:
    """A category 0 that is the supercategory of the others, and a json file beside the images."""
    content = {{"val": "valid"}.get(split, split): images for split, images in WITH_TEST.items()}

    def edit(data, split):
        for category in data["categories"]:
            category["supercategory"] = "shapes"
        data["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})
        for image in data["images"]:
            image["extra"] = {"name": "x.png"}

    write_coco(
        folder, edit, content=content, suffix="_png.rf.0a1b2c3d4e5f.jpg",
        file_name="{split}/_annotations.coco.json",
    )  # fmt: skip
    write_text(folder / "README.dataset.txt", "x")
    write_text(folder / "README.roboflow.txt", "x")


def as_subsets(names: dict[str, str]) -> Content:
    return {names[split]: images for split, images in CONTENT.items()}


def write_images_only(folder: Path) -> None:
    for name, objects in ALL_IMAGES.items():
        write_picture(folder / f"{name}.png", objects)


def write_classification(folder: Path) -> None:
    for name, objects in ALL_IMAGES.items():
        write_picture(folder / "train/cat" / f"{name}.png", objects)


def write_masks(folder: Path) -> None:
    for name, objects in ALL_IMAGES.items():
        write_picture(folder / "images" / f"{name}.png", objects)
        write_picture(folder / "masks" / f"{name}.png", [])


def write_tfrecord(folder: Path) -> None:
    write_text(folder / "train.tfrecord", "x")
    write_text(folder / "label_map.pbtxt", "item { id: 1 }")


def write_two_layouts(folder: Path) -> None:
    write_coco(folder)
    write_voc(folder)


VOC_FOLDERS = {"content": {"all": ALL_IMAGES}, "list_file": None}
FOLDER_CASES: dict[str, Case] = {
    "coco_published": Case(
        coco(
            every("images", license=1, coco_url="x", date_captured="x"),
            content=as_subsets({"train": "train2017", "val": "val2017"}),
        )
    ),
    "coco_other_published_files": Case(
        write_then(
            coco(content=as_subsets({"train": "train2017", "val": "val2017"})),
            lambda f: [
                write_text(f / f"annotations/{kind}_{split}2017.json", "{}")
                for kind in ("captions", "person_keypoints")
                for split in ("train", "val")
            ],
        )
    ),
    "coco_all_images_in_one_folder": Case(coco(images="images/{name}")),
    "coco_files_in_the_root": Case(coco(file_name="{split}.json", images="images/{name}")),
    "coco_folder_per_split": Case(coco(file_name="{split}/annotations.json")),
    "cvat_subsets": Case(
        coco(
            content=as_subsets({"train": "Train", "val": "Validation"}),
            images="images/{split}/{name}",
        )
    ),
    "cvat_undivided": undivided(
        partial(write_one_coco, file_name="annotations/instances_default.json", prefix="")
    ),
    "cvat_subset_in_file_name": Case(
        coco(
            every("images", file_name=lambda name, _: f"{name.split('_')[0]}/{name}"),
            images="images/{split}/{name}",
        )
    ),
    "roboflow_supercategory": Case(
        write_roboflow_coco,
        (READS,),
        "shapes",
        WITH_TEST,
        classes=(*NAMES, "shapes"),
        note="3 classes and a remark that 'shapes' is only a supercategory",
    ),
    "label_studio": undivided(
        write_label_studio,
        note="README: one line that says what to do; issue: a seeded fifth is held out and told",
    ),
    "label_studio_windows": undivided(partial(write_label_studio, prefix="images\\")),
    "label_studio_upload_paths": undivided(
        partial(write_label_studio, prefix="/data/upload/1/"), (REPAIRED,)
    ),
    "label_studio_parent_paths": undivided(
        partial(write_label_studio, prefix="../../label-studio/data/media/upload/1/"), (REPAIRED,)
    ),
    "label_studio_yolo": undivided(write_undivided_yolo),
    "label_studio_voc": undivided(
        partial(write_voc, image="images/{name}", xml="Annotations/{name}", **VOC_FOLDERS)
    ),
    "coco_one_file_beside_images": undivided(
        partial(write_one_coco, file_name="_annotations.coco.json", images="", prefix="")
    ),
    "voc_without_lists": undivided(partial(write_voc, **VOC_FOLDERS)),
    "kangaroo": undivided(
        partial(write_voc, suffix=".jpg", image="images/{name}", xml="annots/{name}", **VOC_FOLDERS)
    ),
    "xml_and_images_without_lists": undivided(
        partial(write_voc, image="images/{name}", xml="annotations/{name}", **VOC_FOLDERS)
    ),
    "labelimg_one_folder": undivided(
        partial(write_voc, image="{name}", xml="{name}", **VOC_FOLDERS)
    ),
    "bccd": Case(
        write_then(
            voc(suffix=".jpg"),
            lambda f: [
                write_text(
                    f / "ImageSets/Main/trainval.txt", "".join(f"{n}\n" for n in CONTENT["train"])
                ),
                write_text(
                    f / "Annotations/train_1.xml",
                    (f / "Annotations/train_1.xml")
                    .read_text()
                    .replace(
                        "</annotation>",
                        "<object><name>disc</name><bndbox><xmin>0</xmin><ymin>0</ymin>"
                        "<xmax>0</xmax><ymax>0</ymax></bndbox></object></annotation>",
                    ),
                ),
            ],
        ),
        (REPAIRED,),
        "(?i)no area|zero|without area",
    ),
    "bccd_in_a_folder": Case(
        voc(
            image="BCCD/JPEGImages/{name}",
            xml="BCCD/Annotations/{name}",
            list_file="BCCD/ImageSets/Main/{split}.txt",
        ),
        ANY,
        "BCCD",
    ),
    "vocdevkit": Case(
        voc(
            image="VOCdevkit/VOC2007/JPEGImages/{name}",
            xml="VOCdevkit/VOC2007/Annotations/{name}",
            list_file="VOCdevkit/VOC2007/ImageSets/Main/{split}.txt",
        ),
        ANY,
        "VOC2007",
        note="read, or the message names the folder inside",
    ),
    "one_folder_around": Case(
        lambda folder: write_coco(folder / "My Dataset v2"),
        ANY,
        "My Dataset v2",
        note="zip files have one folder around everything",
    ),
    "voc_val_called_valid": Case(
        lambda folder: write_voc(
            folder,
            content={"train": CONTENT["train"], "valid": CONTENT["val"]},
            image="{split}/{name}",
            xml="{split}/{name}",
            list_file=None,
        ),
        content=CONTENT,
    ),
    "voc_capital_splits": Case(
        lambda folder: write_voc(
            folder,
            content={"Train": CONTENT["train"], "Validation": CONTENT["val"]},
            image="{split}/{name}",
            xml="{split}/{name}",
            list_file=None,
        ),
        ANY,
        "Train",
        content=CONTENT,
    ),
    "voc_splits_inside_folders": Case(
        pairs(image="images/{split}/{name}", xml="annotations/{split}/{name}"),
        ANY,
        "images|annotations",
    ),
    "voc_train_list_only": Case(
        write_then(voc(), lambda f: (f / "ImageSets/Main/val.txt").unlink()),
        ANY,
        "(?i)val|split|held",
        content={},
        note="a fifth of the training list is held out, or one line",
    ),
    "voc_train_and_test_only": Case(
        lambda folder: write_voc(
            folder,
            content={"train": CONTENT["train"], "test": CONTENT["val"]},
            image="{split}/{name}",
            xml="{split}/{name}",
            list_file=None,
        ),
        (READS,),
        content={"train": CONTENT["train"], "test": CONTENT["val"]},
        note="evaluated on test; never trained on it",
    ),
    "coco_train_json_and_folders": Case(
        coco(file_name="{split}.json"), note="train.json, val.json, train/, val/"
    ),
    "coco_annotations_named_after_splits": Case(
        coco(file_name="annotations/{split}.json", images="images/{split}/{name}")
    ),
    "coco_annotations_in_labels": Case(
        coco(file_name="labels/{split}_coco.json", images="images/{name}"), ACCEPTED
    ),
    "coco_folders_of_any_name": Case(
        coco(file_name="gt/boxes_{split}.json", images="photos/{name}"), ACCEPTED
    ),
    "coco_train_only": undivided(write_then(coco(content={"train": ALL_IMAGES}), lambda f: None)),
    "coco_train_and_test_only": Case(
        coco(content={"train": CONTENT["train"], "test": CONTENT["val"]}),
        ACCEPTED,
        content={"train": CONTENT["train"], "test": CONTENT["val"]},
        note="evaluated on test; never trained on it",
    ),
    "coco_two_files_for_train": Case(
        write_then(
            coco(),
            lambda f: (f / "annotations/instances_train_v2.json").write_bytes(
                (f / "annotations/instances_train.json").read_bytes()
            ),
        ),
        (STOPS,),
        "instances_train_v2.json",
        {},
        note="one line that names both files",
    ),
    "voc_trainval_and_test": Case(
        voc(
            content={"trainval": CONTENT["train"], "test": CONTENT["val"]},
        ),
        ACCEPTED,
        content={"train": CONTENT["train"], "test": CONTENT["val"]},
        note="VOC2007 as published: evaluated on test",
    ),
    "voc_lists_of_classes": Case(
        write_then(
            voc(),
            lambda f: [
                write_text(
                    f / f"ImageSets/Main/{name}_{split}.txt",
                    "".join(f"{image}  {flag}\n" for image in CONTENT[split]),
                )
                for name, flag in (("square", 1), ("disc", -1))
                for split in CONTENT
            ],
        ),
    ),
    "voc_lists_in_the_root": Case(
        voc(image="images/{name}", xml="annotations/{name}", list_file="{split}.txt"), ACCEPTED
    ),
    "voc_capital_folders": Case(voc(image="IMAGES/{name}", xml="Annotations/{name}"), ACCEPTED),
    "voc_class_of_val_is_new": Case(
        write_then(
            voc(),
            lambda f: write_text(
                f / "Annotations/val_0.xml",
                (f / "Annotations/val_0.xml").read_text().replace(">disc<", ">Disc<"),
            ),
        ),
        (STOPS,),
        "Disc",
        {},
        note="a class that the training split lacks, here by its letter case",
    ),
    "voc_folder_per_split_with_subfolders": Case(
        lambda folder: write_voc(
            folder,
            image="{split}/JPEGImages/{name}",
            xml="{split}/Annotations/{name}",
            list_file=None,
        ),
    ),
    "openimages_csv": Case(
        write_then(
            write_images_only,
            lambda f: write_text(
                f / "train-annotations-bbox.csv",
                "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
                "train_0,xclick,/m/01,1,0.1,0.3,0.2,0.5\n",
            ),
        ),
        ANY,
        "(?i)csv|layout|dataset",
        content={},
        note="normalized corners in another order: read as such, or one line, never as pixels",
    ),
    "supervisely": Case(
        write_then(
            lambda f: [write_picture(f / f"img/{n}.png", o) for n, o in ALL_IMAGES.items()],
            lambda f: [
                write_text(
                    f / f"ann/{n}.png.json",
                    json.dumps({"size": {"height": HEIGHT, "width": WIDTH}, "objects": []}),
                )
                for n in ALL_IMAGES
            ],
        ),
        (STOPS,),
        "(?i)layout|dataset|json",
        {},
    ),
    "empty_folder": Case(lambda folder: folder.mkdir(exist_ok=True), (STOPS,), "(?s).", {}),
    "images_only": Case(write_images_only, (STOPS,), "(?i)annotation|layout|dataset", {}),
    "classification_folders": Case(write_classification, (STOPS,), "(?i)annotation|layout", {}),
    "masks": Case(write_masks, (STOPS,), "(?i)annotation|layout|dataset", {}),
    "tfrecord": Case(write_tfrecord, (STOPS,), "(?i)tfrecord|layout|dataset", {}),
    "two_layouts": Case(
        write_two_layouts,
        ANY,
        "(?i)voc|coco|both|layout",
        note="COCO and VOC files: one line, or one of them with a note",
    ),
}
