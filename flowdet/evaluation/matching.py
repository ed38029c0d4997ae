"""How well detections fit the objects of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances, pairwise_iou

# detections below this score do not count, and the overlap (IoU) that finds an object
SCORE_THRESHOLD, IOU_THRESHOLD = 0.5, 0.5


def ground_truth_instances(record: dict) -> Instances:
    """The objects of a dataset dict: `gt_boxes` (absolute xyxy), `gt_classes` and `ignored`
    (bool: marked difficult, or a crowd), each of length G."""
    objects = record.get("annotations", [])
    boxes = [{key: o[key] for key in ("bbox", "bbox_mode", "category_id")} for o in objects]
    truth = annotations_to_instances(boxes, (record["height"], record["width"]))
    flags = [bool(o.get("difficult") or o.get("iscrowd")) for o in objects]
    truth.ignored = torch.tensor(flags, dtype=torch.bool)
    return truth


@dataclass(frozen=True)
class DetectionMatches:
    """Detections against objects, by index.

    Attributes:
        true_positives: (detection, object, IoU) of every object that was found.
        false_positives: detections that found none.
        false_negatives: objects that no detection found.
    """

    true_positives: list[tuple[int, int, float]]
    false_positives: list[int]
    false_negatives: list[int]

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 1 where there is nothing and nothing was
        found."""
        wrong = len(self.false_positives) + len(self.false_negatives)
        return (
            2 * len(self.true_positives) / (2 * len(self.true_positives) + wrong)
            if self.true_positives or wrong
            else 1.0
        )

    @property
    def mean_iou(self) -> float:
        """Of the true_positives; 0 without any."""
        return sum(iou for *_, iou in self.true_positives) / max(len(self.true_positives), 1)


def match_detections(truth: Instances, found: Instances) -> DetectionMatches:
    """Gives every detection, best first, the object of its class that it overlaps most.

    Objects go to one detection each, from IoU 0.5 on. As in VOC's evaluation detections of an
    ignored object count neither as true_positives nor as false alarms, and it is never missed.

    Args:
        truth: of `ground_truth_instances`.
        found: `pred_boxes`, `scores`, `pred_classes`, in any order; those below
            `SCORE_THRESHOLD` are left out.
    """
    overlap = pairwise_iou(found.pred_boxes, truth.gt_boxes)
    overlap[found.pred_classes[:, None] != truth.gt_classes] = 0
    true_positives, false_positives, taken = [], [], set()
    for i in found.scores.argsort(descending=True).tolist():
        if found.scores[i] < SCORE_THRESHOLD:
            break
        j = int(overlap[i].argmax()) if len(truth) else -1
        if j < 0 or overlap[i, j] < IOU_THRESHOLD or j in taken:
            false_positives.append(i)
        elif not truth.ignored[j]:
            taken.add(j)
            true_positives.append((i, j, float(overlap[i, j])))
    missed = [j for j in range(len(truth)) if j not in taken and not truth.ignored[j]]
    return DetectionMatches(true_positives, false_positives, missed)
