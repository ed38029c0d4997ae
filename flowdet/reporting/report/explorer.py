"""Writes the explorer that a report links to."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode

from flowdet.detection import SetDetector
from flowdet.evaluation.matching import SCORE_THRESHOLD
from flowdet.inference.explorer import write_explorer
from flowdet.inference.explorer_truth import annotated_boxes
from flowdet.inference.predictor import Predictor
from flowdet.reporting.report.gallery import Gallery


def explorer_path(report: Path) -> Path:
    """Returns the path of the explorer that belongs to a report."""
    return report.with_name(f"{report.stem}_explorer.html")


def write_report_explorer(
    cfg: CfgNode, weights: str, gallery: Gallery, report: Path, run: str
) -> str | None:
    """Writes the explorer of the best and worst images next to the report.

    Args:
        cfg: the config of a detector.
        weights: its checkpoint.
        gallery: the best and worst images.
        report: the path of the report.
        run: the name of the run.

    Returns:
        The name of the file; None for a detector without queries, which has no trajectory.

    Raises:
        OSError, ValueError: the weights or the images cannot be read, or the page cannot be
            written.
    """
    predictor = Predictor(cfg, weights)
    if not isinstance(predictor.model, SetDetector):
        return None
    path = explorer_path(report)
    count, _ = write_explorer(
        predictor,
        gallery.records,
        path,
        title=f"{run}: best and worst images",
        ground_truth=lambda record: annotated_boxes(record, predictor.class_names),
        threshold=SCORE_THRESHOLD,
    )
    return path.name if count else None
