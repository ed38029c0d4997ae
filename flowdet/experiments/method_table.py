"""Tables 4 and 5: accuracy and costs of classifiers that are trained in different ways (C.1)."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.utils.events import EventStorage
from tabulate import tabulate

from flowdet.experiments.comparison import Run, group_seeds
from flowdet.experiments.comparison_table import (
    mean_std_cell,
    run_columns,
    scaled_cell,
    seeds_cell,
)
from flowdet.experiments.memory import measure_step
from flowdet.experiments.mode_table import averaged_weights, line_key, mode_rows

TOP_K = (1, 5, 10)
# inference modes that are a linear classifier on the features
_READOUTS = ("probe", "readout")
# Tables 4 (ViT) and 5 (CNN) of the paper, in percent, by backbone, method and dataset
_CITED = {
    "vit": {
        "backprop": {"cifar10": 81.49, "cifar100": 78.12, "tiny_imagenet": 74.01},
        "ff": {"cifar10": 76.21, "cifar100": 72.15, "tiny_imagenet": 62.11},
        "cff_margin": {"cifar10": 80.42, "cifar100": 80.39, "tiny_imagenet": 73.23},
        "symba": {"cifar10": 69.13, "cifar100": 68.78, "tiny_imagenet": 59.46},
        "collab": {"cifar10": 70.66, "cifar100": 71.79, "tiny_imagenet": 62.15},
        "flow": {"cifar10": 80.10, "cifar100": 80.67, "tiny_imagenet": 55.44},
    },
    "cnn": {
        "backprop": {"mnist": 99.33, "cifar10": 82.5, "cifar100": 61.28},
        "ff": {"mnist": 98.73, "cifar10": 59.0},
        "sff": {"mnist": 99.31, "cifar10": 76.96, "cifar100": 53.29},
        "softhebb": {"mnist": 99.35, "cifar10": 80.31, "cifar100": 56.0},
        "noprop_dt": {"mnist": 99.29, "cifar10": 80.54, "cifar100": 47.8},
        "flow": {"mnist": 98.88, "cifar10": 78.56, "cifar100": 59.20},
    },
}
# C.1: "top 1 per cent for MNIST and CIFAR-10, top 5 per cent for CIFAR-100, and top 10 per cent for
# Tiny-Imagenet"
_CITED_TOP_K = {"mnist": 1, "cifar10": 1, "cifar100": 5, "tiny_imagenet": 10}


def cited_accuracy(dataset: str, backbone: str, method: str) -> tuple[float, int] | None:
    """Returns the paper's accuracy in percent, and the k of its top-k accuracy.

    Args:
        dataset: the name of a test dataset, e.g. `cifar10_test`.
        backbone: `vit` or `cnn`.
        method: a method, see `method_of`. The paper does not say which variant of NoProp it cites;
            its figure is that of `noprop_dt`.

    Returns:
        None if Tables 4 and 5 do not have the method with this dataset and backbone.
    """
    cited = _CITED.get(backbone, {}).get(method, {})
    name = next((x for x in cited if dataset in (f"{x}_test", f"{x}_val")), None)
    return None if name is None else (cited[name], _CITED_TOP_K[name])


def method_rows(runs: Sequence[Run]) -> list[dict]:
    """Computes the rows of `mode_rows`, with those of the configured mode (`default`).

    If any run of a group is finished, the group also has the row `activation_bytes`, the tensors
    that one training step keeps for its backward pass.
    """
    rows = mode_rows(runs, default_mode=True)
    for run in (group[0] for group in group_seeds(runs) if any(run.done for run in group)):
        # the losses of single layers are logged, which needs a storage
        with EventStorage():
            activation = measure_step(run.cfg, run.budget.batch_size).activation
        row = {"metric": "activation_bytes", "mean": activation, "std": None, "n": 1}
        rows.append(run_columns(run) | line_key(run.cfg) | row)
    return rows


def method_table(rows: Sequence[dict], weights: str = "raw", style: str = "simple") -> str:
    """Formats the rows as a table with one line per backbone and method.

    Args:
        rows: the rows of `method_rows`.
        weights: `raw`, or `ema` for the averaged weights of the models that have them.
        style: a table format of tabulate, e.g. `simple` or `github`.
    """
    lines: dict[tuple, list[dict]] = {}
    for row in rows:
        lines.setdefault((row["backbone"], row["method"]), []).append(row)
    table = [[*key, *_cells(line, key, weights)] for key, line in lines.items()]
    headers = ["backbone", "method", *(f"top {k}" for k in TOP_K), "linear read-out", "paper"]
    headers += ["trained parameters (M)", "activations (MiB)", "training (s)", "epochs", "seeds"]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def _cells(line: Sequence[dict], key: tuple[str, str], weights: str) -> list:
    """Returns the cells of a line after backbone and method."""
    weights = weights if weights in averaged_weights(line) else "raw"
    shown = [row for row in line if row.get("weights", "raw") == weights]
    by_mode = {(row["metric"], row["mode"]): row for row in shown if "mode" in row}
    accuracies = [mean_std_cell(by_mode.get((f"top{k}", "default"))) for k in TOP_K]
    readout = next((by_mode["top1", m] for m in _READOUTS if ("top1", m) in by_mode), None)
    cited = cited_accuracy(line[0]["dataset"], *key)
    costs = {row["metric"]: row for row in line if "mode" not in row}
    return [
        *accuracies,
        mean_std_cell(readout),
        f"{cited[0]:.2f} (top {cited[1]})" if cited else "-",
        scaled_cell(costs, "trained_parameters", 1e-6, 2),
        scaled_cell(costs, "activation_bytes", 2**-20, 1),
        scaled_cell(costs, "training_seconds", 1, 0),
        line[0]["epochs"],
        seeds_cell(costs),
    ]
