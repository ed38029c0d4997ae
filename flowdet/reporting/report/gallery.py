"""Shows the test images with the best and the worst predictions of a model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor

from flowdet.data.classification.datasets import get_classification_dicts
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.data.image_files import evenly_spaced_indices
from flowdet.evaluation.classification_previews import (
    predict_probabilities,
    prediction_caption,
    preview_tile,
)
from flowdet.evaluation.detection_previews import predict_detections
from flowdet.evaluation.matching import DetectionMatches, ground_truth_instances, match_detections
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.predictor import Predictor
from flowdet.reporting.report.summary import Table
from flowdet.visualization.drawing import DrawnBox, draw_boxes, image_of
from flowdet.visualization.embedding import data_uri

logger = logging.getLogger(__name__)

# the number of best images, and also of worst images
SHOWN = 8
# colors that color-blind readers can distinguish; the line styles differ as well
TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE = (
    (0.34, 0.71, 0.91),
    (1.0, 0.35, 0.65),
    (0.95, 0.65, 0.0),
)


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        uri: the image as a data URI.
        caption: the text below the image.
        alt: the alternative text for screen readers.
    """

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """A model's best and worst predictions.

    Attributes:
        best, worst: the pictures, the best or the worst one first.
        num_images: the number of images that were evaluated for the gallery.
        dataset_size: the number of images of the dataset.
        dataset: the name of the dataset.
        averaged: whether the model has the averaged weights.
        classes: the accuracy per class of a classifier; None for a detector.
        records: the dataset dicts of the pictures of a detector, the best and then the worst.
    """

    best: list[Picture]
    worst: list[Picture]
    num_images: int
    dataset_size: int
    dataset: str
    averaged: bool
    classes: Table | None = None
    records: Sequence[dict] = ()


def detection_gallery(cfg: CfgNode, weights: str, count: int) -> Gallery:
    """Ranks images by the F1 of their detections, and images of equal F1 by the mean IoU of true
    positives.

    Args:
        cfg: the config of a detector.
        weights: its checkpoint.
        count: images to evaluate, evenly spaced in the first test dataset.

    Raises:
        OSError, ValueError, KeyError: the images, the dataset or the weights cannot be read.
    """
    predictor = Predictor(cfg, weights)
    dataset = cfg.DATASETS.TEST[0]
    all_records = get_detection_dicts(dataset, keep_difficult=True)
    value_range = cfg.INPUT.VALUE_RANGE
    records = [
        {**all_records[i], "value_range": value_range}
        for i in evenly_spaced_indices(len(all_records), count)
    ]
    detections = predict_detections(predictor.cfg, predictor.model, records)
    ranked = [
        (record, instances, match_detections(ground_truth_instances(record), instances))
        for record, instances in zip(records, detections, strict=True)
    ]
    ranked.sort(key=lambda x: (x[2].f1, x[2].mean_iou), reverse=True)
    best, worst = _best_and_worst(ranked)

    def draw(items: Sequence[tuple]) -> list[Picture]:
        return [_detection_picture(*item, predictor.class_names) for item in items]

    return Gallery(
        draw(best),
        draw(worst),
        len(records),
        len(all_records),
        dataset,
        predictor.averaged,
        records=[record for record, *_ in (*best, *worst)],
    )


def classification_gallery(cfg: CfgNode, weights: str, count: int) -> Gallery:
    """Ranks images by the predicted probability of their true class.

    Args:
        cfg: the config of a classifier.
        weights: its checkpoint.
        count: images to evaluate, evenly spaced in the first test dataset.

    Raises:
        OSError, ValueError, KeyError: the images, the dataset or the weights cannot be read.
    """
    predictor = ClassPredictor(cfg, weights)
    dataset = cfg.DATASETS.TEST[0]
    all_records = get_classification_dicts(dataset)
    records = [all_records[i] for i in evenly_spaced_indices(len(all_records), count)]
    probabilities = predict_probabilities(predictor.cfg, predictor.model, records)
    ranked = list(zip(records, probabilities, strict=True))
    ranked.sort(key=lambda item: float(item[1][item[0]["label"]]), reverse=True)
    best, worst = _best_and_worst(ranked)

    def draw(items: Sequence[tuple]) -> list[Picture]:
        value_range = cfg.INPUT.VALUE_RANGE
        return [
            _classification_picture(*item, predictor.class_names, value_range) for item in items
        ]

    return Gallery(
        draw(best),
        draw(worst),
        len(records),
        len(all_records),
        dataset,
        predictor.averaged,
        _class_accuracy(all_records, ranked, predictor.class_names),
    )


def is_annotated(dataset: str) -> bool:
    """Whether a dataset has annotations; True if it cannot be read."""
    try:
        DatasetCatalog.get(dataset)
    except (OSError, ValueError, KeyError):
        return True
    return MetadataCatalog.get(dataset).get("annotated", True)


def has_other_classes(dataset: str, class_names: Sequence[str]) -> bool:
    """Whether the classes of a dataset differ from those of a model, by now; then a warning says
    so. False if the dataset cannot be read."""
    try:
        DatasetCatalog.get(dataset)
    except (OSError, ValueError, KeyError):
        return False
    classes = list(MetadataCatalog.get(dataset).get("thing_classes") or [])
    if not classes or not class_names or classes == list(class_names):
        return False
    logger.warning(
        "dataset %r has the classes %s, but the model has %s: the parts of the report that compare "
        "them are left out",
        *(dataset, ", ".join(classes), ", ".join(class_names)),
    )
    return True


def object_counts(cfg: CfgNode) -> Counter:
    """Counts the objects per class index in the first test dataset, without the objects that the
    evaluation ignores.

    Raises:
        OSError, ValueError: the dataset cannot be read.
    """
    records = get_detection_dicts(cfg.DATASETS.TEST[0], keep_difficult=True)
    counts: Counter[int] = Counter()
    for record in records:
        ground_truth = ground_truth_instances(record)
        counts.update(ground_truth.gt_classes[~ground_truth.ignored].tolist())
    return counts


def _best_and_worst(ranked: Sequence) -> tuple[Sequence, Sequence]:
    """Returns the first items, and the last items in reverse order; no item is in both."""
    count = min(SHOWN, (len(ranked) + 1) // 2)
    return ranked[:count], ranked[max(count, len(ranked) - SHOWN) :][::-1]


def _detection_picture(
    record: dict, detections: Instances, matches: DetectionMatches, class_names: Sequence[str]
) -> Picture:
    true_positives = _count_text(len(matches.true_positives), "true positive")
    if matches.true_positives:
        true_positives += f" (mean IoU {matches.mean_iou:.2f})"
    false_positives = _count_text(len(matches.false_positives), "false positive")
    false_negatives = _count_text(len(matches.false_negatives), "false negative")
    text = f"{true_positives}, {false_negatives}, {false_positives}"
    boxes = comparison_boxes(ground_truth_instances(record), detections, matches, class_names)
    name = Path(record["file_name"]).name
    return Picture(
        data_uri(draw_boxes(image_of(record), boxes)),
        f"{name}: F1 {matches.f1:.2f}, {text}",
        f"Image {name} with {text}",
    )


def comparison_boxes(
    ground_truth: Instances,
    detections: Instances,
    matches: DetectionMatches,
    class_names: Sequence[str],
) -> list[DrawnBox]:
    """Returns the boxes that compare detections with the ground truth.

    True positives are solid, and the boxes of their objects are dotted. False negatives are dotted,
    false positives are dashed.
    """
    objects, boxes = ground_truth.gt_boxes.tensor.tolist(), detections.pred_boxes.tensor.tolist()

    def label(i: int) -> str:
        return f"{class_names[detections.pred_classes[i]]} {detections.scores[i]:.0%}"

    drawn = [DrawnBox(objects[j], "", TRUE_POSITIVE, ":") for _, j, _ in matches.true_positives]
    drawn += [DrawnBox(boxes[i], label(i), TRUE_POSITIVE) for i, _, _ in matches.true_positives]
    drawn += [
        # labeled below the box, because a false positive often overlaps a false negative
        DrawnBox(
            objects[j],
            f"missed: {class_names[ground_truth.gt_classes[j]]}",
            FALSE_NEGATIVE,
            ":",
            below=True,
        )
        for j in matches.false_negatives
    ]
    return drawn + [
        DrawnBox(boxes[i], f"false: {label(i)}", FALSE_POSITIVE, "--")
        for i in matches.false_positives
    ]


def _classification_picture(
    record: dict,
    probabilities: Tensor,
    class_names: Sequence[str],
    value_range: Sequence[float],
) -> Picture:
    text = prediction_caption(record, probabilities, class_names)
    image_id = record["image_id"]
    return Picture(
        data_uri(preview_tile(record, value_range)),
        f"{image_id}: {text}",
        f"Image {image_id}: {text}",
    )


def _class_accuracy(
    all_records: Sequence[dict], predictions: Sequence[tuple], class_names: Sequence[str]
) -> Table:
    """Tabulates images, evaluated images and correct predictions per class."""
    images = Counter(record["label"] for record in all_records)
    evaluated = Counter(record["label"] for record, _ in predictions)
    correct = Counter(r["label"] for r, p in predictions if int(p.argmax()) == r["label"])
    rows = [
        [name, *(str(count[i]) for count in (images, evaluated, correct))]
        for i, name in enumerate(class_names)
    ]
    return Table(["Class", "Images", "Evaluated", "Correct"], rows)


def _count_text(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
