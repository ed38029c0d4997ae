"""The page itself: what is there of a run, put into the template."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from detectron2.config import CfgNode
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

import flowdet
from flowdet.engine import FlowDetCheckpointer
from flowdet.engine.resolve import resolve_model
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.evaluation.matching import IOU_THRESHOLD, SCORE_THRESHOLD
from flowdet.reporting.report.charts import charts
from flowdet.reporting.report.evaluations import evaluated
from flowdet.reporting.report.pictures import (
    Gallery,
    classification_gallery,
    detection_gallery,
    object_counts,
)
from flowdet.reporting.report.summary import about, class_table, headlines, mode_table
from flowdet.reporting.results import write_text
from flowdet.reporting.runs import read_metrics, read_run_config

logger = logging.getLogger(__name__)

T = TypeVar("T")


def write_report(
    folder: str | Path, output: str | Path | None = None, images: int | None = None
) -> Path:
    """Writes a run as one HTML file that needs no other file and no network.

    What the run does not have (yet, or any more) is replaced by a sentence that says so.

    Args:
        folder: OUTPUT_DIR of a training.
        output: the file; None is `report.html` in `folder`.
        images: test images that are looked at for the best and the worst; None is
            `TEST.REPORT_IMAGES`, 0 leaves those out.

    Raises:
        FileNotFoundError, ValueError: `folder` is no run, or `images` is negative.
    """
    folder = Path(folder)
    cfg = read_run_config(folder)
    images = cfg.TEST.REPORT_IMAGES if images is None else images
    if images < 0:
        raise ValueError(f"TEST.REPORT_IMAGES must not be negative, got {images}")
    template = _environment().get_template("report.html.jinja")
    html = template.render(_content(folder, cfg, images))
    return write_text(output or folder / "report.html", html)


def _environment() -> Environment:
    """Every text is escaped, and a name that is not there is an error."""
    return Environment(
        loader=PackageLoader("flowdet.reporting.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _content(folder: Path, cfg: CfgNode, images: int) -> dict:
    # the device of another machine, and class names that an old config does not hold
    _if_there(lambda: resolve_model(cfg))
    records = _records(folder)
    found = evaluated(cfg, records)
    classification = task_of(cfg) is CLASSIFICATION
    gallery, no_gallery = _gallery(folder, cfg, images)
    classes = gallery.classes if gallery else None
    if not classification:
        classes = class_table(cfg.MODEL.CLASS_NAMES, _counts(cfg), records, found)
    return {
        "name": folder.resolve().name,
        "about": about(cfg, folder, records),
        "headlines": headlines(records, found),
        "charts": charts(cfg, records, found),
        "modes": mode_table(records, found),
        "classes": classes,
        "classification": classification,
        "gallery": gallery,
        "no_gallery": no_gallery,
        "score_threshold": SCORE_THRESHOLD,
        "iou_threshold": IOU_THRESHOLD,
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "version": flowdet.__version__,
    }


def _records(folder: Path) -> list[dict]:
    return _if_there(lambda: read_metrics(folder)) or []


def _counts(cfg: CfgNode) -> Counter | None:
    return _if_there(lambda: object_counts(cfg)) if cfg.DATASETS.TEST else None


def _gallery(folder: Path, cfg: CfgNode, images: int) -> tuple[Gallery | None, str]:
    """The best and the worst images, or why there are none."""
    run = FlowDetCheckpointer(nn.Identity(), str(folder))
    if not images:
        return None, "Images were left out."
    if not cfg.DATASETS.TEST:
        return None, "The run names no test images."
    if not run.has_checkpoint():
        return None, "There are no weights yet, so that no image can be looked at."
    make = classification_gallery if task_of(cfg) is CLASSIFICATION else detection_gallery
    gallery = _if_there(lambda: make(cfg, run.get_checkpoint_file(), images))
    return gallery, "The test images or the weights are not where they were, or cannot be read."


def _if_there(make: Callable[[], T]) -> T | None:
    """None, and a warning that says why, for files that are gone or unreadable: they must not
    cost the rest of the page, and the names of other folders do not belong into it."""
    try:
        return make()
    except (OSError, ValueError, KeyError) as error:
        logger.warning("left out of the report: %s", error)
        return None
