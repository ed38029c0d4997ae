"""What a measurement leaves: its numbers, its figure, and a line that says where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from flowdet.analysis.figures import save_figure
from flowdet.analysis.results import write_results
from flowdet.engine.command import typed_command


def check_output_folder(folder: Path) -> None:
    """Raises FileExistsError if results cannot go there: before long measurements."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder as --output")


def save_measurement(
    folder: Path,
    name: str,
    rows: list[dict],
    figure: Figure,
    *,
    config: str,
    seeds: Sequence[int],
    settings: dict,
) -> None:
    """Writes `name`.json, .png and .svg to a folder; arguments as of `write_results`."""
    written = [
        write_results(
            folder / f"{name}.json",
            rows,
            command=typed_command(),
            config=config,
            seeds=list(seeds),
            settings=settings,
        ),
        *save_figure(figure, folder / name),
    ]
    print(f"written: {', '.join(map(str, written))}")
