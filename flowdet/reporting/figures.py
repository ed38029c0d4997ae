"""How figures are written."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Writes a figure as PNG and SVG beside each other, each whole or not at all.

    Args:
        path: of both; its suffix, if any, is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in (".png", ".svg"):
        partial = path.with_name(f"{path.stem}.partial{suffix}")
        # the same figure gives the same file
        with rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(partial, dpi=150, metadata={"Date": None} if suffix == ".svg" else None)
        written.append(partial.replace(path.with_suffix(suffix)))
    return written
