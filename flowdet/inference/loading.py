"""`flowdet.load`: a trained model by its run folder, config or checkpoint, ready to be called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import Instances

from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.evaluation.block_agreement import block_agreement as ask_blocks
from flowdet.evaluation.block_agreement import check_has_blocks
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.image_input import ImageInput, image_record
from flowdet.inference.predictor import Predictor
from flowdet.inference.settings import inference_config

# overrides by a short name; all others are keys of the config
_SHORT = ("mode", "steps", "block", "batch_size")


def load(
    config_or_checkpoint: str | Path,
    device: str | None = None,
    weights: str | Path | None = None,
    **overrides: Any,
) -> Detector | ImageClassifier:
    """A trained model, to be called on images.

        detect = flowdet.load("output/digits_demo")
        instances = detect(image)   # uint8 RGB [H, W, 3]; BGR: detect(image, bgr=True)

    Args:
        config_or_checkpoint: the folder of a run, its config.yaml, or a checkpoint (.pth) beside
            such a config.yaml.
        device: `cpu`, `cuda`, ...; None takes that of the config.
        weights: a checkpoint; None takes the one that is given, else the last of the run, else
            `MODEL.WEIGHTS`.
        overrides: `mode`, `steps`, `block` (see `inference_config`), `batch_size`,
            `score_threshold` of a detector, and keys of the config, as in
            `**{"MODEL.FLOW_DET.NMS_THRESHOLD": 0.7}`.

    Raises:
        FileNotFoundError: there is no such file or folder, or no config in it or beside it.
        KeyError: an override is no key.
        ValueError: a setting is unknown or does not fit the model, or the weights do not.
    """
    config, found = _find(Path(config_or_checkpoint))
    short = {name: overrides.pop(name) for name in _SHORT if name in overrides}
    threshold = overrides.pop("score_threshold", None)
    unknown = [name for name in overrides if name.islower()]
    if unknown:
        raise ValueError(
            f"unknown setting {unknown[0]!r}: use {', '.join(_SHORT)}, score_threshold or a key of "
            "the config"
        )
    keys = [x for pair in overrides.items() for x in pair]
    cfg = inference_config(str(config), keys, device=device, **short)
    path = str(weights or found or "") or None
    if task_of(cfg) is CLASSIFICATION:
        if threshold is not None:
            raise ValueError(f"score_threshold is for detectors, and {config} is a classifier's")
        return ImageClassifier(ClassPredictor(cfg, path))
    if threshold is not None:
        cfg.MODEL.FLOW_DET.SCORE_THRESHOLD = float(threshold)
    return Detector(Predictor(cfg, path))


def _find(path: Path) -> tuple[Path, Path | None]:
    """A config, and the checkpoint that belongs to it, if there is one."""
    if path.is_dir():
        config = path / "config.yaml"
        if not config.is_file():
            raise FileNotFoundError(f"folder {path} holds no config.yaml: give the one of a run")
        return config, _last_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no run, config or checkpoint {str(path)!r}")
    if path.suffix in (".yaml", ".yml"):
        return path, _last_checkpoint(path.parent)
    config = path.with_name("config.yaml")
    if not config.is_file():
        raise FileNotFoundError(
            f"there is no config.yaml beside {path}: give the config, and weights={str(path)!r}"
        )
    return config, path


def _last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a training has written last into its folder."""
    note = folder / "last_checkpoint"
    name = note.read_text().strip() if note.is_file() else "model_final.pth"
    return folder / name if (folder / name).is_file() else None


class Detector:
    """A trained detector, to be called on images.

    Attributes:
        predictor: does the work; it also streams, and keeps the states of the transport.
        class_names: by class index.
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
    ) -> Instances | list[Instances]:
        """The detections in an image, or a list of them for a list (or tuple) of images.

        Args:
            images: uint8 arrays [H, W, 3] or grey [H, W], paths or PIL images, of any sizes;
                `TEST.BATCH_SIZE` at a time.
            bgr: the channels of arrays are blue, green, red, as OpenCV has them, not RGB.
            disagreement: add how far the flow blocks disagree, see
                `flowdet.evaluation.block_agreement.disagree`.

        Returns:
            On the CPU, best first: `pred_boxes` (absolute xyxy in pixels of the image), `scores`,
            `pred_classes` (see `names`) and `pred_queries`.

        Raises:
            OSError: a file cannot be read.
            TypeError, ValueError: something is no image, or the model has no blocks to disagree.
        """
        analyses = []
        if disagreement:
            check_has_blocks(self.predictor.model)
            analyses = [ask_blocks]
        results = self.predictor(_records(images, bgr), analyses=analyses)
        return _one_or_all(images, [result["instances"] for result in results])

    def names(self, instances: Instances) -> list[str]:
        """The names of the classes of detections."""
        return [self.class_names[index] for index in instances.pred_classes.tolist()]


class ImageClassifier:
    """A trained classifier, to be called on images; attributes as of `Detector`."""

    def __init__(self, predictor: ClassPredictor):
        self.predictor = predictor
        self.class_names = predictor.class_names

    def __call__(
        self, images: ImageInput | Sequence[ImageInput], *, bgr: bool = False
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """All classes with their probabilities, likeliest first, of an image or of each of a list.

        Arguments and errors are those of a `Detector`.
        """
        results = self.predictor(_records(images, bgr))
        count = len(self.class_names)
        return _one_or_all(images, [self.predictor.top(result, count) for result in results])


def _records(images: ImageInput | Sequence[ImageInput], bgr: bool) -> list[dict]:
    several = images if isinstance(images, (list, tuple)) else [images]
    return [image_record(image, i, bgr) for i, image in enumerate(several)]


def _one_or_all(images: ImageInput | Sequence[ImageInput], answers: list) -> Any:
    return answers if isinstance(images, (list, tuple)) else answers[0]
