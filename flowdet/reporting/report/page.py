"""Writes the page of a report: fills the template with the data of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from detectron2.config import CfgNode
from jinja2 import Environment, PackageLoader, StrictUndefined

import flowdet
from flowdet.config.errors import ConfigError
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.dataset_findings import read_findings
from flowdet.engine.resolve import resolve_model
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.evaluation.matching import IOU_THRESHOLD, SCORE_THRESHOLD
from flowdet.reporting.report.charts import charts
from flowdet.reporting.report.error_pictures import error_pictures
from flowdet.reporting.report.errors import (
    analysis_path,
    error_section,
    saved_detections_file,
    write_analysis,
)
from flowdet.reporting.report.evaluations import metric_groups
from flowdet.reporting.report.explorer import explorer_path, write_report_explorer
from flowdet.reporting.report.gallery import (
    Gallery,
    classification_gallery,
    detection_gallery,
    has_other_classes,
    is_annotated,
    object_counts,
)
from flowdet.reporting.report.summary import (
    class_table,
    headline_metrics,
    mode_table,
    run_facts,
)
from flowdet.reporting.results import write_text
from flowdet.reporting.runs import read_metrics, read_run_config

logger = logging.getLogger(__name__)

T = TypeVar("T")

_OTHER_CLASSES = "The test dataset has other classes than the model."
# the content of the section about errors without them
_NO_ERRORS = {"errors": None, "error_pictures": None, "errors_file": "", "no_errors": ""}


def write_report(
    folder: str | Path, output: str | Path | None = None, images: int | None = None
) -> Path:
    """Writes the report of a run as one HTML file that needs no other file and no network.

    The analysis of the errors of a detector is also written as JSON next to it
    (report_errors.json). With `TEST.REPORT_EXPLORER`, so is the explorer of the best and worst
    images (report_explorer.html), to which the report links. Parts for which the run has no data
    are replaced by a sentence that says so, and both files of an earlier report are then deleted.

    Args:
        folder: the OUTPUT_DIR of a training.
        output: the file to write; None takes `report.html` in `folder`.
        images: the number of test images to evaluate for the best and worst images. None takes
            `TEST.REPORT_IMAGES`; 0 writes a report without images.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError, ValueError: `folder` is not a run, or `images` is negative.
    """
    folder = Path(folder)
    cfg = read_run_config(folder)
    images = cfg.TEST.REPORT_IMAGES if images is None else images
    if images < 0:
        raise ConfigError(
            f"the number of images (TEST.REPORT_IMAGES) must not be negative, got {images}"
        )
    template = _environment().get_template("report.html.jinja")
    path = Path(output or folder / "report.html")
    content = _content(folder, cfg, images, path)
    # those of an earlier report are about other detections or images
    outdated = [] if content["errors_file"] else [analysis_path(path)]
    outdated += [] if content["explorer"] else [explorer_path(path)]
    for file in outdated:
        if file.is_file():
            file.unlink()
            logger.info("%s of an earlier report is deleted: this report has none", file)
    return write_text(path, template.render(content))


def _environment() -> Environment:
    """Returns the template environment. It escapes all text, and an unknown name is an error."""
    return Environment(
        loader=PackageLoader("flowdet.reporting.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _content(folder: Path, cfg: CfgNode, images: int, path: Path) -> dict:
    # the config of a copied run may name a missing device, and old configs lack the class names
    _or_none(lambda: resolve_model(cfg))
    records = _or_none(lambda: read_metrics(folder)) or []
    groups = metric_groups(cfg, records)
    classification = task_of(cfg) is CLASSIFICATION
    names, tests = cfg.MODEL.CLASS_NAMES, cfg.DATASETS.TEST
    others = _OTHER_CLASSES if tests and has_other_classes(tests[0], names) else ""
    gallery, no_gallery = (None, others) if others else _gallery(folder, cfg, images)
    classes = gallery.classes if gallery else None
    if not classification:
        counts = _or_none(lambda: object_counts(cfg)) if tests and not others else None
        classes = class_table(names, counts, records, groups)
    return {
        "name": folder.resolve().name,
        "facts": run_facts(cfg, folder, records),
        "headlines": headline_metrics(records, groups),
        "charts": charts(cfg, records, groups),
        "modes": mode_table(records, groups),
        "classes": classes,
        "classification": classification,
        "findings": _or_none(lambda: read_findings(folder)),
        "gallery": gallery,
        "no_gallery": no_gallery,
        "explorer": _explorer(folder, cfg, gallery, path),
        **(_NO_ERRORS | {"no_errors": others} if others else _errors(folder, cfg, images, path)),
        "score_threshold": SCORE_THRESHOLD,
        "iou_threshold": IOU_THRESHOLD,
        "with_images": images > 0,
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "version": flowdet.__version__,
    }


def _explorer(folder: Path, cfg: CfgNode, gallery: Gallery | None, path: Path) -> str | None:
    """Writes the explorer next to the report; returns its file name, None for no explorer."""
    if not gallery or not gallery.records or not cfg.TEST.REPORT_EXPLORER:
        return None
    run = folder.resolve().name
    return _or_none(
        lambda: write_report_explorer(cfg, newest_checkpoint(folder), gallery, path, run)
    )


def _errors(folder: Path, cfg: CfgNode, images: int, path: Path) -> dict:
    """Returns the section about the errors of a detector, and the sentence shown without it."""
    content = _NO_ERRORS
    saved = saved_detections_file(folder, cfg)
    if saved is None:
        text = "No evaluation has saved detections yet; each writes them to OUTPUT_DIR/inference."
        return content | {"no_errors": text}
    section = _or_none(lambda: error_section(*saved, cfg))
    if section is None:
        return content | {"no_errors": "The saved detections or the test dataset cannot be read."}
    analysis, value_range = section.analysis, cfg.INPUT.VALUE_RANGE
    return content | {
        "errors": section,
        "errors_file": write_analysis(analysis, path).name,
        "error_pictures": _or_none(lambda: error_pictures(analysis, value_range))
        if images
        else None,
    }


def _gallery(folder: Path, cfg: CfgNode, images: int) -> tuple[Gallery | None, str]:
    """Returns the best and the worst images, and the sentence that the page shows without them."""
    checkpoint = _or_none(lambda: newest_checkpoint(folder))
    if not images:
        return None, "This report was written without images."
    if not cfg.DATASETS.TEST:
        return None, "The config has no test dataset."
    if checkpoint == "":
        return None, "There is no checkpoint yet, so no image can be evaluated."
    if not is_annotated(cfg.DATASETS.TEST[0]):
        return None, "The test images have no annotations."
    make = classification_gallery if task_of(cfg) is CLASSIFICATION else detection_gallery
    gallery = _or_none(lambda: make(cfg, checkpoint, images)) if checkpoint else None
    return gallery, "The test images or the checkpoint cannot be read."


def _or_none(make: Callable[[], T]) -> T | None:
    """Calls `make`; returns None and logs a warning if a file is missing or unreadable.

    The rest of the page is written without it. The page itself does not show the error, which may
    name other folders of the machine.
    """
    try:
        return make()
    except (OSError, ValueError, KeyError) as error:
        logger.warning("left out of the report: %s", error)
        return None
