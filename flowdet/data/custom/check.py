"""Reads a whole dataset, images included, and lists everything that is wrong or unusual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from detectron2.data.detection_utils import read_image
from PIL import Image
from tqdm import tqdm

from flowdet.data.custom.dataset import CustomDataset
from flowdet.data.custom.problems import Problem
from flowdet.data.image_files import image_suffixes

# the EXIF tag; 1 is upright
_ORIENTATION = 0x0112

__all__ = ["DatasetCheck", "check_dataset", "problem_lines"]


@dataclass
class DatasetCheck:
    """The result of checking a dataset.

    Attributes:
        kind: detectron2's `evaluator_type`, "pascal_voc" or "coco".
        class_names: by class index.
        records: dataset dicts by split, without what is wrong in the annotations; boxes are
            absolute xyxy in pixels.
        problems: mistakes.
        remarks: what is allowed but may be unintended, a sentence each.
    """

    kind: str
    class_names: list[str]
    records: dict[str, list[dict]]
    problems: list[Problem]
    remarks: list[str]


def check_dataset(folder: str | Path, open_images: bool = True) -> DatasetCheck:
    """Reads all splits of a dataset.

    Args:
        folder: the dataset.
        open_images: whether every image is opened too.

    Raises:
        FileNotFoundError, ValueError: as `find_layout`; the splits of a folder in no accepted
            layout are unknown.
    """
    problems: list[Problem] = []
    dataset = CustomDataset(folder, problems.append)
    records = {split: dataset.read(split).records for split in dataset.layout.splits}
    if open_images:
        problems += check_images([r for of_split in records.values() for r in of_split])
    remarks = [*_shared_images(records), *_unlisted_images(records)]
    names = dataset.class_names
    remarks += _absent_classes(records, names)
    # splits may share a folder: each reports the problems in it
    problems = list(dict.fromkeys(problems))
    return DatasetCheck(dataset.layout.kind, names, records, problems, remarks)


def check_images(records: Sequence[dict]) -> list[Problem]:
    """Opens the images of dataset dicts as a training does.

    Returns:
        The images that cannot be read or whose size differs from the annotated one.
    """
    with ThreadPoolExecutor() as pool:
        results = pool.map(_check_image, records)
        results = list(tqdm(results, total=len(records), unit="image", disable=len(records) < 1000))
    return [problem for problem in results if problem]


def problem_lines(problems: Sequence[Problem], most: int) -> list[str]:
    """Formats problems by kind, the most frequent kind first, with `most` examples of each."""
    lines = []
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        lines.append(f"{kind}: {count}")
        lines += [f"  {p}" for p in [p for p in problems if p.kind == kind][:most]]
        if count > most:
            lines.append(f"  ... and {count - most} more (--examples {count} shows all)")
    return lines


def _check_image(record: dict) -> Problem | None:
    path = record["file_name"]
    try:
        height, width = read_image(path, "RGB").shape[:2]
    # PIL reports some broken files as SyntaxError
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Problem("unreadable image", path, str(error))
    if (height, width) == (record["height"], record["width"]):
        return None
    text = f"the annotated size is {record['width']}x{record['height']}, the image is "
    text += f"{width}x{height}"
    with Image.open(path) as image:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            text += " after the rotation in its EXIF data"
    return Problem("image of another size", path, text)


def _shared_images(records: dict[str, list[dict]]) -> list[str]:
    """Reports pairs of splits that have images in common."""
    files = {split: {r["file_name"] for r in of_split} for split, of_split in records.items()}
    pairs = [(a, b) for a in files for b in files if a < b and files[a] & files[b]]
    return [f"{len(files[a] & files[b])} images are in both {a} and {b}" for a, b in pairs]


def _unlisted_images(records: dict[str, list[dict]]) -> list[str]:
    """Reports images in the folders of the splits that are in no split."""
    used = {r["file_name"] for of_split in records.values() for r in of_split}
    folders = sorted({str(Path(name).parent) for name in used})
    remarks = []
    for folder in folders:
        images = [p for p in Path(folder).iterdir() if p.suffix.lower() in image_suffixes()]
        unused = sorted(p.name for p in images if str(p) not in used)
        if unused:
            remarks.append(f"{len(unused)} images in {folder} are in no split, e.g. {unused[0]}")
    return remarks


def _absent_classes(records: dict[str, list[dict]], names: list[str]) -> list[str]:
    """Reports classes without an object in a split."""
    remarks = []
    for split, of_split in records.items():
        used = {a["category_id"] for record in of_split for a in record["annotations"]}
        absent = [name for index, name in enumerate(names) if index not in used]
        if absent and used:
            remarks.append(f"{split} has no object of {', '.join(absent)}")
    return remarks
