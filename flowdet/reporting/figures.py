"""Writes figures to files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from flowdet.temporary_file import temporary_file


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Writes a figure as PNG and as SVG; an interrupted call leaves no partial file.

    Args:
        figure: the figure.
        path: the path of both files; its suffix, if any, is replaced.

    Returns:
        The paths of the PNG and of the SVG.
    """
    for text in _names(figure):
        text.set_parse_math(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".png", ".svg"):
        written.append(path.with_suffix(suffix))
        metadata = {"Date": None} if suffix == ".svg" else None
        # a fixed salt and no date: the same figure gives the same file
        with rc_context({"svg.hashsalt": path.stem}), temporary_file(written[-1]) as temporary:
            figure.savefig(temporary, dpi=150, metadata=metadata)
    return written


def _names(figure: Figure) -> Iterator[Text]:
    """Yields the texts that can contain a name of the user, for example of a run or a variant.

    In such a name `$` is a dollar sign. The numbers of a logarithmic axis are formulas.
    """
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for legend in filter(None, legends):
        yield from legend.get_texts()
    for axes in figure.axes:
        yield axes.title
        for axis in (axes.xaxis, axes.yaxis):
            yield axis.label
            if isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter):
                yield from axis.get_ticklabels()
