"""Cases in the formats of YOLO and darknet."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.cases.case import (
    ACCEPTED,
    ALL_IMAGES,
    ANY,
    CONTENT,
    HEIGHT,
    HELD_OUT,
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


def yolo_line(index: int, box) -> str:
    x1, y1, x2, y2 = box
    values = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    return " ".join([str(index), *map(repr, values)])


def yolo_polygon(index: int, box) -> str:
    x1, y1, x2, y2 = box
    points = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    return " ".join([str(index), *(f"{x / WIDTH!r} {y / HEIGHT!r}" for x, y in points)])


YAML = "train: images/train\nval: images/val\nnc: 2\nnames: [square, disc]\n"


def write_yolo(
    folder: Path,
    yaml=YAML,
    *,
    content: Content = CONTENT,
    images="images/{split}/{name}",
    labels="labels/{split}/{name}",
    line=yolo_line,
    edit=lambda text: text,
    suffix=".png",
    yaml_name="data.yaml",
    encoding="utf-8",
) -> None:
    """Writes an image and a text file per image; `edit` changes the text files."""
    for split, part in content.items():
        for name, objects in part.items():
            where = {"split": split, "name": name}
            write_picture(folder / (images.format(**where) + suffix), objects)
            text = "\n".join(line(index, box) for index, box in objects) + "\n"
            write_text(folder / (labels.format(**where) + ".txt"), edit(text))
    if yaml:
        write_text(folder / yaml_name, yaml, encoding)


def yolo(yaml=YAML, **options):
    return partial(write_yolo, yaml=yaml, **options)


def extra_line(text: str):
    return lambda old: old + text + "\n"


def write_list_files(folder: Path, prefix="./images/") -> None:
    """ultralytics' COCO: train.txt and val.txt list the images."""
    write_yolo(folder, "path: .\ntrain: train.txt\nval: val.txt\nnames:\n  0: square\n  1: disc\n")
    for split, images in CONTENT.items():
        write_text(folder / f"{split}.txt", "".join(f"{prefix}{split}/{n}.png\n" for n in images))


ROBOFLOW_YAML = (
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
    "names: ['square', 'disc']\n\nroboflow:\n  workspace: x\n  version: 1\n"
)


def write_roboflow_yolo(folder: Path, yaml=ROBOFLOW_YAML) -> None:
    content = {{"val": "valid"}.get(split, split): images for split, images in WITH_TEST.items()}
    name = "{name}_png.rf.0a1b"
    write_yolo(
        folder, yaml, content=content, suffix=".jpg", images="{split}/images/" + name,
        labels="{split}/labels/" + name,
    )  # fmt: skip


def write_darknet(folder: Path, prefix="data/obj/") -> None:
    """obj.data, obj.names, train.txt, and the labels beside the images."""
    write_yolo(folder, None, images=prefix + "{name}", labels=prefix + "{name}")
    write_text(folder / "obj.names", "square\ndisc\n")
    for split, file in (("train", "train.txt"), ("val", "test.txt")):
        write_text(folder / file, "".join(f"{prefix}{n}.png\n" for n in CONTENT[split]))
    write_text(
        folder / "obj.data",
        "classes = 2\ntrain = train.txt\nvalid = test.txt\nnames = obj.names\nbackup = backup/\n",
    )


def write_undivided_yolo(folder: Path, mixed=False) -> None:
    """labelImg in YOLO mode, or Label Studio: classes.txt and no split."""
    place = "{name}" if mixed else "images/{name}"
    labels = "{name}" if mixed else "labels/{name}"
    write_yolo(folder, None, content={"all": ALL_IMAGES}, images=place, labels=labels)
    write_text(folder / "classes.txt", "square\ndisc\n")
    if not mixed:
        write_text(folder / "notes.json", '{"categories": [{"id": 0, "name": "square"}]}')


YOLO_CASES: dict[str, Case] = {
    "yolo_ultralytics": Case(yolo()),
    "yolo_names_dict": Case(
        yolo(
            "path: ../datasets/shapes8  # root\ntrain: images/train  # 3 images\nval: images/val\n"
            "test:  # optional\n\nnames:\n  0: square\n  1: disc\n"
        ),
        ACCEPTED,
    ),
    "yolo_absolute_path": Case(
        yolo(
            "path: /home/me/shapes\ntrain: images/train\nval: images/val\nnames: [square, disc]\n"
        ),
        ACCEPTED,
    ),
    "yolo_absolute_windows": Case(
        yolo(
            "train: C:\\Users\\me\\shapes\\images\\train\nval: C:\\Users\\me\\shapes\\images\\val\n"
            "nc: 2\nnames: ['square', 'disc']\n"
        ),
        ACCEPTED,
    ),
    "yolo_list_of_folders": Case(
        yolo("train: [images/train]\nval:\n  - images/val\nnames: [square, disc]\n")
    ),
    "yolo_list_files": Case(write_list_files, ACCEPTED),
    "yolo_list_files_absolute": Case(
        partial(write_list_files, prefix="/content/datasets/shapes/images/"), ACCEPTED
    ),
    "yolo_list_files_backslash": Case(partial(write_list_files, prefix=".\\images\\"), ACCEPTED),
    "yolo_roboflow": Case(write_roboflow_yolo, ACCEPTED, content=WITH_TEST),
    "yolo_without_yaml": Case(
        write_then(yolo(None), lambda f: write_text(f / "classes.txt", "square\ndisc\n")), ACCEPTED
    ),
    "yolo_dataset_yaml": Case(yolo(yaml_name="dataset.yaml"), ACCEPTED),
    "yolo_yml": Case(yolo(yaml_name="shapes.yml"), ACCEPTED),
    "yolo_yaml_bom": Case(yolo(encoding="utf-8-sig"), ACCEPTED),
    "yolo_crlf": Case(yolo(YAML.replace("\n", "\r\n"), edit=lambda t: t.replace("\n", "\r\n"))),
    "yolo_plain_folder": undivided(write_undivided_yolo),
    "labelimg_yolo_one_folder": undivided(partial(write_undivided_yolo, mixed=True)),
    "yolo_without_names": Case(
        yolo(None),
        ANY,
        "(?i)class|names",
        content={},
        note="no file has the class names: one line, or classes '0' and '1' with a note",
    ),
    "yolo_polygons": Case(yolo(line=yolo_polygon), ACCEPTED, note="segmentation: enclosing boxes"),
    "yolo_image_without_objects": Case(
        write_then(yolo(), lambda f: (f / "labels/train/train_1.txt").write_text("")),
        content={**CONTENT, "train": {**CONTENT["train"], "train_1": []}},
    ),
    "yolo_image_without_label_file": Case(
        write_then(yolo(), lambda f: (f / "labels/train/train_1.txt").unlink()),
        ACCEPTED,
        content={**CONTENT, "train": {**CONTENT["train"], "train_1": []}},
        note="YOLO: a background image; counted in a remark",
    ),
    "yolo_label_without_image": Case(
        write_then(yolo(), lambda f: (f / "images/train/train_1.png").unlink()),
        ANY,
        "train_1",
        content={},
    ),
    "yolo_class_float": Case(
        yolo(edit=lambda t: t.replace("1 ", "1.0 ", 1) if t[0] == "1" else t), ACCEPTED
    ),
    "yolo_class_out_of_range": Case(
        yolo(edit=extra_line("7 0.5 0.5 0.1 0.1")), (STOPS,), r"\.txt:3"
    ),
    "yolo_class_negative": Case(yolo(edit=extra_line("-1 0.5 0.5 0.1 0.1")), (STOPS,), r"\.txt:3"),
    "yolo_class_word": Case(yolo(edit=extra_line("cat 0.5 0.5 0.1 0.1")), (STOPS,), r"\.txt:3"),
    "yolo_absolute_pixels": Case(yolo(edit=extra_line("0 30 20 10 10")), (STOPS,), r"\.txt:3"),
    "yolo_three_numbers": Case(yolo(edit=extra_line("0 0.5 0.5 0.1")), (STOPS,), r"\.txt:3"),
    "yolo_nan": Case(yolo(edit=extra_line("0 nan 0.5 0.1 0.1")), (STOPS,), r"\.txt:3"),
    "yolo_words": Case(yolo(edit=extra_line("0 a b c d")), (STOPS,), r"\.txt:3"),
    "yolo_commas": Case(yolo(edit=extra_line("0,0.5,0.5,0.1,0.1")), (STOPS,), r"\.txt:3"),
    "yolo_zero_size": Case(
        yolo(edit=extra_line("0 0.5 0.5 0 0.1")), (REPAIRED,), "(?i)no area|zero|without area"
    ),
    "yolo_negative_size": Case(yolo(edit=extra_line("0 0.5 0.5 -0.1 0.1")), (STOPS,), r"\.txt:3"),
    "yolo_with_scores": Case(
        yolo(line=lambda index, box: yolo_line(index, box) + " 0.875"),
        ANY,
        r"\.txt:1",
        note="a prediction with its score: read with a note, or one line",
    ),
    "yolo_nc_differs": Case(
        yolo("train: images/train\nval: images/val\nnc: 3\nnames: [square, disc]\n"), ANY, "nc"
    ),
    "yolo_names_missing": Case(
        yolo("train: images/train\nval: images/val\nnc: 2\n"), ANY, "names", content={}
    ),
    "yolo_yaml_broken": Case(
        yolo("train: images/train\n\tval: images/val\nnames: [square"), (STOPS,), r"data\.yaml", {}
    ),
    "yolo_folder_missing": Case(
        yolo("train: images/train\nval: images/lost\nnames: [square, disc]\n"),
        (STOPS,),
        "images/lost",
        {},
    ),
    "yolo_capital_folders": Case(
        yolo(
            "train: Images/train\nval: Images/val\nnames: [square, disc]\n",
            images="Images/{split}/{name}",
            labels="Labels/{split}/{name}",
        ),
        ANY,
        "(?i)labels",
        note="read, or one line; never images without objects",
    ),
    "yolo_labels_beside_images": Case(
        yolo(
            "train: train\nval: val\nnames: [square, disc]\n",
            images="{split}/{name}",
            labels="{split}/{name}",
        ),
        ACCEPTED,
    ),
    "yolo_labels_missing": Case(
        yolo(labels="lost/{split}/other_{name}"),
        (STOPS,),
        "(?i)label|object",
        {},
        note="the folder of the labels is not there: never images without objects",
    ),
    "yolo_labels_in_another_folder": Case(
        yolo(labels="lost/{split}/{name}"), (REPAIRED, STOPS), "lost", note="the only reading"
    ),
    "yolo_without_val": Case(
        yolo(
            "train: images/train\nnames: [square, disc]\n",
            content={"train": ALL_IMAGES},
        ),
        ACCEPTED,
        HELD_OUT,
        is_divided=False,
    ),
    "yolo_val_is_train": Case(
        yolo(
            "train: images/train\nval: images/train\nnames: [square, disc]\n",
            content={"train": CONTENT["train"]},
        ),
        (READS,),
        "both|train and val",
        {"train": CONTENT["train"], "val": CONTENT["train"]},
        note="as coco8's tutorials: a remark",
    ),
    "yolo_suffixes": Case(yolo(suffix=".JPG"), ACCEPTED),
    "yolo_names_unsorted": Case(
        yolo("train: images/train\nval: images/val\nnames:\n  1: disc\n  0: square\n")
    ),
    "yolo_names_gap": Case(
        yolo("train: images/train\nval: images/val\nnames:\n  0: square\n  2: disc\n"),
        (STOPS,),
        r"names|\.txt:",
        {},
        note="class 1 of the labels has no name",
    ),
    "yolo_names_text": Case(
        yolo("train: images/train\nval: images/val\nnames: square\n"), (STOPS,), "names|square", {}
    ),
    "yolo_slightly_above_1": Case(
        yolo(edit=extra_line("0 0.95 0.5 0.1001 0.1")),
        ACCEPTED,
        "",
        {},
        note="rounding: clipped, need not be listed",
    ),
    "darknet": Case(write_darknet, ACCEPTED),
    "darknet_in_one_folder": Case(partial(write_darknet, prefix="obj_train_data/"), ACCEPTED),
}
