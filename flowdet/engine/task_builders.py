"""The functions that differ between the training of a detector and of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image

import flowdet.data.classification.loaders
import flowdet.data.detection.loaders
from flowdet.detection import SetDetector
from flowdet.evaluation.classification import ClassificationEvaluator
from flowdet.evaluation.detection import build_evaluator
from flowdet.flowcls import Classifier


@dataclass(frozen=True)
class TaskBuilders:
    """How a task loads and evaluates its data.

    Attributes:
        node: name of the task's config node in `MODEL`.
        evaluator_types: values of `evaluator_type` in the metadata of datasets for this task.
        count_training_images: returns the number of images in an epoch.
        build_train_loader, build_test_loader, build_evaluator: see the methods of `Trainer`.
        preview_sheet: draws test images with the results of a model.
    """

    node: str
    evaluator_types: tuple[str, ...]
    count_training_images: Callable[[CfgNode], int]
    build_train_loader: Callable
    build_test_loader: Callable
    build_evaluator: Callable
    preview_sheet: Callable

    def keys(self, cfg: CfgNode) -> CfgNode:
        """Returns the task's node of a config."""
        return cfg.MODEL[self.node]


def _count_detection_images(cfg: CfgNode) -> int:
    read = flowdet.data.detection.loaders.get_detection_dicts
    keep_difficult = cfg.DATASETS.TRAIN_ON_DIFFICULT
    records = [record for name in cfg.DATASETS.TRAIN for record in read(name, keep_difficult)]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    return len(records)


def _build_classification_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> ClassificationEvaluator:
    return ClassificationEvaluator(dataset_name)


def _detection_previews(*args) -> Image.Image:
    # imported when it is used, because it needs matplotlib
    from flowdet.evaluation.detection_previews import preview_sheet

    return preview_sheet(*args)


def _classification_previews(*args) -> Image.Image:
    from flowdet.evaluation.classification_previews import preview_sheet

    return preview_sheet(*args)


DETECTION = TaskBuilders(
    node="FLOW_DET",
    evaluator_types=("pascal_voc", "coco"),
    count_training_images=_count_detection_images,
    build_train_loader=flowdet.data.detection.loaders.build_train_loader,
    build_test_loader=flowdet.data.detection.loaders.build_test_loader,
    build_evaluator=build_evaluator,
    preview_sheet=_detection_previews,
)
CLASSIFICATION = TaskBuilders(
    node="FLOW_CLS",
    evaluator_types=("classification",),
    count_training_images=flowdet.data.classification.loaders.count_training_images,
    build_train_loader=flowdet.data.classification.loaders.build_train_loader,
    build_test_loader=flowdet.data.classification.loaders.build_test_loader,
    build_evaluator=_build_classification_evaluator,
    preview_sheet=_classification_previews,
)


def task_of(cfg: CfgNode) -> TaskBuilders:
    """Returns the task of `MODEL.META_ARCHITECTURE`.

    Subclasses of `Classifier` are classifiers. All other models are detectors.

    Raises:
        KeyError: unknown meta-architecture.
    """
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return CLASSIFICATION if issubclass(architecture, Classifier) else DETECTION


def has_queries(cfg: CfgNode) -> bool:
    """Returns whether the model of a config is a detector with queries.

    Raises:
        KeyError: unknown meta-architecture.
    """
    return issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), SetDetector)
