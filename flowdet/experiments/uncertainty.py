"""Compares measures of a detection's confidence: its score, and agreement with other predictions.

A query keeps its index in every run of the blocks. Therefore a detection can be compared with other
predictions for the same query: from other initial noise, other blocks or earlier steps.
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
from flowdet.detection.base_detector import group_by_size
from flowdet.detection.boxes import paired_iou, to_corners
from flowdet.detection.stability import BoxStability, Refinement
from flowdet.detection.tokens import ImageTokens
from flowdet.evaluation.calibration import CalibrationBin, calibration_bins, calibration_error
from flowdet.evaluation.detection import build_evaluator
from flowdet.reporting.results import method_of

_IOU = 0.5
# noise of `BoxStability` for models without box stability
_STABILITY_NOISE = 0.2


@dataclass
class Confidences:
    """The detections of a whole dataset with one measure of their confidence.

    Attributes:
        values: the confidence of every detection, in [0, 1].
        correct: whether the detection is a true positive: it has an IoU of at least 0.5 with an
            object of its class that no detection with a higher score has matched.
    """

    values: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)

    def calibration_error(self) -> float:
        """Computes the expected calibration error in [0, 1]."""
        return calibration_error(self.bins())

    def bins(self) -> list[CalibrationBin]:
        """Returns the detections by confidence, see `calibration_bins`."""
        return calibration_bins(np.array(self.values), np.array(self.correct, dtype=bool))

    def error_by_coverage(self) -> np.ndarray:
        """Computes the share of false positives among the k most confident detections, by k."""
        order = np.argsort(-np.array(self.values), kind="stable")
        wrong = 1 - np.array(self.correct, dtype=float)[order]
        return wrong.cumsum() / np.arange(1, len(wrong) + 1)

    def metrics(self) -> dict[str, float]:
        """Returns `ECE` (see `calibration_error`), `AUROC` of true against false positives, and
        `AURC`, the mean of `error_by_coverage`, all in percent.

        Raises:
            ValueError: there are no true positives, or no false positives.
        """
        if len(set(self.correct)) < 2:
            raise ValueError(
                f"{sum(self.correct)} of {len(self.correct)} detections are true positives: "
                "confidences can be compared only if there are true and false positives: check "
                "that the model is trained"
            )
        return {
            "ECE": 100 * self.calibration_error(),
            "AUROC": 100 * float(roc_auc_score(self.correct, self.values)),
            "AURC": 100 * float(self.error_by_coverage().mean()),
        }


def estimates_by_source(
    model: SetDetector, images: int, tokens: ImageTokens, samples: int
) -> tuple[Refinement, dict[str, Tensor]]:
    """Refines the queries of a batch, and computes several estimates of them from each source.

    Args:
        model: a detector in evaluation mode.
        images: B, the number of images.
        tokens: the encoded images.
        samples: additional samples of z_0.

    Returns:
        The refinement, and the estimates [S, B, M, d] by source. The source `steps` has the
        estimates after every step, or after every layer of a `BackpropDetector`. A flow detector
        has two more sources: `noise`, the final estimates from the usual z_0 and from the
        additional samples; and `blocks`, each block's estimate at the last step.
    """
    refinement = model.refine(tokens, trajectory=True)
    steps = refinement.estimates
    sources = {"steps": torch.stack(steps)}
    if isinstance(model, FlowMatchingDetector):
        noise = [
            model.initial_noise(images, model.settings.noise_seed + 1 + i) for i in range(samples)
        ]
        sources["noise"] = torch.stack([steps[-1], *(model.solve(tokens, z).z_1 for z in noise)])
        sources["blocks"] = model.block_estimates(tokens)
    return refinement, sources


def confidence_measures(
    model: SetDetector, refinement: Refinement, sources: dict[str, Tensor], samples: int
) -> dict[str, Tensor]:
    """Computes the confidence of every query in every class, [B, M, C], by measure.

    - `score` is the probability of the class.
    - `stability` is the score times the `BoxStability` of the box, with `samples` perturbations if
      the model has no box stability.
    - `size` is the score times the tenth root of the box's area. It is a control: it shows how much
      a measure gains only by preferring large boxes.
    - `mean of SOURCE` is the probability averaged over the estimates of a source.
    - `agreement of SOURCE` is this mean times the mean IoU of their boxes with the query's box.
    """
    z = refinement.z_1
    logits, boxes = model.heads(z)
    scores = logits.softmax(-1)[..., :-1]
    box_stability = model.stability or BoxStability(samples, _STABILITY_NOISE, tuple(z.shape[1:]))
    stability = box_stability.to(z.device)(refinement, model.heads.boxes)
    area = boxes[..., 2:].prod(dim=-1)
    measures = {
        "score": scores,
        "stability": scores * stability[..., None],
        "size": scores * area[..., None] ** 0.1,
    }
    for source, estimates in sources.items():
        logits, other_boxes = model.heads(estimates)
        mean = logits.softmax(-1)[..., :-1].mean(dim=0)
        agreement = paired_iou(to_corners(other_boxes), to_corners(boxes)).mean(dim=0)
        measures[f"mean of {source}"] = mean
        measures[f"agreement of {source}"] = mean * agreement[..., None]
    return measures


def true_positive_flags(instances: Instances, objects: Sequence[dict]) -> list[bool | None]:
    """Returns whether each detection is a true positive. The value is None for detections of
    objects marked difficult or crowd, which are not counted.

    Args:
        instances: `pred_boxes`, `scores` and `pred_classes`, sorted by descending score.
        objects: detectron2's annotations of the image, boxes in absolute xyxy.
    """
    matched, flags = set(), []
    boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).reshape(-1, 4)
    overlaps = box_iou(instances.pred_boxes.tensor, boxes)
    for row, label in zip(overlaps, instances.pred_classes.tolist()):
        candidates = [
            g for g, o in enumerate(objects) if o["category_id"] == label and row[g] >= _IOU
        ]
        best = max(candidates, key=lambda g: row[g], default=None)
        if best is not None and (objects[best].get("difficult") or objects[best].get("iscrowd")):
            flags.append(None)
        else:
            flags.append(best is not None and best not in matched)
            matched.add(best)
    return flags


def _detections(
    model: SetDetector, inputs: list[dict], samples: int
) -> Iterator[tuple[dict, Instances, dict[str, Tensor]]]:
    """Yields every image with its N detections and their confidences [N] by measure."""
    refinement, sources = estimates_by_source(model, len(inputs), model.encode(inputs), samples)
    measures = confidence_measures(model, refinement, sources, samples)
    for i, instances in enumerate(model.detections(refinement.z_1, inputs)):
        entries = instances.pred_queries, instances.pred_classes
        yield inputs[i], instances, {name: values[i][entries] for name, values in measures.items()}


@torch.no_grad()
def measure(
    cfg: CfgNode, model: SetDetector, samples: int
) -> tuple[list[dict], dict[str, Confidences]]:
    """Evaluates every measure of confidence in one pass over `DATASETS.TEST[0]`.

    Args:
        cfg: the resolved config of the model.
        model: a detector in evaluation mode, with its weights loaded.
        samples: additional samples of z_0, and perturbations if the model has no box stability.

    Returns:
        Rows of a result file, and the `Confidences` by measure.

    Raises:
        ValueError: there are no true positives, or no false positives.
    """
    dataset = cfg.DATASETS.TEST[0]
    annotations = {d["image_id"]: d["annotations"] for d in get_detection_dicts(dataset, True)}
    by_measure: dict[str, Confidences] = {}
    evaluators: dict = {}
    for batch in tqdm(build_test_loader(cfg, dataset), desc="evaluate", unit="batch"):
        for indices in group_by_size(batch):
            inputs = [batch[i] for i in indices]
            for x, instances, confidences in _detections(model, inputs, samples):
                flags = true_positive_flags(instances.to("cpu"), annotations[x["image_id"]])
                for name, values in confidences.items():
                    _extend(by_measure.setdefault(name, Confidences()), values, flags)
                    if name not in evaluators:
                        evaluators[name] = build_evaluator(cfg, dataset)
                        evaluators[name].reset()
                    instances.scores = values
                    evaluators[name].process([x], [{"instances": instances}])
    suffix = "-subset" if cfg.TEST.CLASS_SUBSET else ""
    rows = []
    for name, confidences in by_measure.items():
        ap = evaluators[name].evaluate()["bbox"]
        metrics = confidences.metrics() | {key: ap[f"{key}{suffix}"] for key in ("AP50", "AP75")}
        common = {"method": method_of(cfg), "dataset": dataset, "measure": name}
        count = {"detections": len(confidences.values), "std": None, "n": 1}
        rows += [common | {"metric": k, "mean": round(v, 2)} | count for k, v in metrics.items()]
    return rows, by_measure


def _extend(confidences: Confidences, values: Tensor, flags: Sequence[bool | None]) -> None:
    """Adds the detections of an image, except those that are not counted."""
    for value, correct in zip(values.tolist(), flags, strict=True):
        if correct is not None:
            confidences.values.append(value)
            confidences.correct.append(correct)


def uncertainty_figure(by_measure: dict[str, Confidences]) -> Figure:
    """Draws a reliability diagram, and the false positives over the share of kept detections."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    for name, confidences in by_measure.items():
        points = [(b.confidence, b.precision) for b in confidences.bins()]
        width = 2.0 if name == "score" else 1.0
        left.plot(*zip(*points), marker="o", markersize=3, linewidth=width, label=name)
        error = 100 * confidences.error_by_coverage()
        kept = 100 * np.arange(1, len(error) + 1) / len(error)
        right.plot(kept, error, linewidth=width, label=name)
    left.set(xlabel="confidence", ylabel="precision", title="reliability")
    right.set(xlabel="detections kept (%)", ylabel="false positives (%)", title="selection")
    # a log scale, because most detections have a very low confidence
    right.set(xscale="log", xlim=(0.1, 100))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure
