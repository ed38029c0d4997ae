"""The section of a report that shows where a detector errs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.evaluation.error_analysis import ErrorAnalysis, analyze_saved
from flowdet.evaluation.error_analysis.average_precision import RECALLS
from flowdet.evaluation.error_analysis.breakdowns import Group
from flowdet.evaluation.saved_detections import FILE_NAME
from flowdet.reporting.report.charts import Chart, line_svg
from flowdet.reporting.report.summary import Table, percent
from flowdet.reporting.results import write_text

# the folders to which evaluations of the averaged and of the last weights write
_FOLDERS = {"inference_ema": "averaged weights", "inference": "weights"}
# the number of classes whose curves are shown, and the number of curves per chart
CURVES, CURVES_PER_CHART = 24, 8
# a larger confusion matrix is shown as a list of the most frequent confusions
MATRIX_CLASSES, CONFUSIONS = 25, 25
DESCRIPTIONS = {
    "classification": "right box, wrong class",
    "localisation": "right class, inaccurate box",
    "both": "wrong class and inaccurate box",
    "duplicate": "a second detection of a found object",
    "background": "no object there",
    "missed": "an object that no detection would find if it were mended",
}


@dataclass(frozen=True)
class ErrorType:
    """A row of the table of error types.

    Attributes:
        name: the type.
        description: what it is.
        count: the number of errors.
        dap: the AP that mending them would bring, such as `12.3`.
        share: the same as a share of the largest, in [0, 1].
    """

    name: str
    description: str
    count: str
    dap: str
    share: float


@dataclass(frozen=True)
class ConfusionMatrix:
    """A confusion matrix.

    Attributes:
        names: the class names, and "background".
        rows: the true class and, for every predicted class, the number of detections and their
            share of the row.
    """

    names: list[str]
    rows: list[tuple[str, list[tuple[int, float]]]]


@dataclass(frozen=True, eq=False)
class ErrorSection:
    """The content of the section.

    Attributes:
        analysis: the analysis.
        weights: the weights that were evaluated.
        ap: the average precision.
        types: the error types.
        special: what perfect precision, and what perfect recall would bring.
        charts: precision-recall curves, and the calibration.
        curves: the number of classes with a curve.
        matrix: the confusion matrix; None for many classes.
        confusions: the most frequent confusions of many classes; None for few classes.
        sizes, counts: AP by object size and by number of objects.
        calibration: sentences about the calibration.
    """

    analysis: ErrorAnalysis
    weights: str
    ap: str
    types: list[ErrorType]
    special: tuple[str, str]
    charts: list[Chart]
    curves: int
    matrix: ConfusionMatrix | None
    confusions: Table | None
    sizes: Table
    counts: Table
    calibration: list[str]


def saved_detections_file(folder: Path, cfg: CfgNode) -> tuple[Path, str] | None:
    """Returns the detections that the last evaluation of a run saved for its first test dataset,
    and the kind of weights; None without such a file, and for a classifier."""
    names = cfg.DATASETS.TEST
    if not names or task_of(cfg) is CLASSIFICATION:
        return None
    for name, weights in _FOLDERS.items():
        path = folder.joinpath(name, *names[:1] if names[1:] else (), FILE_NAME)
        if path.is_file():
            return path, weights
    return None


def error_section(path: Path, weights: str, cfg: CfgNode) -> ErrorSection:
    """Analyses saved detections.

    Args:
        path, weights: see `saved_detections_file`.
        cfg: the config of the run.

    Raises:
        OSError, ValueError, KeyError: the file or the dataset cannot be read.
    """
    analysis = analyze_saved(path, cfg.DATASETS.TEST[0])
    few = len(analysis.curves) <= MATRIX_CLASSES
    curves = shown_curves(analysis)
    return ErrorSection(
        analysis=analysis,
        weights=weights,
        ap=percent(analysis.ap50),
        types=error_types(analysis),
        special=(percent(analysis.false_positives), percent(analysis.false_negatives)),
        charts=[*curve_charts(analysis, curves), *calibration_charts(analysis)],
        curves=len(curves),
        matrix=confusion_matrix(analysis) if few else None,
        confusions=None if few else most_frequent_confusions(analysis),
        sizes=group_table("Size of the object", analysis.by_size),
        counts=group_table("Objects in the image", analysis.by_count),
        calibration=[
            f"{name}: {percent(value.error)}" for name, value in analysis.calibration.items()
        ],
    )


def write_analysis(analysis: ErrorAnalysis, report: Path) -> Path:
    """Writes an analysis as JSON next to a report, e.g. report_errors.json; returns its path."""
    text = json.dumps(analysis.to_dict(), indent=1, allow_nan=False)
    return write_text(analysis_path(report), text + "\n")


def analysis_path(report: Path) -> Path:
    """Returns the path of the analysis that belongs to a report."""
    return report.with_name(f"{report.stem}_errors.json")


def error_types(analysis: ErrorAnalysis) -> list[ErrorType]:
    """Tabulates the error types."""
    largest = max((e.dap for e in analysis.tide.values() if e.dap > 0), default=1.0)
    return [
        ErrorType(
            name,
            DESCRIPTIONS[name],
            f"{error.count:,}",
            percent(error.dap),
            # nan without objects
            round(error.dap / largest, 3) if error.dap > 0 else 0.0,
        )
        for name, error in analysis.tide.items()
    ]


def shown_curves(analysis: ErrorAnalysis) -> list[int]:
    """Returns the classes whose curves are shown, by descending AP; of many the lowest AP."""
    classes = [i for i, curve in enumerate(analysis.curves) if curve.precision]
    return sorted(classes, key=lambda i: -analysis.curves[i].ap)[-CURVES:]


# the y axis of a share, with room for a line along an edge
_SHARES = (-0.03, 1.03)


def curve_charts(analysis: ErrorAnalysis, classes: list[int]) -> list[Chart]:
    """Draws the precision-recall curves of classes."""
    charts = []
    for first in range(0, len(classes), CURVES_PER_CHART):
        curves = [analysis.curves[i] for i in classes[first : first + CURVES_PER_CHART]]
        lines = {
            f"{curve.name} ({percent(curve.ap)})": np.array([RECALLS, curve.precision])
            for curve in curves
        }
        part = f", part {first // CURVES_PER_CHART + 1}" if len(classes) > CURVES_PER_CHART else ""
        title = f"Precision by recall{part}"
        aps = ", ".join(f"{curve.name} {percent(curve.ap)}" for curve in curves)
        svg = line_svg(lines, "recall", f"pr{first}", "precision", _SHARES)
        charts.append(Chart(title, f"{title}. Average precision: {aps}.", svg))
    return charts


def calibration_charts(analysis: ErrorAnalysis) -> list[Chart]:
    """Draws the precision by score; an empty list without detections."""
    lines = {
        name: np.array([[b.confidence, b.precision] for b in value.bins]).T
        for name, value in analysis.calibration.items()
        if value.bins
    }
    if not lines:
        return []
    lines["perfectly calibrated"] = np.array([[0.0, 1.0], [0.0, 1.0]])
    svg = line_svg(lines, "score", "calibration", "precision", _SHARES)
    errors = ", ".join(f"{n} {percent(v.error)}" for n, v in analysis.calibration.items())
    title = "Precision by score"
    return [Chart(title, f"{title}. Expected calibration error in percent: {errors}.", svg)]


def confusion_matrix(analysis: ErrorAnalysis) -> ConfusionMatrix:
    """Returns the confusion matrix with the share of each row."""
    names = [*analysis.class_names, "background"]
    rows = [
        (name, [(n, round(n / max(sum(row), 1), 3)) for n in row])
        for name, row in zip(names, analysis.confusion, strict=True)
    ]
    return ConfusionMatrix(names, rows)


def most_frequent_confusions(analysis: ErrorAnalysis) -> Table:
    """Tabulates the largest entries of a confusion matrix that are not true positives."""
    names = [*analysis.class_names, "background"]
    matrix = np.array(analysis.confusion)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:CONFUSIONS]
    rows = [
        [names[true], names[predicted], str(matrix[true, predicted])]
        for true, predicted in zip(*np.unravel_index(order, matrix.shape), strict=True)
        if matrix[true, predicted]
    ]
    return Table(["Object", "Detected as", "Number"], rows)


def group_table(header: str, groups: list[Group]) -> Table:
    """Tabulates the AP of groups of objects."""
    rows = [[g.name, f"{g.objects:,}", f"{g.images:,}", percent(g.ap)] for g in groups]
    return Table([header, "Objects", "Images", "AP50"], rows)
