"""What a measurement leaves: its numbers, its figure, and a line that says where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from matplotlib.figure import Figure
from torch import nn

from flowdet.engine import Trainer, load_config, load_trained, resolve_config
from flowdet.reporting.figures import save_figure
from flowdet.reporting.results import typed_command, write_results


def check_output_folder(folder: Path) -> None:
    """Raises FileExistsError if results cannot go there: before long measurements."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder as --output")


def load_run(
    folder: Path, weights: str | None, overrides: Sequence[str]
) -> tuple[CfgNode, nn.Module]:
    """The resolved config and the model of a finished training, in evaluation mode, with the
    average of its weights, if it kept one (`SOLVER.EMA_DECAY`).

    Args:
        folder: its OUTPUT_DIR.
        weights: the checkpoint; None is its `model_final.pth`.
        overrides: `KEY VALUE` pairs.

    Raises:
        FileNotFoundError, KeyError, ValueError: as `load_config`, `resolve_config` and
            `WholeModelCheckpointer`.
    """
    cfg = load_config(str(folder / "config.yaml"), list(overrides))
    resolve_config(cfg, training=False)
    model = Trainer.build_model(cfg).eval()
    average = load_trained(cfg, model, weights or str(folder / "model_final.pth"))
    return cfg, model if average is None else average.module.eval()


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
