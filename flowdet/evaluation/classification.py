"""Classification accuracy: top-1, top-5 and top-10 of every inference mode."""

from __future__ import annotations

import logging
from collections import OrderedDict

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from flowdet.data.classification.loaders import labels_of

TOP_K = (1, 5, 10)


class ClassificationEvaluator(DatasetEvaluator):
    """Top-k accuracy of every inference mode.

    The labels are looked up in the dataset by image id; the model never gets them.

    Args:
        dataset_name: name of a registered classification dataset.

    Raises:
        FileNotFoundError, ValueError: as `labels_of`.
    """

    def __init__(self, dataset_name: str):
        self._dataset_name = dataset_name
        self._labels = labels_of(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Discards all predictions."""
        self._seen: set = set()
        self._modes: list[str] = []
        self._correct: torch.Tensor | int = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Counts the correct predictions of a batch.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts from a `Classifier`, with `logits` [modes, C] and `modes`, the names of
                the modes.

        Raises:
            ValueError: a logit is not finite.
        """
        logits = torch.stack([output["logits"] for output in outputs]).cpu()
        finite = logits.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            first = inputs[int((~finite).nonzero()[0])]["image_id"]
            raise ValueError(
                f"{self._dataset_name}: the logits of image {first} are not finite: the training "
                "has diverged, lower SOLVER.BASE_LR"
            )
        self._modes = outputs[0]["modes"]
        labels = torch.tensor([self._labels[x["image_id"]] for x in inputs])
        self._seen.update(x["image_id"] for x in inputs)
        self._correct = self._correct + count_correct(logits, labels)

    def evaluate(self) -> OrderedDict | None:
        """Returns {"classification": accuracies in percent}; None except on the main process.

        The keys are "top1", "top5", "top10" for the configured mode, and "top1-MODE", "top5-MODE",
        "top10-MODE" for every mode.

        Raises:
            ValueError: not all images of the dataset were processed.
        """
        parts = comm.gather((self._seen, self._modes, self._correct), dst=0)
        if not comm.is_main_process():
            return None
        seen = set().union(*(part[0] for part in parts))
        if len(seen) != len(self._labels):
            raise ValueError(
                f"{self._dataset_name}: {len(seen)} of {len(self._labels)} images were evaluated"
            )
        modes = next(part[1] for part in parts if part[1])
        accuracies = sum(part[2] for part in parts) * (100 / len(seen))
        results = {f"top{k}": float(accuracies[0, i]) for i, k in enumerate(TOP_K)}
        for mode, row in zip(modes, accuracies.tolist(), strict=True):
            results |= {f"top{k}-{mode}": value for k, value in zip(TOP_K, row)}
        self._log(modes, accuracies.tolist())
        return OrderedDict(classification=results)

    def _log(self, modes: list[str], accuracies: list[list[float]]) -> None:
        # printed here, because detectron2's table leaves out metrics with a hyphen
        headers = ["mode", *(f"top{k}" for k in TOP_K)]
        rows = [[mode, *row] for mode, row in zip(modes, accuracies, strict=True)]
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f")
        logging.getLogger(__name__).info("%s, percent:\n%s", self._dataset_name, table)


def count_correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Counts the images whose label is among the k most probable classes, for k in `TOP_K`.

    Args:
        logits: [B, modes, C].
        labels: [B].

    Returns:
        The counts, [modes, 3]. With at most k classes every image counts as correct.
    """
    label_logits = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
    # equal logits rank before that of the label, so that a constant output has rank C - 1
    rank = (logits >= label_logits).sum(dim=2) - 1
    return torch.stack([(rank < min(k, logits.shape[2])).sum(dim=0) for k in TOP_K], dim=1)
