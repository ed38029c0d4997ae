"""The images that a run's model does best and worst."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor

from flowdet.data.classification.datasets import get_classification_dicts
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.data.image_files import evenly
from flowdet.evaluation.classification_previews import classify, tile, verdict
from flowdet.evaluation.detection_previews import detect
from flowdet.evaluation.matching import DetectionMatches, ground_truth_instances, match_detections
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.predictor import Predictor
from flowdet.reporting.report.summary import Table
from flowdet.visualization.drawing import DrawnBox, draw_boxes, image_of

# pictures of each kind
SHOWN = 8
# found, missed and falsely found objects; told apart by the colour-blind, and by their lines
HIT, MISS, FALSE_ALARM = (0.34, 0.71, 0.91), (1.0, 0.35, 0.65), (0.95, 0.65, 0.0)


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, what stands below it and what it shows in words."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """What a model makes of single images.

    Attributes:
        best, worst: pictures.
        looked_at, of: how many images were looked at, and how many there are.
        dataset: they are of.
        averaged: whether the model has the averaged weights.
        classes: of a classifier, right answers per class.
    """

    best: list[Picture]
    worst: list[Picture]
    looked_at: int
    of: int
    dataset: str
    averaged: bool
    classes: Table | None = None


def detection_gallery(cfg: CfgNode, weights: str, count: int) -> Gallery:
    """The best and the worst of `count` images, spread evenly over the first test dataset, by
    F1, and the mean overlap of the true_positives where that is equal.

    Raises:
        OSError, ValueError, KeyError: the images, the dataset or the weights are not there.
    """
    predictor = Predictor(cfg, weights)
    dataset = cfg.DATASETS.TEST[0]
    every = get_detection_dicts(dataset, keep_difficult=True)
    records = [every[i] for i in evenly(len(every), count)]
    ranked = []
    for record, found in zip(records, detect(predictor.cfg, predictor.model, records)):
        ranked.append((record, found, match_detections(ground_truth_instances(record), found)))
    ranked.sort(key=lambda x: (x[2].f1, x[2].mean_iou), reverse=True)
    best, worst = _ends(ranked)

    def draw(items: Sequence[tuple]) -> list[Picture]:
        return [_detection_picture(*item, predictor.class_names) for item in items]

    return Gallery(draw(best), draw(worst), len(records), len(every), dataset, predictor.averaged)


def classification_gallery(cfg: CfgNode, weights: str, count: int) -> Gallery:
    """The best and the worst of `count` images, spread evenly over the first test dataset, by the
    probability of their true class.

    Raises:
        OSError, ValueError, KeyError: the images, the dataset or the weights are not there.
    """
    predictor = ClassPredictor(cfg, weights)
    dataset = cfg.DATASETS.TEST[0]
    every = get_classification_dicts(dataset)
    records = [every[i] for i in evenly(len(every), count)]
    rows = list(zip(records, classify(predictor.cfg, predictor.model, records)))
    rows.sort(key=lambda row: float(row[1][row[0]["label"]]), reverse=True)
    best, worst = _ends(rows)

    def draw(items: Sequence[tuple]) -> list[Picture]:
        return [_class_picture(*item, predictor.class_names) for item in items]

    return Gallery(
        draw(best),
        draw(worst),
        len(records),
        len(every),
        dataset,
        predictor.averaged,
        _right_per_class(every, rows, predictor.class_names),
    )


def object_counts(cfg: CfgNode) -> Counter:
    """Objects of each class in the first test dataset that evaluation looks for.

    Raises:
        OSError, ValueError: the dataset is not there.
    """
    records = get_detection_dicts(cfg.DATASETS.TEST[0], keep_difficult=True)
    counts: Counter[int] = Counter()
    for record in records:
        truth = ground_truth_instances(record)
        counts.update(truth.gt_classes[~truth.ignored].tolist())
    return counts


def _ends(items: Sequence) -> tuple[Sequence, Sequence]:
    """The first and, beginning with the last, the last items; none is in both."""
    shown = min(SHOWN, (len(items) + 1) // 2)
    return items[:shown], items[max(shown, len(items) - SHOWN) :][::-1]


def _detection_picture(
    record: dict, found: Instances, matches: DetectionMatches, class_names: Sequence[str]
) -> Picture:
    true_positives = _count(len(matches.true_positives), "hit")
    if matches.true_positives:
        true_positives += f" (mean IoU {matches.mean_iou:.2f})"
    false_negatives = _count(len(matches.false_negatives), "miss", "false_negatives")
    text = f"{true_positives}, {false_negatives}, {_count(len(matches.false_positives), 'false alarm')}"
    marks = comparison_boxes(ground_truth_instances(record), found, matches, class_names)
    name = Path(record["file_name"]).name
    return Picture(
        _data_uri(draw_boxes(image_of(record), marks)),
        f"{name}: F1 {matches.f1:.2f}, {text}",
        f"Image {name} with {text}",
    )


def comparison_boxes(
    truth: Instances, found: Instances, matches: DetectionMatches, class_names: Sequence[str]
) -> list[DrawnBox]:
    """Hits solid over the dotted box of their object, false_negatives dotted, false alarms dashed."""
    objects, boxes = truth.gt_boxes.tensor.tolist(), found.pred_boxes.tensor.tolist()

    def scored(i: int) -> str:
        return f"{class_names[found.pred_classes[i]]} {found.scores[i]:.0%}"

    marks = [DrawnBox(objects[j], "", HIT, ":") for _, j, _ in matches.true_positives]
    marks += [DrawnBox(boxes[i], scored(i), HIT) for i, _, _ in matches.true_positives]
    marks += [
        # below, as a false alarm often lies on it
        DrawnBox(objects[j], f"missed: {class_names[truth.gt_classes[j]]}", MISS, ":", below=True)
        for j in matches.false_negatives
    ]
    return marks + [
        DrawnBox(boxes[i], f"false: {scored(i)}", FALSE_ALARM, "--")
        for i in matches.false_positives
    ]


def _class_picture(record: dict, probabilities: Tensor, class_names: Sequence[str]) -> Picture:
    text = verdict(record, probabilities, class_names)
    image_id = record["image_id"]
    return Picture(
        _data_uri(tile(record)), f"{image_id}: {text}", f"Image {image_id}, taken for {text}"
    )


def _right_per_class(
    every: Sequence[dict], rows: Sequence[tuple], class_names: Sequence[str]
) -> Table:
    there = Counter(record["label"] for record in every)
    looked = Counter(record["label"] for record, _ in rows)
    right = Counter(r["label"] for r, p in rows if int(p.argmax()) == r["label"])
    lines = [
        [name, *(str(count[i]) for count in (there, looked, right))]
        for i, name in enumerate(class_names)
    ]
    return Table(["Class", "Images", "Looked at", "Right"], lines)


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
