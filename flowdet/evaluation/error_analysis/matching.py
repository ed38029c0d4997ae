"""Matches the detections of a whole dataset with its objects, as the evaluators of VOC and COCO do.

Only pairs of a detection and an object of the same image whose boxes overlap are kept, so that
matching needs no loop over images. The results are those of detectron2's `voc_eval` and of
pycocotools at one IoU threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from flowdet.evaluation.matching import IOU_THRESHOLD
from flowdet.evaluation.saved_detections import SavedDetections

# pycocotools evaluates this number of detections per image and class
COCO_DETECTIONS = 100
# the number of pairs whose IoU is computed at once; it bounds the memory
_PAIRS_AT_ONCE = 1_000_000


class Objects(NamedTuple):
    """The G annotated objects of a dataset.

    Attributes:
        images: index of each object's image, int64 [G], ascending.
        boxes: absolute xyxy in pixels, float64 [G, 4].
        classes: class indices, int64 [G].
        ignored: whether the evaluation ignores the object, bool [G]: it is marked difficult, or is
            a crowd.
        crowd: whether the box is a crowd of objects (COCO), bool [G].
        areas: the areas in square pixels by which COCO groups the objects, float64 [G]: those of
            the annotations or of their segmentations; without one, those of the boxes.
    """

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


def objects_of(records: list[dict]) -> Objects:
    """Collects the annotations of dataset dicts."""
    pairs = [(i, a) for i, record in enumerate(records) for a in record.get("annotations", [])]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for _, a in pairs]
    areas = [_area(a, box, records[i]) for (i, a), box in zip(pairs, boxes)]
    crowd = np.array([bool(a.get("iscrowd")) for _, a in pairs], dtype=bool)
    difficult = np.array([bool(a.get("difficult")) for _, a in pairs], dtype=bool)
    return Objects(
        np.array([i for i, _ in pairs], dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([a["category_id"] for _, a in pairs], dtype=np.int64),
        crowd | difficult,
        crowd,
        np.array(areas, dtype=np.float64),
    )


def _area(annotation: dict, box: Sequence[float], record: dict) -> float:
    """Returns the area of an object in square pixels. detectron2's reader of COCO files drops it,
    and keeps the segmentation."""
    if "area" in annotation:
        return annotation["area"]
    if shape := annotation.get("segmentation"):
        if isinstance(shape, list):
            shape = mask_util.merge(mask_util.frPyObjects(shape, record["height"], record["width"]))
        return float(mask_util.area(shape))
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def ranked(detections: SavedDetections, is_coco: bool) -> SavedDetections:
    """Sorts detections by descending score. For COCO only the first `COCO_DETECTIONS` of every
    image and class are kept."""
    order = np.argsort(-detections.scores, kind="stable")
    if is_coco:
        groups = detections.images[order] * (detections.classes.max(initial=0) + 1)
        groups += detections.classes[order]
        order = order[_position_in_group(groups) < COCO_DETECTIONS]
    stability = detections.stability
    return SavedDetections(
        detections.dataset,
        detections.image_ids,
        detections.images[order],
        detections.boxes[order],
        detections.classes[order],
        detections.scores[order],
        None if stability is None else stability[order],
    )


def _position_in_group(groups: np.ndarray) -> np.ndarray:
    """Returns how many earlier entries belong to the same group, [N]."""
    order = np.argsort(groups, kind="stable")
    sizes = np.unique(groups, return_counts=True)[1]
    positions = np.empty(len(groups), dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    positions[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return positions


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of a detection and an object of the same image, sorted by detection.

    Attributes:
        detections: indices of detections, int64 [P].
        objects: indices of objects, int64 [P].
        ious: their IoU, float64 [P]. For a crowd it is the share of the detection inside of it.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray

    def select(self, mask: np.ndarray) -> Pairs:
        """Returns the pairs where a mask [P] is True."""
        return Pairs(self.detections[mask], self.objects[mask], self.ious[mask])

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the object with the highest IoU for each of `count` detections, -1 for none; and
        this IoU, 0 for none. Of equal IoUs it is the first object."""
        objects, ious = np.full(count, -1), np.zeros(count)
        order = np.lexsort((self.objects, -self.ious, self.detections))
        first, where = np.unique(self.detections[order], return_index=True)
        objects[first], ious[first] = self.objects[order][where], self.ious[order][where]
        return objects, ious


def overlapping_pairs(detections: SavedDetections, objects: Objects, lowest: float) -> Pairs:
    """Returns the pairs with an IoU of at least `lowest`."""
    parts = [
        _pairs(detections, objects, chosen, starts, counts, lowest)
        for chosen, starts, counts in _chunks(detections.images, objects.images)
    ]
    empty = np.zeros(0, np.int64)
    columns = zip((empty, empty, np.zeros(0)), *parts, strict=True)
    return Pairs(*(np.concatenate(column) for column in columns))


def _chunks(images: np.ndarray, object_images: np.ndarray) -> Iterator[tuple]:
    """Yields indices of detections, the first object of their image, and its number of objects."""
    starts = np.searchsorted(object_images, images, side="left")
    counts = np.searchsorted(object_images, images, side="right") - starts
    bounds = np.cumsum(counts) // _PAIRS_AT_ONCE
    for chosen in np.split(np.arange(len(images)), np.flatnonzero(np.diff(bounds)) + 1):
        yield chosen, starts[chosen], counts[chosen]


def _pairs(
    detections: SavedDetections,
    objects: Objects,
    chosen: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    lowest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first = np.repeat(chosen, counts)
    offsets = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    second = np.repeat(starts, counts) + offsets
    a, b = detections.boxes[first].astype(np.float64), objects.boxes[second]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = sides.clip(min=0).prod(axis=1)
    area = _areas(a)
    union = np.where(objects.crowd[second], area, area + _areas(b) - common)
    ious = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    kept = ious >= lowest
    return first[kept], second[kept], ious[kept]


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


class Matches(NamedTuple):
    """The matches of N detections.

    Attributes:
        objects: the matched object of each true positive, -1 for all others, int64 [N].
        ignored: whether the evaluation ignores the detection, bool [N].
    """

    objects: np.ndarray
    ignored: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each detection is a true positive, [N]."""
        return self.objects >= 0


def match(pairs: Pairs, count: int, ignored: np.ndarray, crowd: np.ndarray, coco: bool) -> Matches:
    """Matches detections with objects at `IOU_THRESHOLD`.

    VOC: a detection can only match the object with the highest IoU. COCO: it matches the free
    object with the highest IoU. Each object has one match, of the detection with the highest
    score. Detections of ignored objects are ignored.

    Args:
        pairs: pairs of equal classes.
        count: the number of detections, which are sorted by descending score.
        ignored: whether each object is ignored, [G].
        crowd: whether each object is a crowd, [G].
        coco: whether to match as COCO.
    """
    if not coco:
        best, ious = pairs.best(count)
        candidates = ious > IOU_THRESHOLD
        of_ignored = candidates & ignored[best] if len(ignored) else np.zeros(count, bool)
        chosen = np.flatnonzero(candidates & ~of_ignored)
        matched = np.full(count, -1)
        # the first detection of each object has the highest score
        objects, where = np.unique(best[chosen], return_index=True)
        matched[chosen[where]] = objects
        return Matches(matched, of_ignored)
    close = pairs.select(pairs.ious >= IOU_THRESHOLD)
    matched = assign(close.select(~ignored[close.objects]), count)
    # other detections may match ignored objects: each one, or any number of a crowd
    rest = close.select(ignored[close.objects] & (matched[close.detections] < 0))
    in_crowd = crowd[rest.objects]
    of_ignored = assign(rest.select(~in_crowd), count) >= 0
    of_ignored[rest.detections[in_crowd]] = True
    return Matches(matched, of_ignored)


def assign(pairs: Pairs, count: int) -> np.ndarray:
    """Lets each of `count` detections in turn choose the free object with the highest IoU.

    It computes this for all images at once: every detection proposes to its best object, which
    keeps the first of its detections; the others propose to their next object, until none is left.

    Returns:
        The chosen object of each detection, -1 for none, [N].
    """
    chosen = np.full(count, -1)
    # by detection, best object first
    order = np.lexsort((pairs.objects, -pairs.ious, pairs.detections))
    detections, objects = pairs.detections[order], pairs.objects[order]
    while len(detections):
        proposals = np.unique(detections, return_index=True)[1]
        wanted, by = np.unique(objects[proposals], return_index=True)
        holder = np.full(objects.max() + 1, count)
        holder[wanted] = detections[proposals][by]
        # a pair is out if its object holds an earlier detection
        out = detections > holder[objects]
        if not out.any():
            chosen[detections[proposals]] = objects[proposals]
            break
        detections, objects = detections[~out], objects[~out]
    return chosen
