"""Top-1, top-5 and top-10 accuracy of every inference mode."""

from __future__ import annotations

import logging
from collections import OrderedDict

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from flowdet.data.classification.loaders import labels_of

TOP = (1, 5, 10)


class ClassificationEvaluator(DatasetEvaluator):
    """Counts how often the true class is among the first 1, 5 and 10, mode by mode.

    The labels come from the dataset, by image id: the model never sees them.

    Args:
        dataset_name: registered, with classification records.
    """

    def __init__(self, dataset_name: str):
        self._dataset_name = dataset_name
        self._labels = labels_of(dataset_name)
        self.reset()

    def reset(self) -> None:
        self._seen: set = set()
        self._modes: list[str] = []
        self._hits: torch.Tensor | int = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Counts a batch of a `Classifier`'s outputs.

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
        self._hits = self._hits + hits(logits, labels)

    def evaluate(self) -> OrderedDict | None:
        """{"classification": {...}} in per cent on the main process, None on the others.

        Keys: "top1", "top5", "top10" of the configured mode, and "top1-MODE", ... of every mode.

        Raises:
            ValueError: images were left out, or none was seen.
        """
        parts = comm.gather((self._seen, self._modes, self._hits), dst=0)
        if not comm.is_main_process():
            return None
        seen = set().union(*(part[0] for part in parts))
        if len(seen) != len(self._labels):
            raise ValueError(
                f"{self._dataset_name}: {len(seen)} of {len(self._labels)} images were evaluated"
            )
        modes = next(part[1] for part in parts if part[1])
        shares = sum(part[2] for part in parts) * (100 / len(seen))
        results = {f"top{k}": float(shares[0, i]) for i, k in enumerate(TOP)}
        for mode, row in zip(modes, shares.tolist(), strict=True):
            results |= {f"top{k}-{mode}": value for k, value in zip(TOP, row)}
        self._log(modes, shares.tolist())
        return OrderedDict(classification=results)

    def _log(self, modes: list[str], shares: list[list[float]]) -> None:
        # detectron2 itself prints no metric with a hyphen
        headers = ["mode", *(f"top{k}" for k in TOP)]
        rows = [[mode, *row] for mode, row in zip(modes, shares, strict=True)]
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f")
        logging.getLogger(__name__).info("%s, per cent:\n%s", self._dataset_name, table)


def hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many of B images have their label among the first 1, 5, 10.

    Args:
        logits: [B, modes, C].
        labels: [B].

    Returns:
        [modes, 3]; with fewer than k classes every image counts.
    """
    own = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
    # equal logits count against the image: a model that says nothing finds nothing
    rank = (logits >= own).sum(dim=2) - 1
    return torch.stack([(rank < min(k, logits.shape[2])).sum(dim=0) for k in TOP], dim=1)
