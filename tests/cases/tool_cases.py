"""Cases in the formats of LabelMe, CVAT and VoTT, and csv files."""

from __future__ import annotations

import base64
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
    REPAIRED,
    STOPS,
    WIDTH,
    Case,
    Content,
    undivided,
    write_picture,
    write_text,
)


def labelme_shape(index: int, box, kind: str) -> dict:
    x1, y1, x2, y2 = box
    points = {
        "rectangle": [[x1, y1], [x2, y2]],
        "reversed": [[x2, y2], [x1, y1]],
        "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]],
        "circle": [[(x1 + x2) / 2, (y1 + y2) / 2], [x2, (y1 + y2) / 2]],
        "point": [[x1, y1]],
        "line": [[x1, y1], [x2, y2]],
    }[kind]
    shape_type = "rectangle" if kind == "reversed" else kind
    return {
        "label": NAMES[index], "points": points, "shape_type": shape_type, "group_id": None,
        "flags": {},
    }  # fmt: skip


def write_labelme(
    folder: Path, kind="rectangle", content=CONTENT, embed=False, extra=(), path="", **keys
) -> None:
    """One json file beside each image."""
    for split, images in content.items():
        for name, objects in images.items():
            stem = folder / split / name if split != "all" else folder / name
            write_picture(stem.with_suffix(".png"), objects)
            data = stem.with_suffix(".png").read_bytes()
            content_of_file = {
                "version": "5.0.1",
                "flags": {},
                "shapes": [*(labelme_shape(i, box, kind) for i, box in objects), *extra],
                "imagePath": f"{path}{name}.png",
                "imageData": base64.b64encode(data).decode() if embed else None,
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
            }
            write_text(stem.with_suffix(".json"), json.dumps(content_of_file | keys))


def write_cvat(
    folder: Path,
    divided=False,
    images="images/{name}",
    shape="box",
    task=True,
    content=CONTENT,
) -> None:
    """ "CVAT for images 1.1": one annotations.xml; subsets in attributes of the images."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    labels = "".join(f"<label><name>{name}</name><attributes/></label>" for name in NAMES)
    lines.append(
        f"<meta><task><name>t</name><labels>{labels}</labels></task></meta>" if task else ""
    )
    number = 0
    for split, part in content.items():
        for name, objects in part.items():
            subset = {"train": ' subset="Train"', "val": ' subset="Validation"'}[split]
            target = images.format(name=name, split=split) + ".png"
            write_picture(folder / target, objects)
            file_name = f"{name}.png"
            lines.append(
                f'<image id="{number}" name="{file_name}"{subset if divided else ""} '
                f'width="{WIDTH}" height="{HEIGHT}">'
            )
            lines += [cvat_shape(index, box, shape) for index, box in objects]
            lines.append("</image>")
            number += 1
    write_text(folder / "annotations.xml", "\n".join([*lines, "</annotations>\n"]))


def cvat_shape(index: int, box, shape: str) -> str:
    x1, y1, x2, y2 = box
    if shape == "polygon":
        points = f"{x1:.2f},{y1:.2f};{x2:.2f},{y1:.2f};{x2:.2f},{y2:.2f};{x1:.2f},{y2:.2f}"
        return (
            f'<polygon label="{NAMES[index]}" source="manual" occluded="0" points="{points}" '
            'z_order="0"/>'
        )
    return (
        f'<box label="{NAMES[index]}" source="manual" occluded="0" xtl="{x1:.2f}" ytl="{y1:.2f}" '
        f'xbr="{x2:.2f}" ybr="{y2:.2f}" z_order="0"><attribute name="a">b</attribute></box>'
    )


def write_vott_json(folder: Path) -> None:
    """vott-json-export/project-export.json: assets with regions; the images lie beside it."""
    assets = {}
    for number, (name, objects) in enumerate(ALL_IMAGES.items()):
        write_picture(folder / "vott-json-export" / f"{name}.png", objects)
        regions = [
            {
                "id": f"r{i}", "type": "RECTANGLE", "tags": [NAMES[index]],
                "boundingBox": {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1},
                "points": [{"x": x1, "y": y1}, {"x": x2, "y": y1}, {"x": x2, "y": y2},
                           {"x": x1, "y": y2}],
            }
            for i, (index, (x1, y1, x2, y2)) in enumerate(objects)
        ]  # fmt: skip
        asset = {
            "format": "png", "id": f"a{number}", "name": f"{name}.png",
            "path": f"file:C:/Users/me/{name}.png", "size": {"width": WIDTH, "height": HEIGHT},
            "state": 2, "type": 1,
        }  # fmt: skip
        assets[f"a{number}"] = {"asset": asset, "regions": regions, "version": "2.2.0"}
    project = {
        "name": "project", "version": "2.2.0", "assets": assets,
        "tags": [{"name": name, "color": "#ff0000"} for name in NAMES],
    }  # fmt: skip
    write_text(folder / "vott-json-export/project-export.json", json.dumps(project))


CSV_FORMS = {
    # keras-retinanet: no header, an empty row for an image without objects
    "retinanet": ("", "{path},{x1},{y1},{x2},{y2},{label}"),
    "retinanet_header": ("path,x1,y1,x2,y2,class", "{path},{x1},{y1},{x2},{y2},{label}"),
    "vott": ('"image","xmin","ymin","xmax","ymax","label"',
             '"{path}",{x1:.5f},{y1:.5f},{x2:.5f},{y2:.5f},"{label}"'),
    "tensorflow": ("filename,width,height,class,xmin,ymin,xmax,ymax",
                   "{path},{width},{height},{label},{x1},{y1},{x2},{y2}"),
    "automl": ("image_id,width,height,xmin,ymin,xmax,ymax,class",
               "{path},{width},{height},{x1},{y1},{x2},{y2},{label}"),
    "semicolons": ("path;x1;y1;x2;y2;class", "{path};{x1};{y1};{x2};{y2};{label}"),
    "tabs": ("path\tx1\ty1\tx2\ty2\tclass", "{path}\t{x1}\t{y1}\t{x2}\t{y2}\t{label}"),
}  # fmt: skip


def csv_text(images: dict, form: str, prefix="", end="\n", extra=()) -> str:
    header, row = CSV_FORMS[form]
    rows = [
        row.format(
            path=f"{prefix}{name}.png", x1=x1, y1=y1, x2=x2, y2=y2, label=NAMES[index],
            width=WIDTH, height=HEIGHT,
        )
        for name, objects in images.items()
        for index, (x1, y1, x2, y2) in objects
    ]  # fmt: skip
    return end.join([*([header] if header else []), *rows, *extra]) + end


def write_csv_splits(
    folder: Path, form="retinanet", prefix="images/", images="images/{name}", extra=(), end="\n",
    encoding="utf-8", file_name="{split}.csv", class_file="",
    content=CONTENT,
) -> None:  # fmt: skip
    for split, part in content.items():
        for name, objects in part.items():
            write_picture(folder / f"{images.format(split=split, name=name)}.png", objects)
        text = csv_text(part, form, prefix.format(split=split), end, extra)
        write_text(folder / file_name.format(split=split), text, encoding)
    if class_file:
        write_text(folder / class_file, "square,0\ndisc,1\n")


def write_one_csv(folder: Path, form="vott", images="", file_name="project-export.csv", extra=()):
    for name, objects in ALL_IMAGES.items():
        write_picture(folder / images / f"{name}.png", objects)
    write_text(folder / file_name, csv_text(ALL_IMAGES, form, extra=extra))


def csv_with_empty_image(folder: Path) -> None:
    write_csv_splits(folder, extra=())
    write_picture(folder / "images/empty.png", [])
    with (folder / "train.csv").open("a") as file:
        file.write("images/empty.png,,,,,\n")


def with_one_empty_image() -> Content:
    return {**CONTENT, "train": {**CONTENT["train"], "empty": []}}


TOOL_CASES: dict[str, Case] = {
    "labelme": Case(write_labelme),
    "labelme_reversed_corners": Case(
        partial(write_labelme, kind="reversed"),
        ACCEPTED,
        note="LabelMe's rectangles may be drawn from any corner",
    ),
    "labelme_polygons": Case(partial(write_labelme, kind="polygon"), ACCEPTED),
    "labelme_embedded_images": Case(partial(write_labelme, embed=True)),
    "labelme_one_folder": undivided(partial(write_labelme, content={"all": ALL_IMAGES})),
    "labelme_windows_path": Case(partial(write_labelme, path="..\\images\\"), ACCEPTED),
    "labelme_point": Case(
        partial(write_labelme, extra=[labelme_shape(0, (5, 5, 9, 9), "point")]),
        ANY,
        "(?i)point",
        note="not a box: told, never dropped silently",
    ),
    "labelme_line": Case(
        partial(write_labelme, extra=[labelme_shape(0, (5, 5, 9, 9), "line")]), ANY, "(?i)line"
    ),
    "labelme_circles": Case(
        partial(write_labelme, kind="circle"),
        ANY,
        "(?i)circle",
        content={},
        note="the box around the circle, or one line",
    ),
    "labelme_without_sizes": Case(
        partial(write_labelme, imageHeight=None, imageWidth=None), (REPAIRED,), "(?i)size"
    ),
    "cvat_xml": undivided(write_cvat),
    "cvat_xml_subsets": Case(partial(write_cvat, divided=True), ACCEPTED),
    "cvat_xml_subset_folders": Case(
        partial(write_cvat, divided=True, images="images/{split}/{name}"), ACCEPTED
    ),
    "cvat_xml_polygons": undivided(partial(write_cvat, shape="polygon")),
    "cvat_xml_images_beside": undivided(partial(write_cvat, images="{name}")),
    "cvat_xml_without_labels": undivided(partial(write_cvat, task=False)),
    "vott_json": undivided(write_vott_json),
    "vott_csv": undivided(
        partial(
            write_one_csv, images="vott-csv-export", file_name="vott-csv-export/project-export.csv"
        )
    ),
    **{
        f"csv_{form}": Case(partial(write_csv_splits, form=form, prefix="images/"), ACCEPTED)
        for form in CSV_FORMS
    },
    "csv_names_only": Case(partial(write_csv_splits, prefix=""), ACCEPTED),
    "csv_split_folders": Case(
        partial(write_csv_splits, prefix="{split}/", images="{split}/{name}"), ACCEPTED
    ),
    "csv_tensorflow_labels": Case(
        partial(
            write_csv_splits,
            form="tensorflow",
            prefix="",
            images="{split}/{name}",
            file_name="{split}_labels.csv",
        ),
        ACCEPTED,
    ),
    "csv_in_split_folders": Case(
        partial(
            write_csv_splits,
            form="tensorflow",
            prefix="",
            images="{split}/{name}",
            file_name="{split}/_annotations.csv",
        ),
        ACCEPTED,
        note="Roboflow's TensorFlow export",
    ),
    "csv_one_file": undivided(
        partial(write_one_csv, form="retinanet", images="images", file_name="annotations.csv")
    ),
    "csv_image_without_objects": Case(
        csv_with_empty_image, ACCEPTED, content=with_one_empty_image()
    ),
    "csv_class_file": Case(
        partial(write_csv_splits, class_file="classes.csv"),
        ACCEPTED,
        note="keras-retinanet's class list: name,id",
    ),
    "csv_absolute": Case(partial(write_csv_splits, prefix="/home/me/x/"), ACCEPTED),
    "csv_windows": Case(partial(write_csv_splits, prefix="C:\\Users\\me\\x\\"), ACCEPTED),
    "csv_bom": Case(
        partial(write_csv_splits, form="retinanet_header", encoding="utf-8-sig"), ACCEPTED
    ),
    "csv_utf16": Case(
        partial(write_csv_splits, form="retinanet_header", encoding="utf-16"), ACCEPTED
    ),
    "csv_crlf": Case(partial(write_csv_splits, end="\r\n"), ACCEPTED),
    "csv_word": Case(
        partial(write_csv_splits, extra=["images/train_0.png,a,2,3,4,disc"]), (STOPS,), r"\.csv:\d+"
    ),
    "csv_four_fields": Case(
        partial(write_csv_splits, extra=["images/train_0.png,1,2,3"]), (STOPS,), r"\.csv:\d+"
    ),
    "csv_lost_image": Case(
        partial(write_csv_splits, extra=["images/lost.png,1,2,9,9,disc"]), (STOPS,), r"lost\.png"
    ),
}
