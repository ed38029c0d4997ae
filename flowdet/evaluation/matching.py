"""Matches the detections in one image with its ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances, pairwise_iou

# detections with a lower score are left out; a match needs at least this IoU
SCORE_THRESHOLD, IOU_THRESHOLD = 0.5, 0.5


def ground_truth_instances(record: dict) -> Instances:
    """Converts the G annotated objects of a dataset dict to detectron2's Instances.

    Returns:
        Instances with `gt_boxes` (absolute xyxy), `gt_classes` and `ignored` (bool; the object is
        marked difficult or is a crowd), each of length G.
    """
    objects = record.get("annotations", [])
    boxes = [{key: o[key] for key in ("bbox", "bbox_mode", "category_id")} for o in objects]
    ground_truth = annotations_to_instances(boxes, (record["height"], record["width"]))
    flags = [bool(o.get("difficult") or o.get("iscrowd")) for o in objects]
    ground_truth.ignored = torch.tensor(flags, dtype=torch.bool)
    return ground_truth


@dataclass(frozen=True)
class DetectionMatches:
    """The matches between the detections and the objects of an image, as indices.

    Attributes:
        true_positives: (detection, object, IoU) of every match.
        false_positives: detections without a match.
        false_negatives: objects without a match.
    """

    true_positives: list[tuple[int, int, float]]
    false_positives: list[int]
    false_negatives: list[int]

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 1 without objects and detections."""
        wrong = len(self.false_positives) + len(self.false_negatives)
        return (
            2 * len(self.true_positives) / (2 * len(self.true_positives) + wrong)
            if self.true_positives or wrong
            else 1.0
        )

    @property
    def mean_iou(self) -> float:
        """The mean IoU of the true positives; 0 if there are none."""
        return sum(iou for *_, iou in self.true_positives) / max(len(self.true_positives), 1)


def match_detections(ground_truth: Instances, detections: Instances) -> DetectionMatches:
    """Matches every detection, best first, with the object of its class that has the highest IoU.

    A match needs an IoU of at least `IOU_THRESHOLD`, and an object has at most one match. As in
    VOC's evaluation, detections of an ignored object are neither true nor false positives, and an
    ignored object is never a false negative.

    Args:
        ground_truth: the objects, from `ground_truth_instances`.
        detections: `pred_boxes`, `scores`, `pred_classes`, in any order; those with a score below
            `SCORE_THRESHOLD` are left out.
    """
    overlap = pairwise_iou(detections.pred_boxes, ground_truth.gt_boxes)
    overlap[detections.pred_classes[:, None] != ground_truth.gt_classes] = 0
    true_positives, false_positives, matched = [], [], set()
    for i in detections.scores.argsort(descending=True).tolist():
        if detections.scores[i] < SCORE_THRESHOLD:
            break
        j = int(overlap[i].argmax()) if len(ground_truth) else -1
        if j < 0 or overlap[i, j] < IOU_THRESHOLD or j in matched:
            false_positives.append(i)
        elif not ground_truth.ignored[j]:
            matched.add(j)
            true_positives.append((i, j, float(overlap[i, j])))
    false_negatives = [
        j for j in range(len(ground_truth)) if j not in matched and not ground_truth.ignored[j]
    ]
    return DetectionMatches(true_positives, false_positives, false_negatives)
