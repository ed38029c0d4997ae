"""Writes figures to files."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Writes a figure as PNG and as SVG; an interrupted call leaves no partial file.

    Args:
        figure: the figure.
        path: the path of both files; its suffix, if any, is replaced.

    Returns:
        The paths of the PNG and of the SVG.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".png", ".svg"):
        partial = path.with_name(f"{path.stem}.partial{suffix}")
        # a fixed salt and no date: the same figure gives the same file
        with rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(partial, dpi=150, metadata={"Date": None} if suffix == ".svg" else None)
        written.append(partial.replace(path.with_suffix(suffix)))
    return written
