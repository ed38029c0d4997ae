"""Reads a whole dataset with its images and lists all findings and unusual facts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowdet.data.custom.dataset import CustomDataset
from flowdet.data.custom.findings import Finding, Findings
from flowdet.data.custom.image_headers import read_error
from flowdet.data.custom.notes import dataset_notes, split_notes
from flowdet.data.custom.raw import ClassList
from flowdet.data.image_reader import read_image
from flowdet.terminal import image_bar

__all__ = ["DatasetCheck", "check_dataset"]

# a progress bar is shown if there are more images
_MAX_QUIET = 1000


@dataclass
class DatasetCheck:
    """The result of checking a dataset.

    Attributes:
        format: the name of the format, such as "VOC".
        evaluator_type: detectron2's `evaluator_type`, "pascal_voc" or "coco".
        classes: the classes of the dataset.
        records: dataset dicts by split, without entries that have problems; boxes are absolute xyxy
            in pixels.
        annotated: the splits that have annotations.
        problems: the errors in the dataset.
        repairs: harmless errors that are repaired.
        remarks: sentences about facts that are allowed but may be unintended.
    """

    format: str
    evaluator_type: str
    classes: ClassList
    records: dict[str, list[dict]]
    annotated: set[str]
    problems: list[Finding]
    repairs: list[Finding]
    remarks: list[str]

    @property
    def class_names(self) -> list[str]:
        return list(self.classes.names)


def check_dataset(
    folder: str | Path,
    open_images: bool = True,
    value_range: Sequence[float] = (),
    **settings,
) -> DatasetCheck:
    """Reads all splits of a dataset and collects its problems.

    Args:
        folder: the folder of the dataset.
        open_images: whether every image is decoded too.
        value_range: `INPUT.VALUE_RANGE`, for images that are not 8-bit.
        settings: further arguments of `CustomDataset`, except `on_problem`.

    Raises:
        FileNotFoundError, ValueError: as `find_layout`, because without a layout the splits are
            unknown.
    """
    dataset = CustomDataset(folder, "list", open_images=open_images, **settings)
    contents = {split: dataset.read(split) for split in dataset.splits}
    records = {split: content.records for split, content in contents.items()}
    # with the images that are left out below
    unusual = split_notes(records, dataset.class_names)
    if open_images:
        records = {
            split: _readable(split_records, value_range, dataset.findings)
            for split, split_records in records.items()
        }
    held_out = dataset.held_out_note()
    remarks = [held_out] if held_out else []
    remarks += dataset_notes(records, dataset.classes)
    remarks += unusual
    return DatasetCheck(
        dataset.layout.format.name,
        dataset.layout.format.evaluator_type,
        dataset.classes,
        records,
        {split for split, content in contents.items() if content.annotated},
        dataset.findings.problems,
        dataset.findings.repairs,
        remarks,
    )


def _readable(
    records: Sequence[dict], value_range: Sequence[float], findings: Findings
) -> list[dict]:
    """Decodes the images of dataset dicts; reports unreadable ones and leaves them out.

    Returns:
        The other dicts, with `value_range`, which drawing an image reads.
    """
    with ThreadPoolExecutor() as pool:
        read = partial(_read_error, value_range=value_range)
        errors = pool.map(read, [record["file_name"] for record in records])
        errors = list(image_bar(errors, len(records), shown=len(records) >= _MAX_QUIET))
    for record, error in zip(records, errors, strict=True):
        if error:
            findings.problem("unreadable image", record["file_name"], error)
    return [
        {**record, "value_range": value_range}
        for record, error in zip(records, errors, strict=True)
        if not error
    ]


def _read_error(path: str, value_range: Sequence[float]) -> str:
    """Returns why an image cannot be read; "" if it can."""
    try:
        read_image(path, value_range)
    except (OSError, ValueError) as error:
        return read_error(Path(path), error)
    return ""
