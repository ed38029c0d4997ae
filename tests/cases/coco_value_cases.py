"""Cases in COCO format: values of annotations, and boxes."""

from __future__ import annotations

from tests.cases.case import (
    ACCEPTED,
    ANY,
    CONTENT,
    FRACTIONAL,
    HEIGHT,
    REPAIRED,
    STOPS,
    WIDTH,
    Case,
    Content,
    replaced_first,
)
from tests.cases.coco_writer import (
    added,
    coco,
    every,
    first,
)

NAN, INFINITY = float("nan"), float("inf")


def polygon(box):
    x1, y1, x2, y2 = box
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


MANY: Content = {
    split: {
        "tiles": [
            (i % 2, (3 * (i % 20), 4 * (i // 20), 3 * (i % 20) + 2, 4 * (i // 20) + 2))
            for i in range(60)
        ]
    }
    for split in CONTENT
}
CROWDS = {"true": "true", "True": True, "1.0": 1.0, "text 1": "1", "yes": "yes"}


NO_CROWDS = {"null": None, "text": "0", "false": "false", "False": False, "0.0": 0.0, "empty": ""}
NO_FLAGS = {"list": [], "word": "maybe", "2": 2, "object": {}, "nan": NAN}


AREAS = {
    "null": None, "text": "12", "negative": -5, "nan": NAN, "word": "n/a", "0": 0, "list": [],
    "infinite": INFINITY, "boolean": True, "missing": ...,
}  # fmt: skip
ANNOTATION_IDS = {
    "text": lambda _, n: f"a{n}", "text_1.0": lambda _, n: f"{n}.0", "list": lambda _, n: [n],
    "null": None, "repeated": 5, "mixed": lambda _, n: str(n) if n % 2 else n,
    "float": lambda _, n: n + 0.5, "object": lambda _, n: {"$oid": f"{n}"},
    "from_0": lambda _, n: n,
    "nan": NAN, "large": lambda _, n: 10**18 + n,
}  # fmt: skip
BOXES = {
    "text": "[1, 2, 3, 4]", "words": ["a", "b", "c", "d"], "3_numbers": [1, 2, 3],
    "5_numbers": [1, 2, 3, 4, 5], "nan": [NAN, 2, 8, 8], "infinite": [1, 2, INFINITY, 8],
    "nested": [[1, 2], [3, 4]], "nested_once": [[1, 2, 8, 8]], "null": None, "missing": ...,
    "empty": [], "object": {"x": 1, "y": 2, "width": 3, "height": 4},
    "null_inside": [1, None, 8, 8],
    "negative_size": [20, 20, -8, -8], "far_outside": [100, 100, 8, 8],
    "half_outside": [54, 5, 20, 8], "huge": [1, 1, 1e300, 8], "number": 5,
}  # fmt: skip
COCO_VALUE_CASES: dict[str, Case] = {
    "coco_plain": Case(coco()),
    "coco_annotation_id_0": Case(coco(every("annotations", id=lambda _, n: n))),
    "coco_no_annotation_ids": Case(coco(every("annotations", id=...))),
    **{
        f"coco_annotation_id_{key}": Case(
            coco(every("annotations", id=value)), note="annotation ids are renumbered"
        )
        for key, value in ANNOTATION_IDS.items()
    },
    **{
        f"coco_area_{key}": Case(
            coco(every("annotations", area=value)), note="w * h unless a positive number"
        )
        for key, value in AREAS.items()
    },
    **{
        f"coco_iscrowd_{key}": Case(coco(every("annotations", iscrowd=value)))
        for key, value in NO_CROWDS.items()
    },
    **{
        f"coco_crowd_as_{key}": Case(
            coco(added(iscrowd=value, bbox=[0, 0, WIDTH, HEIGHT])),
            note="a crowd box is neither trained on nor counted",
        )
        for key, value in CROWDS.items()
    },
    **{
        f"coco_iscrowd_as_{key}": Case(coco(added(iscrowd=value)), (STOPS,), "iscrowd")
        for key, value in NO_FLAGS.items()
    },
    "coco_crowd_rle": Case(
        coco(
            added(
                iscrowd=1,
                bbox=[0, 0, WIDTH, HEIGHT],
                segmentation={"counts": [0, WIDTH * HEIGHT], "size": [HEIGHT, WIDTH]},
            )
        )
    ),
    **{
        f"coco_box_{key}": Case(
            coco(added(bbox=value)), (STOPS,), "(?i)(annotation|bbox|box|outside|area|leaves)"
        )
        for key, value in BOXES.items()
    },
    "coco_nan_box": Case(
        coco(first("annotations", bbox=[NAN, 10, 18, 18])),
        (STOPS,),
        "(?i)bbox|nan",
        {
            s: {k: o[1:] if n == 0 else o for n, (k, o) in enumerate(p.items())}
            for s, p in CONTENT.items()
        },
    ),
    "coco_box_as_text": Case(
        coco(every("annotations", bbox=lambda box, _: [str(x) for x in box])),
        ANY,
        "(?i)bbox|text",
        note="one line; reading the numbers is right too, if it is told",
    ),
    "coco_box_3px_outside": Case(
        coco(content=replaced_first((-3.0, 20, 22, 40))),
        (REPAIRED,),
        "(?i)clip",
        replaced_first((0, 20, 22, 40)),
    ),
    "coco_box_3px_outside_at_the_corner": Case(
        coco(content=replaced_first((44, -3, 67, 20))),
        (REPAIRED,),
        "(?i)clip",
        replaced_first((44, 0, 64, 20)),
    ),
    "coco_box_half_a_pixel_outside": Case(
        coco(content=replaced_first((-0.5, 20, 22, 40))),
        ACCEPTED,
        content=replaced_first((0, 20, 22, 40)),
        note="rounding; need not be listed",
    ),
    "coco_box_zero_width": Case(
        coco(added(bbox=[5, 5, 0, 9])), (REPAIRED,), "(?i)no area|zero|without area"
    ),
    "coco_box_zero": Case(
        coco(added(bbox=[0, 0, 0, 0])), (REPAIRED,), "(?i)no area|zero|without area"
    ),
    "coco_box_at_the_edge_without_area_inside": Case(
        coco(added(bbox=[WIDTH, 5, 2, 9])),
        (REPAIRED, STOPS),
        "(?i)area|outside|leaves",
        note="after clipping nothing is left: left out and listed, or one line",
    ),
    **{
        f"coco_box_{key}_with_polygon": Case(
            coco(
                every("annotations", segmentation=lambda _, n: []),
                lambda data, split, value=value: (
                    [
                        a.update(
                            segmentation=polygon(
                                (
                                    a["bbox"][0],
                                    a["bbox"][1],
                                    a["bbox"][0] + a["bbox"][2],
                                    a["bbox"][1] + a["bbox"][3],
                                )
                            )
                        )
                        or (a.pop("bbox") if value is ... else a.update(bbox=value))
                        for a in data["annotations"]
                    ]
                ),
            ),
            (REPAIRED,),
            "(?i)polygon|segmentation",
            note="the box of the polygon",
        )
        for key, value in {"missing": ..., "null": None, "empty": []}.items()
    },
    "coco_box_missing_with_rle": Case(
        coco(
            added(bbox=..., segmentation={"counts": [0, WIDTH * HEIGHT], "size": [HEIGHT, WIDTH]})
        ),
        ANY,
        "(?i)bbox|box",
        content={},
    ),
    "coco_box_missing_with_broken_polygon": Case(
        coco(added(bbox=..., segmentation=[[1, 2, 3]])), (STOPS,), "(?i)bbox|polygon|segmentation"
    ),
    "coco_broken_segmentation": Case(
        coco(every("annotations", segmentation="none")), ACCEPTED, note="the box counts"
    ),
    "coco_small_float_boxes": Case(coco(content=FRACTIONAL), content=FRACTIONAL),
    "aerial_60_objects": Case(
        coco(content=MANY),
        content=MANY,
        note="a training says that 60 objects are more than its queries, and how large they are",
    ),
}
