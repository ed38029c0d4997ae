"""ClassPredictor: runs a trained classifier on images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from flowdet.data.classification.images import model_input
from flowdet.data.custom.findings import one_line
from flowdet.engine.task_builders import CLASSIFICATION
from flowdet.inference.image_input import ImageInput
from flowdet.inference.predictor import BasePredictor, OnError


class ClassPredictor(BasePredictor):
    """Runs a trained classifier, with the preprocessing of evaluation.

        predictor = ClassPredictor(load_config("run/config.yaml"), "run/model_final.pth")
        for result in predictor(["a.jpg", "b.png"]):
            print(result["file_name"], predictor.top(result, 5))

    It has the arguments, attributes and errors of `BasePredictor`.
    """

    task = CLASSIFICATION
    model_kind = "classifiers"

    def __call__(self, images: Iterable[ImageInput]) -> list[dict]:
        """Predicts the class probabilities of any number of images of any sizes.

        Args:
            images: see `flowdet.inference.image_input.image_record`.

        Returns:
            For every image, in order, a dict with `file_name`, `image_id` (by default the stem of
            the file name) and `probabilities` ([C], on the CPU, in the configured inference mode).
            The dict of an image in memory also has `pixels`, uint8 RGB [H, W, 3]; that of a file
            has `value_range`, if `INPUT.VALUE_RANGE` is set, with which it can be read again.

        Raises:
            OSError: an image cannot be read; the message names it.
            TypeError: an item is not an image.
            ValueError: an array or dict is not an image, or the model's logits are not finite.
        """
        return list(self.stream(images))

    def stream(
        self, images: Iterable[ImageInput], on_error: OnError | None = None
    ) -> Iterator[dict]:
        """Like `__call__`, but yields results batch by batch (`TEST.BATCH_SIZE` images each).

        Args:
            images: see `__call__`.
            on_error: called with the dataset dict and the OSError or ValueError of every image that
                cannot be read. The image is left out. None raises the error.
        """
        for records in self._batches(images):
            batch = self._prepare_all(records, lambda x: self.preprocess([x])[0], on_error)
            if not batch:
                continue
            outputs = self.model.inference([{"image": x} for _, x in batch], all_modes=False)
            for (record, _), output in zip(batch, outputs, strict=True):
                yield _result(record, output["logits"][0].cpu(), self.cfg.INPUT.VALUE_RANGE)

    def preprocess(self, records: list[dict]) -> Tensor:
        """Reads images and preprocesses them in the same way as the test loader.

        Args:
            records: B dicts with `image_id`, and `image` or `file_name`.

        Returns:
            uint8 [B, 3, H, W] of size `INPUT.FIXED_SIZE`, channels in `INPUT.FORMAT`.
        """
        size = tuple(self.cfg.INPUT.FIXED_SIZE)
        return model_input(records, size, self.cfg.INPUT.FORMAT, self.cfg.INPUT.VALUE_RANGE)

    def top(self, result: dict, k: int) -> list[tuple[str, float]]:
        """Returns the k most probable classes of a result with their probabilities, best first, or
        all classes if there are fewer than k."""
        best = result["probabilities"].topk(min(k, len(self.class_names)))
        names = [self.class_names[index] for index in best.indices.tolist()]
        return list(zip(names, best.values.tolist()))

    def text(self, result: dict, k: int) -> str:
        """Formats the name of an image and its k most probable classes, one per line.

        Control characters in names are escaped.
        """
        top = self.top(result, k)
        lines = [f"{100 * probability:6.1f} %  {one_line(name)}" for name, probability in top]
        return "\n".join([one_line(result["file_name"]), *lines])

    def json_row(self, result: dict, k: int) -> dict:
        """Converts a result to a JSON object with `file_name`, `image_id` and `top`: the k most
        probable classes, each with `class` and `probability`."""
        top = [{"class": name, "probability": round(p, 6)} for name, p in self.top(result, k)]
        return {"file_name": result["file_name"], "image_id": result["image_id"], "top": top}


def _result(record: dict, logits: Tensor, value_range: Sequence[float]) -> dict:
    if not logits.isfinite().all():
        raise ValueError(f"the model's logits for image {record['file_name']} are not finite")
    result = {
        "file_name": record["file_name"],
        "image_id": record["image_id"],
        "probabilities": logits.softmax(dim=0),
    }
    if "image" in record:
        return {**result, "pixels": record["image"]}
    return {**result, "value_range": tuple(value_range)} if value_range else result
