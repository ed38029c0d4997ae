"""Cases in COCO format: sizes, file names, json files and images."""

from __future__ import annotations

import unicodedata
from functools import partial
from pathlib import Path

from tests.cases.case import (
    ACCEPTED,
    ANY,
    CONTENT,
    HEIGHT,
    READS,
    REPAIRED,
    STOPS,
    WIDTH,
    Case,
    write_picture,
    write_text,
)
from tests.cases.coco_writer import (
    coco,
    every,
    first,
    text_of,
    top,
    write_coco,
)

NAN, INFINITY = float("nan"), float("inf")


def renamed(new, files=None, **options):
    """Case in which `file_name` is mapped with (name, split), and maybe also the files."""

    def write(folder: Path) -> None:
        def edit(data, split):
            for image in data["images"]:
                image["file_name"] = new(image["file_name"], split)

        write_coco(folder, edit, **options)
        for split in CONTENT if files else ():
            for path in sorted((folder / split).iterdir()):
                target = path.parent / files(path.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)

    return write


def write_ambiguous_case(folder: Path) -> None:
    write_coco(folder, first("images", "train", file_name="TRAIN_0.PNG"))
    write_picture(folder / "train/Train_0.png", [])


def write_same_name_in_folders(folder: Path) -> None:
    """An absolute path of another machine, whose file name is in two folders."""
    write_coco(folder, first("images", "train", file_name="/home/me/data/x/img.png"))
    write_picture(folder / "train/a/img.png", CONTENT["train"]["train_0"])
    write_picture(folder / "train/b/img.png", [])
    (folder / "train/train_0.png").unlink()


def write_hidden_files(folder: Path) -> None:
    write_coco(folder)
    hidden = folder / "annotations/.ipynb_checkpoints/instances_train-checkpoint.json"
    write_text(hidden, "{}")
    (folder / "annotations/._instances_train.json").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (folder / "train/._train_0.png").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    (folder / "train/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    write_picture(folder / "train/.ipynb_checkpoints/train_0-checkpoint.png", [])


def write_shared_image(folder: Path) -> None:
    """An image of the training split is also in the validation split."""

    def edit(data, split):
        for image in data["images"]:
            image["file_name"] = image["file_name"].replace("val_0", "train_0")

    content = {**CONTENT, "val": {"train_0": CONTENT["train"]["train_0"]}}
    write_coco(folder, content=content, images="images/{name}")


def write_truncated_image(folder: Path, suffix=".png", length=0.5) -> None:
    write_coco(folder, suffix=suffix)
    path = folder / f"train/train_1{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[: int(length * len(data))])


def write_replaced_image(folder: Path, data: bytes) -> None:
    write_coco(folder)
    (folder / "train/train_1.png").write_bytes(data)


def write_unlabeled_test(folder: Path, **annotations) -> None:
    test = {"test_0": [(0, (5, 5, 20, 20))], "test_1": []}
    write_coco(folder, top("test", **annotations), content={**CONTENT, "test": test})


TEST_CONTENT = {**CONTENT, "test": {"test_0": [], "test_1": []}}
NFD = partial(unicodedata.normalize, "NFD")


COCO_FILE_CASES: dict[str, Case] = {
    "coco_sizes_missing": Case(coco(every("images", width=..., height=...)), (REPAIRED,), "size"),
    "coco_sizes_null": Case(coco(every("images", width=None, height=None)), (REPAIRED,), "size"),
    "coco_sizes_0": Case(coco(every("images", width=0, height=0)), (REPAIRED,), "size"),
    "coco_width_missing": Case(coco(every("images", width=...)), (REPAIRED,), "size|width"),
    "coco_sizes_as_text": Case(
        coco(every("images", width=str(WIDTH), height=str(HEIGHT))),
        ANY,
        "(?i)width|size|text",
        note="one line; reading the number is right too, if it is told",
    ),
    "coco_sizes_words": Case(
        coco(every("images", width="wide", height="n/a")), (REPAIRED, STOPS), "(?i)width|size"
    ),
    "coco_sizes_float": Case(coco(every("images", width=64.0, height=48.0)), ACCEPTED),
    "coco_sizes_nan": Case(
        coco(every("images", width=NAN, height=NAN)), (REPAIRED, STOPS), "(?i)width|size"
    ),
    "coco_sizes_swapped": Case(
        coco(every("images", width=HEIGHT, height=WIDTH)),
        (REPAIRED, STOPS),
        "48x64",
        note="width and height exchanged; the boxes fit the image, so either one line per image "
        "or the size of the image with a note",
    ),
    "coco_sizes_of_the_resized_image": Case(
        coco(every("images", width=2 * WIDTH, height=2 * HEIGHT)),
        (STOPS,),
        "128x96",
        note="boxes may be those of another size: never silently read",
        content={},
    ),
    "coco_backslash_relative": Case(
        renamed(lambda name, split: "images\\" + name), ACCEPTED, r"backslash|\\|path|folder"
    ),
    "coco_backslash_absolute": Case(
        renamed(lambda name, split: rf"C:\Users\me\data\{split}\{name}"),
        (REPAIRED,),
        r"(?i)absolute|backslash|path|machine",
    ),
    "coco_slash_windows_absolute": Case(
        renamed(lambda name, split: f"D:/data/{split}/{name}"), (REPAIRED,), "(?i)path|machine|name"
    ),
    "coco_absolute": Case(
        renamed(lambda name, split: f"/home/me/data/{split}/{name}"),
        (REPAIRED,),
        "(?i)absolute|path|machine",
    ),
    "coco_file_url": Case(
        renamed(lambda name, split: f"file:///home/me/data/{name}"),
        (REPAIRED,),
        "(?i)path|url|name",
    ),
    "coco_url": Case(
        renamed(lambda name, split: f"https://example.com/x/{name}"),
        (REPAIRED,),
        "(?i)path|url|name",
    ),
    "coco_dot_slash": Case(renamed(lambda name, split: f"./{name}"), ACCEPTED),
    "coco_split_in_file_name": Case(renamed(lambda name, split: f"{split}/{name}"), ACCEPTED),
    "coco_folders_in_file_name": Case(
        renamed(lambda name, split: f"images/{split}/{name}"), (REPAIRED,), "(?i)path|name|folder"
    ),
    "coco_up_and_down_in_file_name": Case(
        renamed(lambda name, split: f"../{split}/{name}"), ACCEPTED
    ),
    "coco_percent_encoded": Case(
        renamed(
            lambda name, split: name.replace("_", "%20%281%29_"),
            lambda name: name.replace("_", " (1)_"),
        ),
        (REPAIRED,),
        "(?i)percent|%20|encod|name",
    ),
    "coco_percent_in_the_file": Case(
        renamed(lambda name, split: "50%_" + name, lambda name: "50%_" + name)
    ),
    "coco_file_name_other_case": Case(
        renamed(lambda name, split: name.upper()), (REPAIRED,), "(?i)case|name"
    ),
    "coco_suffix_other_case": Case(
        renamed(lambda name, split: name.replace(".png", ".PNG")), (REPAIRED,), "(?i)case|name"
    ),
    "coco_file_name_nfc_files_nfd": Case(
        renamed(lambda name, split: "ü_" + name, lambda name: NFD("ü_") + name),
        (REPAIRED,),
        "(?i)unicode|name",
    ),
    "coco_file_name_nfd_files_nfc": Case(
        renamed(lambda name, split: NFD("é_") + name, lambda name: "é_" + name),
        (REPAIRED,),
        "(?i)unicode|name",
    ),
    "coco_unicode_blanks_nested": Case(
        renamed(
            lambda name, split: "Straße 北京/ (Kopie) " + name,
            lambda name: "Straße 北京/ (Kopie) " + name,
        )
    ),
    "coco_blank_at_the_end": Case(
        renamed(lambda name, split: name + " "), (REPAIRED, STOPS), "(?i)blank|space|name|train_0"
    ),
    "coco_nested_folder_not_in_file_name": Case(
        renamed(lambda name, split: name, lambda name: "set1/deep/" + name),
        ANY,
        "train_0",
        note="found by name where exactly one file fits, or the message names it",
    ),
    "coco_file_name_other_suffix": Case(
        renamed(lambda name, split: name.replace(".png", ".jpg")),
        (REPAIRED, STOPS),
        r"train_0\.png|suffix",
        note="converted images: told, or the nearest name in the message",
    ),
    "coco_file_name_misspelled": Case(
        coco(first("images", "train", file_name="trian_0.png")),
        (STOPS,),
        r"train_0\.png",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
        note="the nearest name is in the message",
    ),
    "coco_file_name_ambiguous_case": Case(
        write_ambiguous_case,
        (STOPS,),
        r"TRAIN_0\.PNG",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
        note="two files fit: never a guess",
    ),
    "coco_absolute_name_in_two_folders": Case(
        write_same_name_in_folders,
        (STOPS,),
        r"img\.png",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
        note="two files fit: never a guess",
    ),
    "coco_file_name_null": Case(
        coco(first("images", "train", file_name=None)),
        (STOPS,),
        "file_name",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
    ),
    "coco_file_name_number": Case(
        coco(first("images", "train", file_name=12)),
        (STOPS,),
        "file_name",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
    ),
    "coco_image_missing": Case(
        coco(first("images", "train", file_name="lost.png")),
        (STOPS,),
        r"lost\.png",
        {**CONTENT, "train": dict(list(CONTENT["train"].items())[1:])},
    ),
    "coco_hidden_files": Case(write_hidden_files, ACCEPTED, note="hidden files are passed over"),
    "coco_image_in_two_splits": Case(
        write_shared_image,
        (READS,),
        "(?i)both|train and val|in train",
        {**CONTENT, "val": {"x": CONTENT["train"]["train_0"]}},
        note="a remark",
    ),
    "coco_bom": Case(coco(encode=lambda text: text.encode("utf-8-sig")), ACCEPTED),
    "coco_utf16": Case(coco(encode=lambda text: text.encode("utf-16")), ACCEPTED),
    "coco_utf16_le_bom": Case(
        coco(encode=lambda text: b"\xff\xfe" + text.encode("utf-16-le")), ACCEPTED
    ),
    "coco_crlf": Case(coco(encode=lambda text: text.replace(", ", ",\r\n").encode())),
    "coco_latin1": Case(
        text_of(lambda data: data.replace(b'"square"', '"Würfel"'.encode("latin-1"))),
        (STOPS,),
        "(?i)encod|utf-8",
        {},
    ),
    "coco_file_truncated": Case(text_of(lambda data: data[:-40]), (STOPS,), "instances_train", {}),
    "coco_file_empty": Case(text_of(lambda data: b""), (STOPS,), "instances_train", {}),
    "coco_file_is_a_list": Case(text_of(lambda data: b"[]"), (STOPS,), "instances_train", {}),
    "coco_file_is_html": Case(
        text_of(lambda data: b"<html>404 Not Found</html>"), (STOPS,), "instances_train", {}
    ),
    "coco_file_is_null": Case(text_of(lambda data: b"null"), (STOPS,), "instances_train", {}),
    "coco_file_is_lfs_pointer": Case(
        text_of(
            lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"
        ),
        (STOPS,),
        "instances_train",
        {},
    ),
    "coco_annotations_null": Case(
        coco(top("train", annotations=None)), (STOPS,), "annotations", {}
    ),
    "coco_annotation_not_an_object": Case(
        coco(lambda data, split: data["annotations"].append(None)),
        (STOPS,),
        "(?i)annotation",
        content={},
    ),
    "coco_image_not_an_object": Case(
        coco(lambda data, split: data["images"].append("train_0.png")),
        (STOPS,),
        "(?i)image",
        content={},
    ),
    "coco_no_images": Case(coco(top("train", images=[], annotations=[])), (STOPS,), "no image", {}),
    "coco_no_objects": Case(
        coco(top("train", annotations=[])),
        (STOPS,),
        "no object",
        {},
    ),
    "coco_image_without_objects": Case(
        coco(lambda data, split: data["annotations"].__delitem__(slice(0, 2))),
        content={
            s: {k: [] if k.endswith("_0") else o for k, o in p.items()} for s, p in CONTENT.items()
        },
    ),
    "coco_info_missing": Case(coco(top(info=...))),
    "coco_unknown_keys": Case(
        coco(
            top(licenses=None, foo=[1]),
            every("annotations", score=0.3, attributes={"occluded": 1}),
            every("images", license=None, coco_url=""),
        )
    ),
    "test_set_without_labels": Case(
        partial(write_unlabeled_test, annotations=[]),
        content=TEST_CONTENT,
        note="a test split without annotations is for prediction: no problem",
    ),
    "test_set_without_annotations_key": Case(
        partial(write_unlabeled_test, annotations=...), content=TEST_CONTENT
    ),
    "test_set_annotations_null": Case(
        partial(write_unlabeled_test, annotations=None), ACCEPTED, content=TEST_CONTENT
    ),
    "train_truncated_image": Case(
        write_truncated_image,
        (STOPS,),
        r"train_1\.png",
        {},
        note="check names the file; a training names it before it begins, or at once",
    ),
    "train_truncated_jpeg": Case(
        partial(write_truncated_image, suffix=".jpg"), (STOPS,), r"train_1\.jpg", {}
    ),
    "train_empty_image": Case(
        partial(write_replaced_image, data=b""), (STOPS,), r"train_1\.png", {}
    ),
    "train_html_image": Case(
        partial(write_replaced_image, data=b"<html>404</html>"), (STOPS,), r"train_1\.png", {}
    ),
    "train_lfs_image": Case(
        partial(write_replaced_image, data=b"version https://git-lfs.github.com/spec/v1\n"),
        (STOPS,),
        r"train_1\.png",
        {},
    ),
}
