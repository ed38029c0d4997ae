"""Tabulates statistics of a dataset: classes, box sizes, objects per image.

The argument `records` holds dataset dicts by split, with boxes as absolute xyxy in pixels.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from tabulate import tabulate

__all__ = ["class_table", "config_remarks", "size_table", "split_table"]

# quantiles of the box sizes that a table shows, in percent
_QUANTILES = (1, 10, 50, 90, 99)
# pixels of the model input: a smaller box covers at most a quarter of a token of stride 16
SMALL = 8


def split_table(records: dict[str, list[dict]], num_queries: int) -> str:
    """Tabulates images, objects, and objects per image of every split.

    Args:
        records: dataset dicts by split.
        num_queries: a column counts the images with more objects than this.
    """
    rows = []
    for split, split_records in records.items():
        counts = np.array([len(r["annotations"]) for r in split_records], dtype=int)
        row = [split, len(split_records), (counts == 0).sum(), counts.sum()]
        row += [np.median(counts), counts.max()] if len(counts) else ["", ""]
        row.append((counts > num_queries).sum())
        rows.append(row)
    head = ["split", "images", "without objects", "objects", "per image: median", "most"]
    return tabulate(rows, [*head, f"images with more than {num_queries}"], tablefmt="github")


def class_table(records: dict[str, list[dict]], class_names: list[str]) -> str:
    """Tabulates the objects of every class in every split."""
    if not class_names:
        return "no classes"
    counts = {
        split: Counter(a["category_id"] for r in split_records for a in r["annotations"])
        for split, split_records in records.items()
    }
    rows = [[name, *(c[i] for c in counts.values())] for i, name in enumerate(class_names)]
    # a class name may be a number
    return tabulate(rows, ["class", *records], tablefmt="github", disable_numparse=[0])


def size_table(records: dict[str, list[dict]], cfg: CfgNode | None) -> str:
    """Tabulates quantiles of the box sizes. The size of a box is the square root of its area.

    The rows are in pixels, relative to the size of the image, and, with a config, in pixels of the
    model input.
    """
    sizes = _box_sizes(records, cfg)
    if not len(sizes):
        return "no boxes"
    rows = [
        ["pixels", *_texts(sizes[:, 0], "{:.0f}")],
        ["share of the image", *_texts(100 * sizes[:, 1], "{:.1f} %")],
    ]
    if cfg is not None:
        rows.append(["pixels of the input", *_texts(sizes[:, 2], "{:.0f}")])
    head = ["box size (square root of the area)", *(f"{q} %" for q in _QUANTILES)]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def config_remarks(
    records: dict[str, list[dict]], cfg: CfgNode, has_queries: bool = True
) -> list[str]:
    """Returns remarks about objects that are too many or too small for a detector of this config.

    Args:
        records: the records of each split.
        cfg: the config.
        has_queries: whether the detector has queries, whose number limits the objects of an image.

    Returns:
        One sentence per remark, which names the config key to change.
    """
    num_queries, remarks = cfg.MODEL.FLOW_DET.NUM_QUERIES, []
    counts = [len(r["annotations"]) for split_records in records.values() for r in split_records]
    crowded = sum(count > num_queries for count in counts)
    if crowded and has_queries:
        remarks.append(
            f"{crowded} images have more objects than the {num_queries} queries: only the largest "
            f"are matched with queries. Set MODEL.FLOW_DET.NUM_QUERIES to {max(counts)} or more"
        )
    sizes = _box_sizes(records, cfg)
    small = (sizes[:, 2] < SMALL).mean() if len(sizes) else 0
    if small > 0.01:
        remarks.append(
            f"{small:.0%} of the boxes are smaller than {SMALL}x{SMALL} pixels in the model input: "
            "raise INPUT.FIXED_SIZE, or use finer feature maps (docs/custom_datasets.md)"
        )
    return remarks


def _box_sizes(records: dict[str, list[dict]], cfg: CfgNode | None) -> np.ndarray:
    """Computes the size of every box, the square root of its area.

    Returns:
        [N, 3]: the size in pixels of the image, relative to the size of the image, and in pixels of
        the model input (without a config, again in pixels of the image).
    """
    rows = []
    for record in (r for split_records in records.values() for r in split_records):
        image = record["height"] * record["width"]
        scale = _input_area(record, cfg) / image if cfg is not None else 1.0
        for x1, y1, x2, y2 in (a["bbox"] for a in record["annotations"]):
            area = (x2 - x1) * (y2 - y1)
            rows.append((area, area / image, area * scale))
    return np.sqrt(np.array(rows).reshape(-1, 3))


def _input_area(record: dict, cfg: CfgNode) -> float:
    """Computes the area of an image after resizing to the model input, in pixels."""
    height, width = cfg.INPUT.FIXED_SIZE
    if not height:
        height, width = ResizeShortestEdge.get_output_shape(
            record["height"], record["width"], cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        )
    return height * width


def _texts(values: np.ndarray, form: str) -> list[str]:
    return [form.format(value) for value in np.percentile(values, _QUANTILES)]
