"""Cases in VOC format: encodings, lists, pairs of files and EXIF data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.cases.case import (
    ACCEPTED,
    ANY,
    CONTENT,
    READS,
    REPAIRED,
    STOPS,
    Case,
    Content,
    write_picture,
    write_text,
    write_then,
)
from tests.cases.voc_writer import (
    declared,
    pairs,
    swap,
    voc,
    without_image,
)


def exif_stored(folder: Path, exif: int) -> None:
    """Boxes and sizes are those of the stored pixels; viewers turn the images."""
    pairs(suffix=".jpg", exif=exif)(folder)


def add_hidden_files(folder: Path) -> None:
    for split in CONTENT:
        for path in sorted((folder / split).iterdir()):
            path.with_name("._" + path.name).write_bytes(
                b"\x00\x05\x16\x07\x00\x02Mac OS X" + 40 * b"\0"
            )
        write_text(folder / split / ".DS_Store", "x")
    write_text(folder / "._train", "x")


def add_checkpoints(folder: Path) -> None:
    for split in CONTENT:
        write_picture(folder / split / ".ipynb_checkpoints" / "0-checkpoint.png", [])
        write_text(folder / split / ".ipynb_checkpoints" / "0-checkpoint.xml", "<annotation/>")


NESTED: Content = {
    split: {f"cam{n}/{name}": objects for n, (name, objects) in enumerate(images.items())}
    for split, images in CONTENT.items()
}
DOTTED: Content = {
    split: {f"img.v1.{name} (2)": objects for name, objects in images.items()}
    for split, images in CONTENT.items()
}
ENCODINGS = {
    "gbk": ("gb2312", "gbk", "方块"), "big5": ("big5", "big5", "方塊"),
    "shift_jis": ("Shift_JIS", "shift_jis", "四角"), "euc_kr": ("EUC-KR", "euc-kr", "상자"),
    "cp1251": ("windows-1251", "cp1251", "куб"), "cp1252": ("windows-1252", "cp1252", "Würfel"),
    "latin1_declared": ("ISO-8859-1", "latin-1", "Würfel"),
    "utf8_declared": ("utf-8", "utf-8", "é"),
    "gb18030": ("GB18030", "gb18030", "方块"), "utf16": ("utf-16", "utf-16", "Würfel"),
}  # fmt: skip
VOC_FILE_CASES: dict[str, Case] = {
    **{
        f"voc_xml_{key}": Case(
            voc(declared(name), names=(text, "disc"), encoding=codec),
            ACCEPTED,
            names=(text, "disc"),
        )
        for key, (name, codec, text) in ENCODINGS.items()
    },
    "voc_xml_bom": Case(voc(encoding="utf-8-sig"), ACCEPTED),
    "voc_xml_bom_declared": Case(voc(declared("utf-8"), encoding="utf-8-sig"), ACCEPTED),
    "voc_xml_declared_utf16_is_utf8": Case(
        voc(declared("utf-16")), ANY, "(?i)encod|utf-16", note="as .NET tools write"
    ),
    "voc_xml_encoding_unknown": Case(
        voc(first=declared("klingon")), (STOPS,), "(?i)klingon", without_image()
    ),
    "voc_xml_latin1_undeclared": Case(
        voc(names=("Würfel", "disc"), encoding="latin-1"), (STOPS,), r"(?i)\.xml:\d+.*encod", {}
    ),
    "voc_xml_gbk_undeclared": Case(
        voc(names=("方块", "disc"), encoding="gbk"), (STOPS,), r"(?i)\.xml:\d+.*encod", {}
    ),
    "voc_xml_crlf": Case(voc(lambda text: text.replace("\n", "\r\n"))),
    "voc_xml_doctype": Case(
        voc(lambda text: '<?xml version="1.0"?>\n<!DOCTYPE annotation>\n' + text), ACCEPTED
    ),
    "voc_xml_verified": Case(voc(swap("<annotation>", '<annotation verified="yes">'))),
    "voc_xml_namespace": Case(
        voc(swap("<annotation>", '<annotation xmlns="http://example.com/voc">')),
        ANY,
        r"(?i)\.xml.*(namespace|annotation|object)",
        note="never read as an image without objects",
    ),
    "voc_xml_empty": Case(voc(first=lambda text: ""), (STOPS,), r"train_1\.xml", without_image()),
    "voc_xml_truncated": Case(
        voc(first=lambda text: text[:-60]), (STOPS,), r"train_1\.xml:\d+", without_image()
    ),
    "voc_xml_is_html": Case(
        voc(first=lambda text: "<html><body>404</body></html>"),
        (STOPS,),
        r"train_1\.xml",
        without_image(),
    ),
    "voc_xml_capital_tags": Case(
        voc(lambda text: text.replace("object>", "Object>")),
        ANY,
        "(?i)object",
        note="never images without objects without a word",
    ),
    "voc_filename_differs": Case(
        voc(lambda text: text.replace("<filename>", r"<filename>C:\old\IMG_")), ACCEPTED
    ),
    "voc_filename_missing": Case(
        voc(lambda text: text[: text.index("<filename>")] + text[text.index("</filename>") + 11 :])
    ),
    "voc_path_of_another_machine": Case(
        voc(swap("</filename>", r"</filename><path>C:\Users\me\Desktop\x.png</path>"))
    ),
    "voc_list_bom": Case(voc(list_encoding="utf-8-sig"), ACCEPTED),
    "voc_list_utf16": Case(voc(list_encoding="utf-16"), ACCEPTED, note="PowerShell's >"),
    "voc_list_crlf": Case(voc(lists=lambda names: "\r\n".join(names) + "\r\n\r\n"), ACCEPTED),
    "voc_list_blanks": Case(
        voc(lists=lambda names: "\n".join(f"{n}  " for n in names) + "\n\n  \n"), ACCEPTED
    ),
    "voc_list_with_suffix": Case(
        voc(lists=lambda names: "\n".join(f"{n}.png" for n in names)), ACCEPTED
    ),
    "voc_list_with_folder_and_suffix": Case(
        voc(lists=lambda names: "\n".join(f"JPEGImages/{n}.png" for n in names)), ANY, r"train_0"
    ),
    "voc_list_with_xml_suffix": Case(
        voc(lists=lambda names: "\n".join(f"{n}.xml" for n in names)), ANY, r"train_0"
    ),
    "voc_list_absolute": Case(
        voc(lists=lambda names: "\n".join(f"/home/me/VOC/JPEGImages/{n}.png" for n in names)),
        ANY,
        r"train_0",
    ),
    "voc_list_with_flags": Case(
        voc(lists=lambda names: "\n".join(f"{n}  1" for n in names)),
        ANY,
        r"train_0",
        note="VOC's lists of a class: name and 1 or -1",
    ),
    "voc_list_name_twice": Case(
        voc(lists=lambda names: "\n".join([*names, names[0]])),
        ANY,
        "(?i)twice|train_0",
        note="never trained on or evaluated twice without a word",
    ),
    "voc_list_empty": Case(
        write_then(voc(), lambda f: (f / "ImageSets/Main/train.txt").write_text("")),
        (STOPS,),
        "(?i)train.txt|no image",
        {},
    ),
    "voc_list_name_unknown": Case(
        voc(lists=lambda names: "\n".join([*names, "lost"])), (STOPS,), r"(?i)\.txt:\d+.*lost|lost"
    ),
    "voc_nested_ids": Case(voc(content=NESTED), ACCEPTED, content=NESTED),
    "voc_dotted_ids": Case(voc(content=DOTTED), content=DOTTED),
    "voc_classes_bom": Case(
        write_then(voc(), lambda f: write_text(f / "classes.txt", "disc\nsquare\n", "utf-8-sig")),
        ACCEPTED,
    ),
    "voc_classes_crlf": Case(
        write_then(voc(), lambda f: write_text(f / "classes.txt", "disc\r\nsquare\r\n\r\n")),
        ACCEPTED,
    ),
    "voc_classes_utf16": Case(
        write_then(voc(), lambda f: write_text(f / "classes.txt", "disc\nsquare\n", "utf-16")),
        ACCEPTED,
    ),
    "voc_classes_lack_one": Case(
        write_then(voc(), lambda f: write_text(f / "classes.txt", "square\n")),
        (STOPS,),
        "disc",
        {},
        note="one line with the class",
    ),
    "voc_classes_empty": Case(
        write_then(voc(), lambda f: write_text(f / "classes.txt", "\n")),
        (STOPS,),
        "classes.txt",
        {},
    ),
    "voc_classes_repeated": Case(
        write_then(voc(), lambda f: write_text(f / "classes.txt", "disc\nsquare\ndisc\n")),
        (STOPS,),
        r"classes.txt:3",
    ),
    "voc_pairs": Case(pairs()),
    "voc_pairs_in_folders": Case(
        pairs(image="{split}/images/{name}", xml="{split}/annotations/{name}")
    ),
    "voc_image_without_xml": Case(
        write_then(pairs(), lambda f: (f / "train/train_1.xml").unlink()),
        (STOPS,),
        "train_1",
        without_image(),
    ),
    "voc_xml_without_image": Case(
        write_then(pairs(), lambda f: (f / "train/train_1.png").unlink()),
        (STOPS,),
        "train_1",
        without_image(),
    ),
    "voc_two_images_of_one_name": Case(
        write_then(pairs(), lambda f: write_picture(f / "train/train_1.jpg", [])),
        (STOPS,),
        "train_1",
        content={},
    ),
    "voc_stem_of_another_case": Case(
        write_then(pairs(), lambda f: (f / "train/train_1.xml").rename(f / "train/TRAIN_1.xml")),
        (REPAIRED, STOPS),
        "(?i)train_1",
    ),
    "voc_xml_suffix_upper_case": Case(
        write_then(
            pairs(), lambda f: [p.rename(p.with_suffix(".XML")) for p in sorted(f.rglob("*.xml"))]
        ),
        ACCEPTED,
    ),
    "jupyter_checkpoints": Case(write_then(pairs(), add_checkpoints), ACCEPTED),
    "macos_dot_underscore": Case(write_then(pairs(), add_hidden_files), ACCEPTED),
    **{
        f"exif_{exif}_boxes_of_stored_pixels": Case(
            partial(exif_stored, exif=exif),
            (STOPS,),
            "EXIF",
            {},
            note="the annotated size is that of the stored pixels: named by the check, and by a "
            "training before it begins",
        )
        for exif in (5, 6, 7, 8)
    },
    **{
        f"exif_{exif}_boxes_of_stored_pixels": Case(
            partial(exif_stored, exif=exif),
            (READS,),
            "EXIF",
            note="sizes agree, so a remark asks whether the boxes are those of the turned picture",
        )
        for exif in (2, 3, 4)
    },
    "exif_1": Case(pairs(suffix=".jpg", exif=1)),
}
