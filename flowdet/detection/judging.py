"""How well detections fit the objects of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances, pairwise_iou

# detections below this score do not count, and the overlap (IoU) that finds an object
SCORE_THRESHOLD, IOU_THRESHOLD = 0.5, 0.5


def truth_of(record: dict) -> Instances:
    """The objects of a dataset dict: `gt_boxes` (absolute xyxy), `gt_classes` and `ignored`
    (bool: marked difficult, or a crowd), each of length G."""
    objects = record.get("annotations", [])
    boxes = [{key: o[key] for key in ("bbox", "bbox_mode", "category_id")} for o in objects]
    truth = annotations_to_instances(boxes, (record["height"], record["width"]))
    flags = [bool(o.get("difficult") or o.get("iscrowd")) for o in objects]
    truth.ignored = torch.tensor(flags, dtype=torch.bool)
    return truth


@dataclass(frozen=True)
class Judgement:
    """Detections against objects, by index.

    Attributes:
        hits: (detection, object, IoU) of every object that was found.
        false_alarms: detections that found none.
        misses: objects that no detection found.
    """

    hits: list[tuple[int, int, float]]
    false_alarms: list[int]
    misses: list[int]

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 1 where there is nothing and nothing was
        found."""
        wrong = len(self.false_alarms) + len(self.misses)
        return 2 * len(self.hits) / (2 * len(self.hits) + wrong) if self.hits or wrong else 1.0

    @property
    def mean_iou(self) -> float:
        """Of the hits; 0 without any."""
        return sum(iou for *_, iou in self.hits) / max(len(self.hits), 1)


def judge(truth: Instances, found: Instances) -> Judgement:
    """Gives every detection, best first, the object of its class that it overlaps most.

    Objects go to one detection each, from IoU 0.5 on. As in VOC's evaluation detections of an
    ignored object count neither as hits nor as false alarms, and it is never missed.

    Args:
        truth: of `truth_of`.
        found: `pred_boxes`, `scores`, `pred_classes`, in any order; those below
            `SCORE_THRESHOLD` are left out.
    """
    overlap = pairwise_iou(found.pred_boxes, truth.gt_boxes)
    overlap[found.pred_classes[:, None] != truth.gt_classes] = 0
    hits, false_alarms, taken = [], [], set()
    for i in found.scores.argsort(descending=True).tolist():
        if found.scores[i] < SCORE_THRESHOLD:
            break
        j = int(overlap[i].argmax()) if len(truth) else -1
        if j < 0 or overlap[i, j] < IOU_THRESHOLD or j in taken:
            false_alarms.append(i)
        elif not truth.ignored[j]:
            taken.add(j)
            hits.append((i, j, float(overlap[i, j])))
    missed = [j for j in range(len(truth)) if j not in taken and not truth.ignored[j]]
    return Judgement(hits, false_alarms, missed)
