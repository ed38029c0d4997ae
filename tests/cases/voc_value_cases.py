"""Cases in VOC format: class names, values of tags, sizes and polygons."""

from __future__ import annotations

import re

from tests.cases.case import (
    ACCEPTED,
    ANY,
    CONTENT,
    FRACTIONAL,
    HEIGHT,
    READS,
    REPAIRED,
    STOPS,
    WIDTH,
    Case,
    Content,
)
from tests.cases.voc_writer import (
    SIZE_TAG,
    added,
    boxed,
    one_object_fewer,
    pairs,
    swap,
    voc,
    voc_object,
    without,
)


def difficult_text(value: str):
    return swap("<difficult>0</difficult>", f"<difficult>{value}</difficult>")


def polygon_instead(points: str):
    """Replaces the first bndbox by another tag."""

    def edit(text: str) -> str:
        start, end = text.index("<bndbox>"), text.index("</bndbox>") + len("</bndbox>")
        return text[:start] + points + text[end:]

    return edit


# the first object of train_1 is (12, 2, 31, 20), counted from 0
POLYGON = "".join(
    f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>"
    for i, (x, y) in enumerate([(13, 3), (31, 3), (31, 20), (13, 20)], 1)
)
POINTS = "".join(
    f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in [(13, 3), (31, 3), (31, 20), (13, 20)]
)
ONE: Content = {split: dict([next(iter(images.items()))]) for split, images in CONTENT.items()}


NO_DIFFICULT = {"word": "Unspecified", "false": "false", "empty": "", "0.0": "0.0", "no": "no",
                "blank": " 0 ", "none": "None"}  # fmt: skip


DIFFICULT = {"yes": "yes", "True": "True", "1.0": "1.0", "blank_1": " 1 "}
BAD_CORNERS = {
    "word": "a|3|9|9", "nan": "nan|3|9|9", "infinite": "1|3|inf|9", "comma": "1,5|3|9|9",
    "empty": "|3|9|9", "far_outside": "200|200|240|240", "swapped": "20|20|5|5",
    "swapped_x": "20|5|5|20", "half_outside": "50|5|84|20",
}  # fmt: skip
VOC_VALUE_CASES: dict[str, Case] = {
    "voc_plain": Case(voc()),
    "voc_jpg": Case(voc(suffix=".jpg")),
    "voc_suffix_upper_case": Case(voc(suffix=".JPG"), ACCEPTED),
    "voc_bmp": Case(voc(suffix=".bmp")),
    "voc_one_image": Case(voc(content=ONE), content=ONE),
    "voc_float_no_difficult": Case(
        voc(
            lambda text: text.replace(
                "<difficult>0</difficult>", "<truncated>Unspecified</truncated>"
            ),
            content=FRACTIONAL,
        ),
        content=FRACTIONAL,
    ),
    "voc_small_float_boxes": Case(voc(content=FRACTIONAL), content=FRACTIONAL),
    "voc_class_name_with_slash": Case(
        voc(names=("car/truck", "R&D <x>")), names=("car/truck", "R&D <x>")
    ),
    "voc_class_name_path": Case(voc(names=("../x", "../../y")), names=("../x", "../../y")),
    "class_names_chinese": Case(
        pairs(names=("方块", "Größe ø")),
        names=("方块", "Größe ø"),
        note="legible on the sheet where a font has them, else a note",
    ),
    "voc_class_names_case": Case(
        voc(names=("Car", "car")), (READS,), "(?i)case|differ", names=("Car", "car")
    ),
    "voc_class_names_blanks": Case(
        voc(lambda text: text.replace("<name>square</name>", "<name>\n  square </name>")),
        ACCEPTED,
        note="blanks around a name in xml are formatting",
    ),
    "voc_class_name_inner_blank": Case(
        voc(names=("traffic light", "traffic  light")),
        ACCEPTED,
        "(?i)blank|space|differ",
        names=("traffic light", "traffic  light"),
        note="2 classes and a remark",
    ),
    **{
        f"voc_difficult_{key}": Case(voc(difficult_text(value)), ACCEPTED, note="0")
        for key, value in NO_DIFFICULT.items()
    },
    "voc_difficult_words": Case(voc(difficult_text("Unspecified")), (REPAIRED,), "(?i)difficult"),
    **{
        f"voc_difficult_as_{key}": Case(
            voc(first=added(voc_object("square", (1, 1, 9, 9), f"<difficult>{value}</difficult>"))),
            ACCEPTED,
            note="1: trained on or not as the config says, never counted",
        )
        for key, value in DIFFICULT.items()
    },
    "voc_difficult_unknown_word": Case(voc(difficult_text("maybe")), ANY, "(?i)difficult"),
    **{
        f"voc_corner_{key}": Case(voc(first=added(boxed(value))), (STOPS,), r"train_1\.xml:\d+")
        for key, value in BAD_CORNERS.items()
    },
    "voc_corners_swapped": Case(
        voc(first=swap("<xmin>13</xmin>", "<xmin>50</xmin>")),
        (STOPS,),
        r"train_1\.xml:\d+",
        one_object_fewer(),
    ),
    "voc_corner_missing": Case(
        voc(first=added("<object><name>disc</name><bndbox><xmin>3</xmin></bndbox></object>")),
        (STOPS,),
        r"train_1\.xml:\d+",
    ),
    "voc_box_zeros": Case(
        voc(first=added(boxed("0|0|0|0"))),
        (REPAIRED,),
        "(?i)no area|zero|without area",
        note="as in BCCD: left out and listed",
    ),
    "voc_box_without_width": Case(
        voc(first=added(boxed("10|5|9|20"))),
        (REPAIRED, STOPS),
        "(?i)no area|zero|without area|order",
    ),
    "voc_box_of_one_pixel": Case(
        voc(first=added(boxed("10|5|10|20"))),
        ANY,
        "(?i)area|pixel",
        note="xmin = xmax: 1 pixel counted from 1, no area counted from 0; told either way",
        content={},
    ),
    "voc_box_counted_from_0": Case(
        voc(first=swap("<xmin>13</xmin>", "<xmin>0</xmin>")),
        ACCEPTED,
        content={
            **CONTENT,
            "train": {
                **CONTENT["train"],
                "train_1": [(0, (0, 2, 31, 20)), CONTENT["train"]["train_1"][1]],
            },
        },
        note="tools that count from 0: clipped, need not be listed",
    ),
    "voc_box_3px_outside": Case(
        voc(first=swap("<xmax>58</xmax>", "<xmax>67</xmax>")),
        (REPAIRED,),
        "(?i)clip",
        {
            **CONTENT,
            "train": {
                **CONTENT["train"],
                "train_1": [CONTENT["train"]["train_1"][0], (1, (40, 26, 64, 44))],
            },
        },
    ),
    "voc_no_name": Case(
        voc(
            first=added(
                "<object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
                "</bndbox></object>"
            )
        ),
        (STOPS,),
        r"train_1\.xml:\d+",
    ),
    "voc_empty_name": Case(voc(first=added(boxed("1|1|9|9", ""))), (STOPS,), r"train_1\.xml:\d+"),
    "voc_blank_name": Case(voc(first=added(boxed("1|1|9|9", "  "))), (STOPS,), r"train_1\.xml:\d+"),
    "voc_image_without_objects": Case(
        voc(first=lambda text: text[: text.index("<object>")] + "</annotation>"),
        content=without(1),
    ),
    "voc_values_with_line_breaks": Case(
        voc(lambda text: text.replace("<xmin>", "<xmin>\n   ").replace("</xmin>", "\n  </xmin>")),
        ACCEPTED,
    ),
    "voc_corners_in_other_order": Case(
        voc(lambda text: re.sub("(<xmin>.*?</xmin>)(.*?)(?=</bndbox>)", r"\2\1", text))
    ),
    "voc_parts_with_boxes": Case(
        voc(
            first=swap(
                "</name><difficult>",
                "</name><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
                "<xmax>5</xmax><ymax>5</ymax></bndbox></part><difficult>",
            )
        ),
        note="VOC's person layout: parts are not objects",
    ),
    "voc_no_size": Case(voc(swap(SIZE_TAG, "")), (REPAIRED,), "(?i)size"),
    "voc_empty_size": Case(voc(swap(SIZE_TAG, "<size></size>")), (REPAIRED,), "(?i)size"),
    "voc_size_0": Case(
        voc(swap(SIZE_TAG, "<size><width>0</width><height>0</height><depth>3</depth></size>")),
        (REPAIRED,),
        "(?i)size",
    ),
    "voc_size_empty_tags": Case(
        voc(swap(SIZE_TAG, "<size><width></width><height/></size>")), (REPAIRED,), "(?i)size"
    ),
    "voc_size_words": Case(
        voc(swap(SIZE_TAG, "<size><width>Unknown</width><height>Unknown</height></size>")),
        (REPAIRED, STOPS),
        "(?i)size|width",
    ),
    "voc_size_float": Case(
        voc(swap(SIZE_TAG, "<size><width>64.0</width><height>48.0</height></size>")), ACCEPTED
    ),
    "voc_size_swapped": Case(
        voc(swap(SIZE_TAG, f"<size><width>{HEIGHT}</width><height>{WIDTH}</height></size>")),
        (REPAIRED, STOPS),
        "48x64",
        content={},
        note="boxes to x = 58 leave 48x64: one line with both sizes, or the image's size told",
    ),
    "voc_size_wrong": Case(
        voc(first=swap(SIZE_TAG, "<size><width>640</width><height>480</height></size>")),
        (STOPS,),
        "640x480",
        content={},
        note="boxes may be those of another size",
    ),
    "voc_polygon_without_bndbox": Case(
        pairs(first=polygon_instead("<polygon><x1>1</x1><xmin>13</xmin><ymin>3</ymin></polygon>")),
        (STOPS,),
        r"train_1\.xml:\d+",
        one_object_fewer(),
        note="the polygon has no points: one line with file and line",
    ),
    "voc_polygon_of_numbered_points": Case(
        pairs(first=polygon_instead(f"<polygon>{POLYGON}</polygon>")),
        (REPAIRED,),
        "(?i)polygon",
        note="the box of the polygon, counted like a bndbox",
    ),
    "voc_polygon_and_bndbox": Case(
        pairs(
            first=swap(
                "</bndbox></object>\n<object>",
                f"</bndbox><polygon>{POLYGON}</polygon></object>\n<object>",
            )
        ),
        ACCEPTED,
        note="Roboflow writes both: the bndbox counts",
    ),
    "voc_object_without_any_box": Case(
        pairs(first=added("<object><name>disc</name></object>")), (STOPS,), r"train_1\.xml:\d+"
    ),
    "voc_rotated_box": Case(
        pairs(
            first=polygon_instead(
                "<robndbox><cx>22</cx><cy>12</cy><w>18</w><h>16</h><angle>0.5</angle></robndbox>"
            )
        ),
        (REPAIRED, STOPS),
        r"(?i)train_1\.xml",
        content={},
        note="roLabelImg: the enclosing box with a note, or one line; never dropped silently",
    ),
}
