"""What a training tells about its detection datasets: unsuitable objects, problems and repairs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from detectron2.config import CfgNode

from flowdet.data.custom import dataset_of
from flowdet.data.custom.findings import check_command, finding_lines
from flowdet.data.custom.statistics import config_remarks
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.engine.atomic_file import write_atomically
from flowdet.engine.task_builders import has_queries

__all__ = ["FILE_NAME", "log_dataset_remarks", "read_findings", "save_findings"]

FILE_NAME = "dataset_findings.json"
# examples per kind in the report
_EXAMPLES = 5

logger = logging.getLogger(__name__)


def log_dataset_remarks(cfg: CfgNode) -> None:
    """Logs a warning if objects are too many or too small for the detector of a resolved config."""
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    records = {name: get_detection_dicts(name, keep_difficult=True) for name in names}
    for remark in config_remarks(records, cfg, has_queries(cfg)):
        logger.warning("%s", remark)


def save_findings(cfg: CfgNode, folder: str | Path) -> None:
    """Writes what was left out and repaired in custom datasets to `FILE_NAME`, for the report.

    Nothing is written if there is nothing to tell.
    """
    content = {}
    for name in [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]:
        dataset = dataset_of(name)
        if dataset is None:
            continue
        lists = {"left out": dataset.findings.problems, "repaired": dataset.findings.repairs}
        lines = {
            title: finding_lines(findings, _EXAMPLES, f"{check_command()} lists them")
            for title, findings in lists.items()
            if findings
        }
        notes = [note] if (note := dataset.held_out_note()) else []
        if lines or notes:
            content[str(dataset.folder)] = {"notes": notes, **lines}
    path = Path(folder) / FILE_NAME
    if content:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_atomically(path, lambda file: file.write(text.encode()))
    else:
        path.unlink(missing_ok=True)


def read_findings(folder: str | Path) -> dict[str, dict[str, list[str]]]:
    """Returns the content of `FILE_NAME`: lines by title and folder; {} if there is no file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has another content.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = [lines for titles in content.values() for lines in titles.values()]
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} has no findings of a training: delete it") from error
    if not all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in lists):
        raise ValueError(f"{path} has no findings of a training: delete it")
    return content
