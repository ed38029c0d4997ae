"""Saves the detections of an evaluation, for the analysis of their errors without inference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from flowdet.temporary_file import temporary_file

# the file in the folder of an evaluation, such as OUTPUT_DIR/inference
FILE_NAME = "detections.npz"


@dataclass(frozen=True, eq=False)
class SavedDetections:
    """All N detections of a model in the images of a dataset, in any order.

    Attributes:
        dataset: the name of the dataset.
        image_ids: the ids of all evaluated images, also of those without detections.
        images: the index of each detection's image in `image_ids`, int64 [N].
        boxes: absolute xyxy in pixels, float32 [N, 4].
        classes: class indices, int64 [N].
        scores: float32 [N].
        stability: the box stability by which the scores have been multiplied, float32 [N]; None if
            the model has none.
    """

    dataset: str
    image_ids: list[int | str]
    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    stability: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Writes a NumPy archive (npz). An interrupted call leaves an earlier file as it was."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name) for name in ("images", "boxes", "classes", "scores")}
        if self.stability is not None:
            arrays["stability"] = self.stability
        # JSON, because ids can be numbers and texts
        description = json.dumps({"dataset": self.dataset, "image_ids": self.image_ids})
        with temporary_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, description=np.array(description), **arrays)

    @classmethod
    def load(cls, path: Path) -> SavedDetections:
        """Reads the archive of `save`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is damaged or incomplete.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                # numpy's savez does not compress, and a small file could fill the memory
                if sum(x.file_size for x in file.zip.infolist()) > path.stat().st_size:
                    raise _UnexpectedContent("it is compressed")
                description = json.loads(str(file["description"]))
                names = ("images", "boxes", "classes", "scores", "stability")
                loaded = cls(**description, **{name: file[name] for name in names if name in file})
            loaded._check()
        except FileNotFoundError:
            raise
        # numpy, zipfile and json raise nearly every exception for a damaged file
        except Exception as error:
            reason = error if isinstance(error, _UnexpectedContent) else type(error).__name__
            raise ValueError(
                f"{path} has no detections that can be read ({reason}): evaluate again"
            ) from error
        return loaded

    def _check(self) -> None:
        """Raises an error for values that `save` does not write."""
        shares = [self.scores, *([] if self.stability is None else [self.stability])]
        integers, ids = (self.images, self.classes), self.image_ids
        count = len(self.scores)
        columns = all(x.shape == (count,) for x in (*integers, *shares))
        types = [x.dtype == np.int64 for x in integers]
        types += [x.dtype == np.float32 for x in (*shares, self.boxes)]
        _expect(columns and self.boxes.shape == (count, 4) and all(types), "other arrays")
        is_id = [isinstance(x, (int, str)) and not isinstance(x, bool) for x in ids]
        _expect(all(is_id) and isinstance(self.dataset, str), "other names")
        _expect(len(set(ids)) == len(ids), "an image is listed twice")
        _expect(_in_range(self.images, 0, len(ids) - 1), "an image is not listed")
        _expect(_in_range(self.classes, 0, 2**31 - 1), "a class index is out of range")
        # the mean of IoUs can be rounded up
        _expect(all(_in_range(x, 0, 1.001) for x in shares), "a score is not in [0, 1]")
        _expect(bool(np.isfinite(self.boxes).all()), "a box is not finite")
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        _expect(bool((sides >= 0).all()), "a box has a negative size")


class _UnexpectedContent(ValueError):
    """The content of a file is not that which `SavedDetections.save` writes."""


def _expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise _UnexpectedContent(otherwise)


def _in_range(x: np.ndarray, low: float, high: float) -> bool:
    return bool((x >= low).all() and (x <= high).all())


class DetectionRecorder(DatasetEvaluator):
    """Collects detections; an evaluator without metrics, for use next to another one.

    Args:
        dataset_name: name of the dataset.
        output_folder: `evaluate` writes `detections.npz` into it; None writes no file.
    """

    def __init__(self, dataset_name: str, output_folder: str | None = None):
        self._dataset_name = dataset_name
        self._output_folder = output_folder
        self.reset()

    def reset(self) -> None:
        """Discards all detections."""
        self._image_ids: list[int | str] = []
        self._parts: list[dict[str, np.ndarray]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Stores the detections of a batch.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `instances`: `pred_boxes` (absolute xyxy), `scores`, `pred_classes`
                and, if scores have been multiplied by it, `stability`.
        """
        for record, output in zip(inputs, outputs, strict=True):
            self._image_ids.append(record["image_id"])
            self._parts.append(_arrays(output["instances"].to("cpu")))

    def evaluate(self) -> None:
        """Gathers the detections of all processes in the main process, and writes the file."""
        gathered = comm.gather((self._image_ids, self._parts), dst=0)
        if not comm.is_main_process():
            return
        self._image_ids = [i for ids, _ in gathered for i in ids]
        self._parts = [part for _, parts in gathered for part in parts]
        if self._output_folder:
            self.detections().save(Path(self._output_folder) / FILE_NAME)

    def detections(self) -> SavedDetections:
        """Returns the detections; after `evaluate` the main process has those of all processes."""
        counts = [len(part["scores"]) for part in self._parts]
        parts = [_arrays(Instances((1, 1))), *self._parts]
        # an image without detections may lack the stability
        has_stability = any("stability" in part for part, n in zip(self._parts, counts) if n)
        names = ["boxes", "classes", "scores", *["stability"] * has_stability]
        arrays = {name: np.concatenate([p[name] for p in parts if name in p]) for name in names}
        images = np.repeat(np.arange(len(counts)), counts)
        return SavedDetections(self._dataset_name, list(self._image_ids), images, **arrays)


def _arrays(instances: Instances) -> dict[str, np.ndarray]:
    """Returns the fields of instances as arrays; without detections, empty ones."""
    if not len(instances.get_fields()):
        empty = np.zeros(0, np.float32)
        return {"boxes": empty.reshape(0, 4), "classes": empty.astype(np.int64), "scores": empty}
    arrays = {
        "boxes": instances.pred_boxes.tensor.float().numpy(),
        "classes": instances.pred_classes.numpy().astype(np.int64),
        "scores": instances.scores.float().numpy(),
    }
    if instances.has("stability"):
        arrays["stability"] = instances.stability.float().numpy()
    return arrays
