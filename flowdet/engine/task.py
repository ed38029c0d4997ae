"""What differs between detection and classification in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.modeling import META_ARCH_REGISTRY

import flowdet.data.build
import flowdet.detection.samples
import flowdet.flowcls.data
import flowdet.flowcls.samples
from flowdet.detection.evaluation import build_evaluator
from flowdet.flowcls import Classifier
from flowdet.flowcls.evaluator import ClassificationEvaluator


@dataclass(frozen=True)
class Task:
    """How a run reads and evaluates its data.

    Attributes:
        node: name of its config node in `MODEL`.
        evaluator_types: kinds of datasets (in their metadata) that it is for.
        count_training_images: those in an epoch.
        build_train_loader, build_test_loader, build_evaluator: as of `Trainer`.
        sample_sheet: draws test images and what a model says of them.
    """

    node: str
    evaluator_types: tuple[str, ...]
    count_training_images: Callable[[CfgNode], int]
    build_train_loader: Callable
    build_test_loader: Callable
    build_evaluator: Callable
    sample_sheet: Callable

    def keys(self, cfg: CfgNode) -> CfgNode:
        """Its node in a config."""
        return cfg.MODEL[self.node]


def _count_detection_images(cfg: CfgNode) -> int:
    keep = cfg.DATASETS.TRAIN_ON_DIFFICULT
    dicts = [d for n in cfg.DATASETS.TRAIN for d in flowdet.data.build.get_detection_dicts(n, keep)]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    return len(dicts)


def _build_classification_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> ClassificationEvaluator:
    return ClassificationEvaluator(dataset_name)


DETECTION = Task(
    "FLOW_DET",
    ("pascal_voc", "coco"),
    _count_detection_images,
    flowdet.data.build.build_train_loader,
    flowdet.data.build.build_test_loader,
    build_evaluator,
    flowdet.detection.samples.sample_sheet,
)
CLASSIFICATION = Task(
    "FLOW_CLS",
    ("classification",),
    flowdet.flowcls.data.count_training_images,
    flowdet.flowcls.data.build_train_loader,
    flowdet.flowcls.data.build_test_loader,
    _build_classification_evaluator,
    flowdet.flowcls.samples.sample_sheet,
)


def task_of(cfg: CfgNode) -> Task:
    """The task of `MODEL.META_ARCHITECTURE`: whatever is no classifier is a detector.

    Raises:
        KeyError: there is no such meta-architecture.
    """
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return CLASSIFICATION if issubclass(architecture, Classifier) else DETECTION
