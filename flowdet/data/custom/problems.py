"""What can be wrong with a dataset, said in one form for a training and for a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ClassList", "Problem", "Report", "check_box", "raise_first"]

# boxes may leave the image by so many pixels: tools count from 0 or from 1, and round
BOX_SLACK = 1.0


@dataclass(frozen=True)
class Problem:
    """One mistake in a dataset.

    kind: a few words that problems are grouped by. where: file and line, or file and the id of
    an annotation. text: what is wrong there and, where it is not plain, what to do.
    """

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


# Readers hand every problem to one of these, and go on without what is wrong if it returns.
Report = Callable[[Problem], None]


def raise_first(folder: Path) -> Report:
    """What a training does with a problem: a ValueError that says how to see all of them."""

    def report(problem: Problem) -> None:
        raise ValueError(f"{problem} (tools/check_data.py --data {folder} lists all problems)")

    return report


def check_box(
    box: Sequence[float], size: tuple[int, int], name: str, where: str, report: Report
) -> list[float] | None:
    """A box clipped to its image, or None after reporting what is wrong with it.

    box: absolute xyxy pixels that start at 0. size: (height, width). name: the box's class.
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
    """Class names by index, and where they come from."""

    names: tuple[str, ...]
    source: str

    def listed(self) -> str:
        """The names for a message."""
        more = f", ... {len(self.names)} in all" if len(self.names) > 12 else ""
        return ", ".join(self.names[:12]) + more
