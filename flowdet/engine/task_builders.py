"""What differs between detection and classification in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.modeling import META_ARCH_REGISTRY

import flowdet.data.classification.loaders
import flowdet.data.detection.loaders
import flowdet.evaluation.classification_previews
import flowdet.evaluation.detection_previews
from flowdet.evaluation.classification import ClassificationEvaluator
from flowdet.evaluation.detection import build_evaluator
from flowdet.flowcls import Classifier


@dataclass(frozen=True)
class TaskBuilders:
    """How a run reads and evaluates its data.

    Attributes:
        node: name of its config node in `MODEL`.
        evaluator_types: kinds of datasets (in their metadata) that it is for.
        count_training_images: those in an epoch.
        build_train_loader, build_test_loader, build_evaluator: as of `Trainer`.
        preview_sheet: draws test images and what a model says of them.
    """

    node: str
    evaluator_types: tuple[str, ...]
    count_training_images: Callable[[CfgNode], int]
    build_train_loader: Callable
    build_test_loader: Callable
    build_evaluator: Callable
    preview_sheet: Callable

    def keys(self, cfg: CfgNode) -> CfgNode:
        """Its node in a config."""
        return cfg.MODEL[self.node]


def _count_detection_images(cfg: CfgNode) -> int:
    keep = cfg.DATASETS.TRAIN_ON_DIFFICULT
    dicts = [
        d
        for n in cfg.DATASETS.TRAIN
        for d in flowdet.data.detection.loaders.get_detection_dicts(n, keep)
    ]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    return len(dicts)


def _build_classification_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> ClassificationEvaluator:
    return ClassificationEvaluator(dataset_name)


DETECTION = TaskBuilders(
    "FLOW_DET",
    ("pascal_voc", "coco"),
    _count_detection_images,
    flowdet.data.detection.loaders.build_train_loader,
    flowdet.data.detection.loaders.build_test_loader,
    build_evaluator,
    flowdet.evaluation.detection_previews.preview_sheet,
)
CLASSIFICATION = TaskBuilders(
    "FLOW_CLS",
    ("classification",),
    flowdet.data.classification.loaders.count_training_images,
    flowdet.data.classification.loaders.build_train_loader,
    flowdet.data.classification.loaders.build_test_loader,
    _build_classification_evaluator,
    flowdet.evaluation.classification_previews.preview_sheet,
)


def task_of(cfg: CfgNode) -> TaskBuilders:
    """The task of `MODEL.META_ARCHITECTURE`: whatever is no classifier is a detector.

    Raises:
        KeyError: there is no such meta-architecture.
    """
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return CLASSIFICATION if issubclass(architecture, Classifier) else DETECTION
