"""Errors in a dataset. A training raises the first one; `check.py` collects all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ClassList", "Problem", "Report", "check_box", "raise_first"]

# pixels by which a box may leave the image, as tools count from 0 or from 1, and round
BOX_SLACK = 1.0


@dataclass(frozen=True)
class Problem:
    """An error in a dataset.

    Attributes:
        kind: a few words that name the kind of the error; problems are grouped by it.
        where: file and line, or file and id of the annotation.
        text: a description of the error and, unless it is obvious, of what to do.
    """

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


# A reader calls this function for every problem. If it returns, the reader skips the invalid entry
# and continues.
Report = Callable[[Problem], None]


def raise_first(folder: Path) -> Report:
    """Returns the report function of a training, which raises the first problem as a ValueError.

    Args:
        folder: the folder of the dataset, for the command in the message that lists all problems.
    """

    def report(problem: Problem) -> None:
        raise ValueError(f"{problem} (tools/check_data.py --data {folder} lists all problems)")

    return report


def check_box(
    box: Sequence[float], size: tuple[int, int], name: str, where: str, report: Report
) -> list[float] | None:
    """Checks a box and clips it to its image.

    Args:
        box: absolute xyxy in pixels, which may be counted from 0 or from 1.
        size: height and width of the image, in pixels.
        name: class of the box.
        where: location of the box in the annotations, for the message.
        report: called if the box has no area or leaves the image by more than `BOX_SLACK`.

    Returns:
        The clipped box, absolute xyxy in pixels; None if a problem was reported.
    """
    x1, y1, x2, y2 = box
    height, width = size
    corners = ", ".join(f"{x:g}" for x in box)
    if x2 <= x1 or y2 <= y1:
        text = f"the box of a {name!r} has no area: x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
        return report(Problem("box without area", where, text))
    if min(x1, y1) < -BOX_SLACK or x2 > width + BOX_SLACK or y2 > height + BOX_SLACK:
        text = f"the box of a {name!r} leaves the image of {width}x{height}: corners {corners}"
        return report(Problem("box outside the image", where, text))
    return [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]


@dataclass(frozen=True)
class ClassList:
    """Class names by class index, and the file or split that defines them."""

    names: tuple[str, ...]
    source: str

    def listed(self) -> str:
        """Returns at most 12 of the names, for a message."""
        more = f", ... {len(self.names)} in all" if len(self.names) > 12 else ""
        return ", ".join(self.names[:12]) + more
