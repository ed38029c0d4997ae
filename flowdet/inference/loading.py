"""`flowdet.load`, which loads a trained model from a run folder, config, checkpoint or URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.structures import Instances

from flowdet.config.errors import UsageError
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.evaluation.block_agreement import block_agreement, check_has_blocks
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.detections import (
    Classes,
    Detections,
    ResultList,
    Source,
    Trajectory,
    trajectory_of,
)
from flowdet.inference.download import fetch, is_url, run_urls
from flowdet.inference.image_input import ImageInput, image_record
from flowdet.inference.predictor import Predictor
from flowdet.inference.settings import inference_config

# the options of `inference_config`; other keywords, except `score_threshold`, are config keys
_OPTIONS = ("mode", "steps", "block", "batch_size")


def load(
    config_or_checkpoint: str | Path,
    device: str | None = None,
    weights: str | Path | None = None,
    trust_config: bool = False,
    **overrides: Any,
) -> Detector | ImageClassifier:
    """Loads a trained model that can be called on images.

        detect = flowdet.load("output/digits_demo")
        detections = detect(image)   # uint8 RGB [H, W, 3]; BGR: detect(image, bgr=True)

    Files of a URL are downloaded once and kept in the cache, see `fetch`. No code in the files runs
    (SECURITY.md).

    Args:
        config_or_checkpoint: a run folder, its config.yaml, or a checkpoint (.pth) with a
            config.yaml in the same folder; a path or an http(s) URL. The URL of a folder ends in /.
        device: `cpu`, `cuda`, ...; None takes the device of the config.
        weights: path or URL of a checkpoint. None takes the first that exists of: the checkpoint in
            the first argument, the last checkpoint of the run (for a URL `model_final.pth`), and
            `MODEL.WEIGHTS` of the config.
        trust_config: whether the modules in `IMPORTS` of the config are imported, which runs their
            code.
        overrides: `mode`, `steps`, `block` and `batch_size` (see `inference_config`),
            `score_threshold` of a detector, and keys of the config, e.g.
            `**{"MODEL.FLOW_DET.NMS_THRESHOLD": 0.7}`.

    Raises:
        FileNotFoundError: the file or folder does not exist, there is no config.yaml next to it, or
            a URL cannot be downloaded.
        KeyError: an override is not a key of the config.
        ValueError: an option is unknown or does not apply to the model, or the weights do not fit
            the model, or the config has `IMPORTS` and is not trusted.
    """
    config, checkpoint = _run_files(config_or_checkpoint, weights)
    options = {name: overrides.pop(name) for name in _OPTIONS if name in overrides}
    threshold = overrides.pop("score_threshold", None)
    unknown = [name for name in overrides if name.islower()]
    if unknown:
        raise UsageError(
            f"unknown option {unknown[0]!r}: use {', '.join(_OPTIONS)}, score_threshold or a "
            "config key"
        )
    keys = [x for pair in overrides.items() for x in pair]
    cfg = inference_config(str(config), keys, device=device, trust_config=trust_config, **options)
    if task_of(cfg) is CLASSIFICATION:
        if threshold is not None:
            raise UsageError(f"score_threshold is for detectors, but {config} is for a classifier")
        return ImageClassifier(ClassPredictor(cfg, checkpoint))
    if threshold is not None:
        cfg.MODEL.FLOW_DET.SCORE_THRESHOLD = float(threshold)
    return Detector(Predictor(cfg, checkpoint))


def _run_files(source: str | Path, weights: str | Path | None) -> tuple[Path, str | None]:
    """Returns the local files of a run's config and of the checkpoint to load (None for none)."""
    if is_url(source):
        config_url, checkpoint = run_urls(str(source))
        config = fetch(config_url)
    else:
        config, checkpoint = _local_run_files(Path(source))
    checkpoint = str(weights or checkpoint or "")
    return config, str(fetch(checkpoint)) if is_url(checkpoint) else checkpoint or None


def _local_run_files(path: Path) -> tuple[Path, str | Path]:
    """Finds the config and the checkpoint ("" for none) for a run folder, config or checkpoint."""
    if os.path.isdir(path):
        config = path / "config.yaml"
        if not os.path.isfile(config):
            raise FileNotFoundError(f"folder {path} has no config.yaml: give the folder of a run")
        return config, newest_checkpoint(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no run, config or checkpoint {str(path)!r}")
    if path.suffix in (".yaml", ".yml"):
        return path, newest_checkpoint(path.parent)
    config = path.with_name("config.yaml")
    if not os.path.isfile(config):
        raise FileNotFoundError(
            f"there is no config.yaml in the folder of {path}: give the config, and "
            f"weights={str(path)!r}"
        )
    return config, path


class Detector:
    """A trained detector that can be called on images.

    Attributes:
        predictor: the `Predictor` that runs the model; it also streams results and returns box
            trajectories.
        class_names: the class names by class index.
        category_ids: the category ids by class index, see `Predictor.category_ids`.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.class_names = predictor.class_names

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        bgr: bool = False,
        disagreement: bool = False,
    ) -> Detections | list[Detections]:
        """Detects objects in an image, or in every image of a list or tuple.

        Args:
            images: a path, an array or a PIL image, see
                `flowdet.inference.image_input.image_record`; or a list or tuple of these, of any
                sizes, which is processed in batches of `TEST.BATCH_SIZE`.
            bgr: whether the channels of arrays are in the order BGR (OpenCV), not RGB.
            disagreement: whether to add `box_spread`, `agreement`, `block_boxes` and
                `block_scores`, see `flowdet.evaluation.block_agreement.add_block_agreement`.

        Returns:
            The detections, on the CPU, best first: `pred_boxes` (absolute xyxy in pixels of the
            image), `scores`, `pred_classes` (see `names`) and, if the detector has queries,
            `pred_queries`. `Detections` are detectron2's `Instances`; notebooks show them as a
            picture. For a list or tuple it returns a list.

        Raises:
            OSError: a file cannot be read.
            TypeError: an item is not an image.
            ValueError: an array is not an image, or `disagreement` is True and the model has fewer
                than two flow blocks.
        """
        analyses = []
        if disagreement:
            check_has_blocks(self.predictor.model)
            analyses = [block_agreement]
        records = _records(images, bgr, self.predictor.cfg)
        results = self.predictor(records, analyses=analyses)
        detections = [Detections(x["instances"], Source.of(x, self.predictor)) for x in results]
        return _one_or_all(images, detections)

    def trajectory(self, image: ImageInput, *, bgr: bool = False) -> Trajectory:
        """Detects objects in an image and returns the detections after every step.

        The arguments and errors are those of `__call__`, for a single image.

        Raises:
            ValueError: in addition, the detector has no queries.
        """
        (record,) = _records([image], bgr, self.predictor.cfg)
        return trajectory_of(self.predictor, record)

    def __repr__(self) -> str:
        return _description(self)

    @property
    def category_ids(self) -> list[int | str]:
        return self.predictor.category_ids

    def names(self, instances: Instances) -> list[str]:
        """Returns the class name of every detection."""
        return [self.class_names[index] for index in instances.pred_classes.tolist()]


class ImageClassifier:
    """A trained classifier that can be called on images.

    Attributes:
        predictor: the `ClassPredictor` that runs the model; it also streams results.
        class_names: the class names by class index.
    """

    def __init__(self, predictor: ClassPredictor):
        self.predictor = predictor
        self.class_names = predictor.class_names

    def __call__(
        self, images: ImageInput | Sequence[ImageInput], *, bgr: bool = False
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """Classifies an image, or every image of a list or tuple.

        The arguments and errors are those of `Detector.__call__`, without `disagreement`.

        Returns:
            All class names with their probabilities, most probable first; notebooks show them as a
            picture. For a list or tuple it returns a list.
        """
        results = self.predictor(_records(images, bgr, self.predictor.cfg))
        count = len(self.class_names)
        classes = [
            Classes(self.predictor.top(x, count), Source.of(x, self.predictor)) for x in results
        ]
        return _one_or_all(images, classes)

    def __repr__(self) -> str:
        return _description(self)


def _records(images: ImageInput | Sequence[ImageInput], bgr: bool, cfg: CfgNode) -> list[dict]:
    several = images if isinstance(images, (list, tuple)) else [images]
    value_range = cfg.INPUT.VALUE_RANGE
    return [image_record(image, i, bgr, value_range) for i, image in enumerate(several)]


def _one_or_all(images: ImageInput | Sequence[ImageInput], results: list) -> Any:
    return ResultList(results) if isinstance(images, (list, tuple)) else results[0]


def _description(model: Detector | ImageClassifier) -> str:
    cfg, count = model.predictor.cfg.MODEL, len(model.class_names)
    classes = "1 class" if count == 1 else f"{count} classes"
    return f"{type(model).__name__}({cfg.META_ARCHITECTURE}, {classes}, {cfg.DEVICE})"
