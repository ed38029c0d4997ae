"""Loads the run for a measurement, and writes the results and the figure."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from matplotlib.figure import Figure
from torch import nn

from flowdet.engine import Trainer, load_config, load_trained, resolve_config
from flowdet.engine.task_builders import DETECTION, has_queries, task_of
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.figures import save_figure
from flowdet.reporting.results import write_results


def check_output_folder(folder: Path) -> None:
    """Checks before a long measurement that its results can be written to a folder.

    The folder is not created.

    Raises:
        FileExistsError: `folder` is a file.
        OSError: no file can be written to the folder, or it cannot be created.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: use a folder as --output")
    existing = next(x for x in (folder.absolute(), *folder.absolute().parents) if x.exists())
    try:
        # a file without a name
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(
            f"nothing can be written to {folder} ({error.strerror}): use another folder"
        ) from error


def check_has_queries(cfg: CfgNode) -> None:
    """Raises ValueError for the config of a detector whose queries are not embeddings.

    These are detectors without queries, such as a Faster R-CNN, and those whose queries are boxes.
    """
    if task_of(cfg) is DETECTION and not has_queries(cfg):
        raise ValueError(
            f"a {cfg.MODEL.META_ARCHITECTURE} has no queries, which this measurement needs: use "
            "the config or the run of a FlowMatchingDetector"
        )
    if cfg.MODEL.META_ARCHITECTURE == "BoxTransportDetector":
        raise ValueError(
            "the states of a BoxTransportDetector are boxes, but this measurement needs query "
            "embeddings: use the config or the run of a FlowMatchingDetector"
        )


def load_run(
    folder: Path, weights: str | None, overrides: Sequence[str]
) -> tuple[CfgNode, nn.Module]:
    """Loads the resolved config and the model of a finished training; detectors need queries.

    The model is in evaluation mode. It has the averaged weights if the checkpoint contains them and
    `SOLVER.EMA_DECAY` is not 0.

    Args:
        folder: the OUTPUT_DIR of the training.
        weights: the checkpoint; None takes `model_final.pth` in the folder.
        overrides: overrides of the config, as `KEY VALUE` pairs.

    Raises:
        FileNotFoundError, KeyError, ValueError: as `load_config`, `check_has_queries`,
            `resolve_config` and `load_trained`.
    """
    cfg = load_config(str(folder / "config.yaml"), list(overrides))
    check_has_queries(cfg)
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
    """Writes `NAME.json`, `NAME.png` and `NAME.svg` to a folder, and prints their paths.

    Args:
        folder: the output folder.
        name: the name of the files.
        rows, config, seeds, settings: see `write_results`.
        figure: the figure of the rows.
    """
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
