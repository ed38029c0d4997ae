"""`flowdet.evaluate`, which evaluates a trained model and analyses its errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset

from flowdet.data.detection.loaders import check_registered
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.evaluation.error_analysis import ErrorAnalysis, analyze_dataset
from flowdet.evaluation.saved_detections import DetectionRecorder
from flowdet.inference.loading import Detector, ImageClassifier, load
from flowdet.terminal import LoaderWithBar


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        dataset: the name of the dataset.
        metrics: the metrics in percent by name, as in metrics.json, such as "AP50" or "top1"; nan
            for classes without objects.
        errors: the analysis of the errors of a detector; None for a classifier.
    """

    dataset: str
    metrics: dict[str, float]
    errors: ErrorAnalysis | None


def evaluate(
    model: str | Path | Detector | ImageClassifier,
    dataset: str | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluates a trained model on a dataset.

        result = flowdet.evaluate("output/digits_flow")
        result.metrics["AP50"]
        result.errors.tide["missed"].dap     # the AP to gain by finding missed objects

    Args:
        model: what `flowdet.load` returns, or its first argument.
        dataset: the name of a registered dataset with the classes of the model; None takes the
            first of `DATASETS.TEST`.
        options: further arguments of `flowdet.load`, if `model` is a path or URL.

    Raises:
        FileNotFoundError, KeyError: as `flowdet.load`; a file of the dataset does not exist.
        OSError: an image cannot be read.
        ValueError: there is no such dataset, it has other classes, or options are given with a
            loaded model; also as `flowdet.load`.
    """
    if isinstance(model, (Detector, ImageClassifier)):
        if options:
            raise ValueError(f"{', '.join(options)}: give options to flowdet.load")
    else:
        model = load(model, **options)
    predictor = model.predictor
    cfg, task = predictor.cfg, task_of(predictor.cfg)
    if dataset is None:
        if not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST of the config is empty: give the name of a dataset")
        dataset = cfg.DATASETS.TEST[0]
    if Path(dataset).is_dir() and dataset not in DatasetCatalog:
        raise ValueError(
            f"{dataset} is a folder: flowdet.evaluate takes the name of a registered dataset; "
            f"tools/train_net.py --eval-only --data {dataset} evaluates a folder"
        )
    check_registered(dataset)
    _check_classes(dataset, predictor.class_names)
    evaluators: list[DatasetEvaluator] = [task.build_evaluator(cfg, dataset)]
    if task is not CLASSIFICATION:
        evaluators.append(DetectionRecorder(dataset))
    loader = LoaderWithBar(task.build_test_loader(cfg, dataset), f"evaluate {dataset}")
    (metrics,) = inference_on_dataset(predictor.model, loader, evaluators).values()
    errors = None
    if task is not CLASSIFICATION:
        errors = analyze_dataset(evaluators[1].detections())
    return Evaluation(dataset, dict(metrics), errors)


def _check_classes(dataset: str, class_names: list[str]) -> None:
    """Raises ValueError if a dataset has other classes than the model."""
    if MetadataCatalog.get(dataset).get("thing_classes") is None:
        # COCO datasets register their classes when they are read
        DatasetCatalog.get(dataset)
    classes = MetadataCatalog.get(dataset).get("thing_classes")
    if classes is None or list(classes) != class_names:
        raise ValueError(
            f"dataset {dataset!r} has the classes {', '.join(classes or [])}, but the model has "
            f"{', '.join(class_names)}"
        )
