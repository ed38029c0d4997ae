"""Predictor, which runs a trained detector on images, and its base class."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from flowdet.config.errors import ConfigError, UsageError
from flowdet.data.detection.mapper import FlowDatasetMapper
from flowdet.detection import SetDetector
from flowdet.detection.set_detector import ImageAnalysis
from flowdet.engine.category_ids import CategoryId, category_ids_of
from flowdet.engine.checkpoint_notes import take_over_classes
from flowdet.engine.model_builder import build_model
from flowdet.engine.resolve import resolve_model
from flowdet.engine.task_builders import DETECTION, TaskBuilders, task_of
from flowdet.engine.whole_model import NoWeightsError, load_trained
from flowdet.inference.image_input import ImageInput, image_record

# called with the dataset dict of an image that cannot be read, and the error
OnError = Callable[[dict, Exception], None]


class BasePredictor:
    """A trained model and its class names: the base class of `Predictor` and `ClassPredictor`.

    Args:
        cfg: the config of the model. It is copied; device and classes of the copy are resolved.
        weights: the checkpoint of a training; None takes `MODEL.WEIGHTS`.

    Attributes:
        task: the task whose models the class runs.
        model_kind: the name of such models, for messages.
        class_names: the class names by class index. They come from `MODEL.CLASS_NAMES`, which a
            training writes to its config.yaml, or else from the checkpoint, or else from the
            dataset. They are numbers if the config names no dataset.
        model: the model. It has the averaged weights if the checkpoint contains them and
            `SOLVER.EMA_DECAY` is not 0.
        cfg: the resolved config.
        averaged: whether the model has the averaged weights.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: the checkpoint does not contain the whole model, the model is for another task,
            or the config is invalid.
    """

    task: TaskBuilders
    model_kind: str

    def __init__(self, cfg: CfgNode, weights: str | None = None):
        self.cfg = cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
        self._check(cfg)
        self._adjust(cfg)
        take_over_classes(cfg)
        resolve_model(cfg)
        cfg.freeze()
        self.class_names = list(cfg.MODEL.CLASS_NAMES)
        model = build_model(cfg)
        average = load_trained(cfg, model, cfg.MODEL.WEIGHTS)
        self.averaged = average is not None
        self.model = (average.module if self.averaged else model).eval()

    def _check(self, cfg: CfgNode) -> None:
        if task_of(cfg) is not self.task:
            raise UsageError(
                f"a {type(self).__name__} runs {self.model_kind}, but the model of the config is a "
                f"{cfg.MODEL.META_ARCHITECTURE}"
            )
        if not cfg.MODEL.WEIGHTS:
            raise NoWeightsError("no weights are given (--weights), and MODEL.WEIGHTS is empty")
        if cfg.TEST.BATCH_SIZE < 1:
            raise ConfigError(f"TEST.BATCH_SIZE must be at least 1, got {cfg.TEST.BATCH_SIZE}")

    def _adjust(self, cfg: CfgNode) -> None:
        """Sets config keys for inference on single images, in place."""

    def _prepare_all(
        self, records: list[dict], prepare: Callable[[dict], Any], on_error: OnError | None
    ) -> list[tuple[dict, Any]]:
        """Returns every record with its model input; calls `on_error` for unreadable images."""
        prepared = []
        for record in records:
            try:
                prepared.append((record, prepare(record)))
            except (OSError, ValueError) as error:
                if on_error is None:
                    raise
                on_error(record, error)
        return prepared

    def _batches(self, images: Iterable[ImageInput]) -> Iterator[list[dict]]:
        """Yields lists of `TEST.BATCH_SIZE` dataset dicts; iterates over `images` lazily."""
        value_range = self.cfg.INPUT.VALUE_RANGE
        records = (
            image_record(image, i, value_range=value_range) for i, image in enumerate(images)
        )
        while batch := list(itertools.islice(records, self.cfg.TEST.BATCH_SIZE)):
            yield batch


class Predictor(BasePredictor):
    """Runs a trained detector, with the preprocessing of evaluation.

        predictor = Predictor(load_config("run/config.yaml"), "run/model_final.pth")
        for result in predictor(["a.jpg", "b.png"]):
            print(result["file_name"], result["instances"].pred_boxes)

    It has the arguments, attributes and errors of `BasePredictor`.
    """

    task = DETECTION
    model_kind = "detectors"

    def __init__(self, cfg: CfgNode, weights: str | None = None):
        super().__init__(cfg, weights)
        self.mapper = FlowDatasetMapper(self.cfg, is_train=False)

    def _adjust(self, cfg: CfgNode) -> None:
        # every image is processed only once, so cached features would never be read
        cfg.MODEL.FLOW_DET.FEATURE_CACHE_GIB = 0.0

    def __call__(
        self,
        images: Iterable[ImageInput],
        trajectory: bool = False,
        analyses: Sequence[ImageAnalysis] = (),
    ) -> list[dict]:
        """Detects objects in any number of images of any sizes.

        Args:
            images: see `flowdet.inference.image_input.image_record`.
            trajectory: whether to return also the detections decoded after every step.
            analyses: callbacks that add values to the results, such as
                `flowdet.visualization.box_trajectory.box_trajectory`.

        Returns:
            For every image, in order, a dict with `file_name`, `image_id` (by default the stem of
            the file name), `height` and `width` (pixels) and `instances`. The instances are on the
            CPU, best first, with `pred_boxes` (absolute xyxy in pixels of the original image after
            its EXIF rotation), `scores`, `pred_classes` and, if the detector has queries,
            `pred_queries`. The dict of an image in memory also has `pixels`, uint8 RGB [H, W, 3].
            With `trajectory` it has `trajectory`, a list of instances, one per step. The values of
            the analyses are merged into the dict.

        Raises:
            OSError: an image cannot be read; the message names it.
            TypeError: an item is not an image.
            ValueError: an array or dict is not an image, the model returns no boxes, or a
                trajectory or analysis is requested of a model that is not a `SetDetector`.
        """
        return list(self.stream(images, trajectory, analyses))

    def stream(
        self,
        images: Iterable[ImageInput],
        trajectory: bool = False,
        analyses: Sequence[ImageAnalysis] = (),
        on_error: OnError | None = None,
    ) -> Iterator[dict]:
        """Like `__call__`, but yields results batch by batch (`TEST.BATCH_SIZE` images each).

        Args:
            images, trajectory, analyses: see `__call__`.
            on_error: called with the dataset dict and the OSError or ValueError of every image that
                cannot be read. The image is left out. None raises the error.
        """
        if trajectory or analyses:
            self._check_trajectory()
        for records in self._batches(images):
            batch = [x for _, x in self._prepare_all(records, self._prepare, on_error)]
            if batch:
                yield from self._run(batch, trajectory, analyses)

    def _prepare(self, record: dict) -> dict:
        """Prepares the model input for an image; adds `pixels` if the image is in memory."""
        if "image" not in record:
            return self.mapper(record)
        pixels = record["image"]
        return {**record, **self.mapper.map_pixels(pixels), "pixels": pixels}

    @cached_property
    def category_ids(self) -> list[CategoryId]:
        """The category id of every class in JSON files, by class index; see `MODEL.CATEGORY_IDS`.

        Raises:
            ValueError: the config of an earlier run has no ids, and its dataset is missing.
        """
        return category_ids_of(self.cfg)

    @property
    def trajectory_times(self) -> list[float]:
        """The time t after every step of a trajectory."""
        self._check_trajectory()
        return self.model.trajectory_times

    def _check_trajectory(self) -> None:
        if not isinstance(self.model, SetDetector):
            raise UsageError(
                f"a {type(self.model).__name__} has no trajectory and takes no analyses: leave "
                "them out"
            )

    @torch.no_grad()
    def _run(
        self, batch: list[dict], trajectory: bool, analyses: Sequence[ImageAnalysis]
    ) -> list[dict]:
        if trajectory or analyses:
            outputs = self.model.inference(batch, trajectory, analyses)
        else:
            outputs = self.model(batch)
        results = []
        for x, output in zip(batch, outputs, strict=True):
            if "instances" not in output:
                raise ValueError(f"a {type(self.model).__name__} returns no boxes: use a detector")
            kept = ("file_name", "image_id", "height", "width", "pixels", "value_range")
            result = {**output, **{key: x[key] for key in kept if key in x}}
            result["instances"] = output["instances"].to("cpu")
            if trajectory:
                result["trajectory"] = [step.to("cpu") for step in output["trajectory"]]
            results.append(result)
        return results

    def coco_results(
        self, result: dict, category_ids: Sequence[CategoryId] | None = None
    ) -> list[dict]:
        """Converts the detections of one result to COCO's result format, for JSON.

        `bbox` is [x, y, width, height] in pixels of the original image. With the analysis
        `block_agreement` the rows also have `box_spread` and `agreement`.

        Args:
            result: a result of `__call__` or `stream`.
            category_ids: the value of `category_id` by class index; None takes `category_ids` of
                the predictor.

        Raises:
            ValueError: as `category_ids`.
        """
        ids = self.category_ids if category_ids is None else category_ids
        instances = result["instances"]
        boxes = BoxMode.convert(
            instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
        ).tolist()
        classes = instances.pred_classes.tolist()
        rows = [
            {
                "image_id": result["image_id"],
                "file_name": result["file_name"],
                "category_id": ids[index],
                "category_name": self.class_names[index],
                "bbox": [round(x, 2) for x in box],
                "score": round(score, 5),
            }
            for box, index, score in zip(boxes, classes, instances.scores.tolist(), strict=True)
        ]
        for name in ("box_spread", "agreement"):
            if instances.has(name):
                for row, value in zip(rows, instances.get(name).tolist()):
                    row[name] = round(value, 5)
        return rows
