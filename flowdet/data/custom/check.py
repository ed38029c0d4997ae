"""Reads a whole dataset with its images and lists all errors and unusual facts."""

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
        class_names: the class names by class index.
        records: dataset dicts by split, without invalid annotations; boxes are absolute xyxy in
            pixels.
        problems: the errors in the dataset.
        remarks: sentences about facts that are allowed but may be unintended.
    """

    kind: str
    class_names: list[str]
    records: dict[str, list[dict]]
    problems: list[Problem]
    remarks: list[str]


def check_dataset(folder: str | Path, open_images: bool = True) -> DatasetCheck:
    """Reads all splits of a dataset and collects its problems.

    Args:
        folder: the folder of the dataset.
        open_images: whether every image is opened too.

    Raises:
        FileNotFoundError, ValueError: as `find_layout`, because without a layout the splits are
            unknown.
    """
    problems: list[Problem] = []
    dataset = CustomDataset(folder, problems.append)
    records = {split: dataset.read(split).records for split in dataset.layout.splits}
    if open_images:
        problems += check_images([r for split_records in records.values() for r in split_records])
    remarks = [*_shared_images(records), *_unlisted_images(records)]
    names = dataset.class_names
    remarks += _absent_classes(records, names)
    # splits that share a folder report the problems in it several times
    problems = list(dict.fromkeys(problems))
    return DatasetCheck(dataset.layout.kind, names, records, problems, remarks)


def check_images(records: Sequence[dict]) -> list[Problem]:
    """Opens the images of dataset dicts as a training does.

    Returns:
        Problems of images that cannot be read, or whose size differs from the annotated size.
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
    """Returns remarks about pairs of splits that have images in common."""
    files = {
        split: {r["file_name"] for r in split_records} for split, split_records in records.items()
    }
    pairs = [(a, b) for a in files for b in files if a < b and files[a] & files[b]]
    return [f"{len(files[a] & files[b])} images are in both {a} and {b}" for a, b in pairs]


def _unlisted_images(records: dict[str, list[dict]]) -> list[str]:
    """Returns remarks about images in the folders of the splits that belong to no split."""
    used = {r["file_name"] for split_records in records.values() for r in split_records}
    folders = sorted({str(Path(name).parent) for name in used})
    remarks = []
    for folder in folders:
        images = [p for p in Path(folder).iterdir() if p.suffix.lower() in image_suffixes()]
        unused = sorted(p.name for p in images if str(p) not in used)
        if unused:
            remarks.append(f"{len(unused)} images in {folder} are in no split, e.g. {unused[0]}")
    return remarks


def _absent_classes(records: dict[str, list[dict]], names: list[str]) -> list[str]:
    """Returns remarks about classes that have no object in a split."""
    remarks = []
    for split, split_records in records.items():
        used = {a["category_id"] for record in split_records for a in record["annotations"]}
        absent = [name for index, name in enumerate(names) if index not in used]
        if absent and used:
            remarks.append(f"{split} has no object of {', '.join(absent)}")
    return remarks
