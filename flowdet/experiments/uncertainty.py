"""How sure a detection is: by its score, or by how far several predictions of it agree.

A query keeps its index through every walk, so what other noise, other blocks or earlier steps say
of the same query can be held against a detection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.ops import box_iou
from tqdm import tqdm

from flowdet.data.detection.loaders import build_test_loader, get_detection_dicts
from flowdet.detection import FlowMatchingDetector, SetDetector
from flowdet.detection.boxes import paired_iou, to_corners
from flowdet.detection.set_detector import group_by_size
from flowdet.detection.stability import BoxStability, Refinement
from flowdet.detection.tokens import ImageTokens
from flowdet.evaluation.detection import build_evaluator
from flowdet.reporting.results import method_of

_IOU = 0.5
_BINS = 15
# of `BoxStability`, where the model has none of its own
_NOISE = 0.2


@dataclass
class Confidences:
    """Detections of a whole dataset by one measure of confidence.

    Attributes:
        values: one per detection, in [0, 1].
        right: whether it is the detection of an object (IoU 0.5, of its class, none more
            confident of the same object).
    """

    values: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    def calibration_error(self) -> float:
        """The expected calibration error: the gap between confidence and share of right
        detections, averaged over bins of equal width by their number of detections."""
        values, right = np.array(self.values), np.array(self.right, dtype=float)
        return float(
            sum(
                len(inside) / len(values) * abs(values[inside].mean() - right[inside].mean())
                for inside in self.bins()
            )
        )

    def bins(self) -> list[np.ndarray]:
        """The indices of the detections in each bin that holds any, from unsure to sure."""
        places = np.minimum(np.array(self.values) * _BINS, _BINS - 1).astype(int)
        return [np.flatnonzero(places == b) for b in range(_BINS) if (places == b).any()]

    def error_by_coverage(self) -> np.ndarray:
        """The share of wrong ones among the k most confident, for k = 1, 2, ..."""
        order = np.argsort(-np.array(self.values), kind="stable")
        wrong = 1 - np.array(self.right, dtype=float)[order]
        return wrong.cumsum() / np.arange(1, len(wrong) + 1)

    def metrics(self) -> dict[str, float]:
        """In per cent; `AUROC` of right against wrong, `AURC` the mean of `error_by_coverage`.

        Raises:
            ValueError: there are not both right and wrong ones.
        """
        if len(set(self.right)) < 2:
            raise ValueError(
                f"{sum(self.right)} of {len(self.right)} detections are right: to compare "
                "confidences there must be right and wrong ones. Is the model trained?"
            )
        return {
            "ECE": 100 * self.calibration_error(),
            "AUROC": 100 * float(roc_auc_score(self.right, self.values)),
            "AURC": 100 * float(self.error_by_coverage().mean()),
        }


def votes(
    model: SetDetector, images: int, tokens: ImageTokens, draws: int
) -> tuple[Refinement, dict[str, Tensor]]:
    """What the queries become, and by source what else is said of them, [S, B, M, d].

    `steps`: after every step of the walk, or every layer of backprop; of a flow model also
    `noise`: the same walk from other noise; `blocks`: each of the blocks at the last step.
    """
    refinement = model.refine(tokens, trajectory=True)
    steps = refinement.estimates
    found = {"steps": torch.stack(steps)}
    if isinstance(model, FlowMatchingDetector):
        noise = [
            model.initial_noise(images, model.settings.noise_seed + 1 + i) for i in range(draws)
        ]
        found["noise"] = torch.stack([steps[-1], *(model.solve(tokens, z).z_1 for z in noise)])
        found["blocks"] = model.block_estimates(tokens)
    return refinement, found


def confidence_tables(
    model: SetDetector, refinement: Refinement, by_source: dict[str, Tensor], draws: int
) -> dict[str, Tensor]:
    """By measure of confidence, that of every query in every class, [B, M, C].

    `score`: the probability of the class; `stability`: that times the box's `BoxStability` over so
    many draws; `size`: times the tenth root of its area, which is no measurement of anything but
    what those have in common that favour large boxes; `mean of SOURCE`: its mean over the votes;
    `agreement of SOURCE`: that times the mean IoU of the votes' boxes with the query's own.
    """
    z = refinement.z_1
    logits, boxes = model.heads(z)
    scores = logits.softmax(-1)[..., :-1]
    stability = model.stability or BoxStability(draws, _NOISE, tuple(z.shape[1:])).to(z.device)
    stands = stability(refinement, model.heads.boxes)
    area = boxes[..., 2:].prod(dim=-1)
    tables = {
        "score": scores,
        "stability": scores * stands[..., None],
        "size": scores * area[..., None] ** 0.1,
    }
    for source, vectors in by_source.items():
        logits, others = model.heads(vectors)
        mean = logits.softmax(-1)[..., :-1].mean(dim=0)
        agreement = paired_iou(to_corners(others), to_corners(boxes)).mean(dim=0)
        tables[f"mean of {source}"] = mean
        tables[f"agreement of {source}"] = mean * agreement[..., None]
    return tables


def are_right(instances: Instances, objects: Sequence[dict]) -> list[bool | None]:
    """Of each detection, best first, whether it finds an object; None if that is marked difficult
    or crowd, which counts neither way.

    Args:
        instances: with `pred_boxes`, `scores` and `pred_classes`, best first.
        objects: detectron2's annotations of the image, boxes in absolute xyxy.
    """
    taken, found = set(), []
    boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).reshape(-1, 4)
    overlaps = box_iou(instances.pred_boxes.tensor, boxes)
    for row, name in zip(overlaps, instances.pred_classes.tolist()):
        same = [g for g, o in enumerate(objects) if o["category_id"] == name and row[g] >= _IOU]
        best = max(same, key=lambda g: row[g], default=None)
        if best is not None and (objects[best].get("difficult") or objects[best].get("iscrowd")):
            found.append(None)
        else:
            found.append(best is not None and best not in taken)
            taken.add(best)
    return found


def _detections(
    model: SetDetector, inputs: list[dict], draws: int
) -> Iterator[tuple[dict, Instances, dict[str, Tensor]]]:
    """Every image with its detections and their confidences, by measure."""
    refinement, by_source = votes(model, len(inputs), model.encode(inputs), draws)
    tables = confidence_tables(model, refinement, by_source, draws)
    for i, instances in enumerate(model.detections(refinement.z_1, inputs)):
        place = instances.pred_queries, instances.pred_classes
        yield inputs[i], instances, {name: table[i][place] for name, table in tables.items()}


@torch.no_grad()
def measure(cfg: CfgNode, model: SetDetector, draws: int) -> tuple[list[dict], dict]:
    """Rows of a result file, from one pass over `DATASETS.TEST[0]`, and the `Confidences` by
    measure.

    Args:
        cfg: resolved, of the model.
        model: in evaluation mode, its weights loaded.
        draws: of noise, beside that of inference.

    Raises:
        ValueError: no detection is right, or none is wrong.
    """
    name = cfg.DATASETS.TEST[0]
    truth = {d["image_id"]: d["annotations"] for d in get_detection_dicts(name, True)}
    found: dict[str, Confidences] = {}
    evaluators: dict = {}
    for batch in tqdm(build_test_loader(cfg, name), desc="evaluate", unit="batch"):
        for places in group_by_size(batch):
            for x, instances, by_measure in _detections(model, [batch[i] for i in places], draws):
                right = are_right(instances.to("cpu"), truth[x["image_id"]])
                for measure_name, values in by_measure.items():
                    _note(found.setdefault(measure_name, Confidences()), values, right)
                    if measure_name not in evaluators:
                        evaluators[measure_name] = build_evaluator(cfg, name)
                        evaluators[measure_name].reset()
                    instances.scores = values
                    evaluators[measure_name].process([x], [{"instances": instances}])
    suffix = "-subset" if cfg.TEST.CLASS_SUBSET else ""
    rows = []
    for measure_name, confidences in found.items():
        ap = evaluators[measure_name].evaluate()["bbox"]
        metrics = confidences.metrics() | {key: ap[f"{key}{suffix}"] for key in ("AP50", "AP75")}
        common = {"method": method_of(cfg), "dataset": name, "measure": measure_name}
        count = {"detections": len(confidences.values), "std": None, "n": 1}
        rows += [common | {"metric": k, "mean": round(v, 2)} | count for k, v in metrics.items()]
    return rows, found


def _note(confidences: Confidences, values: Tensor, right: Sequence[bool | None]) -> None:
    for value, hit in zip(values.tolist(), right, strict=True):
        if hit is not None:
            confidences.values.append(value)
            confidences.right.append(hit)


def uncertainty_figure(found: dict[str, Confidences]) -> Figure:
    """Reliability diagram, and the share of wrong detections among the most confident."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, confidences in found.items():
        values, hits = np.array(confidences.values), np.array(confidences.right, dtype=float)
        points = [(values[i].mean(), hits[i].mean()) for i in confidences.bins()]
        width = 2.0 if name == "score" else 1.0
        left.plot(*zip(*points), marker="o", markersize=3, linewidth=width, label=name)
        error = 100 * confidences.error_by_coverage()
        kept = 100 * np.arange(1, len(error) + 1) / len(error)
        right.plot(kept, error, linewidth=width, label=name)
    left.set(xlabel="confidence", ylabel="share of right detections", title="reliability")
    right.set(xlabel="detections kept (%)", ylabel="wrong among them (%)", title="selection")
    # most detections are hardly likely: what matters is at the left
    right.set(xscale="log", xlim=(0.1, 100))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure
