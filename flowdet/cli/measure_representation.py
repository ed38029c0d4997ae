"""Measures the features of every layer of trained classifiers (Figure 5).

    tools/measure_representation.py --runs output/table3_digits/*seed*
    tools/measure_representation.py --runs output/flow output/backprop --images 500

The features of a layer are averaged over its positions: one vector with C channels per image. The
measures are:

- intrinsic dimension: the principal components that together have 90 % of the variance;
- feature spread: the mean cosine distance between two images;
- linear probe: the test accuracy of a logistic regression trained on the features;
- linear CKA: the similarity of two layers, of one model or of two.

Runs that differ only in their seed are one line, the mean, with a band of one standard deviation.
`KEY VALUE` pairs override the configs of the runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from flowdet.cli.common import (
    at_least_one,
    command,
    command_parser,
    parse_with_overrides,
    user_errors,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--runs",
        nargs="+",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output folders of trainings of classifiers",
    )
    add(
        "--checkpoint",
        default="model_final.pth",
        metavar="FILE",
        help="name of the checkpoint in every folder (default: %(default)s)",
    )
    add(
        "--images",
        type=at_least_one,
        default=2000,
        metavar="N",
        help="use at most this many test images (default: %(default)s)",
    )
    add(
        "--train-images",
        type=at_least_one,
        default=5000,
        metavar="N",
        help="train the linear probes on at most this many images (default: %(default)s)",
    )
    add(
        "--untrained",
        action="store_true",
        help="also measure a model with its initial weights for each backbone, as a control",
    )
    add(
        "--output",
        type=Path,
        default=Path("output/representation"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, argv)


def print_tables(rows: list[dict]) -> None:
    """Prints the measures of every layer, and CKA between the last layers of the runs."""
    from flowdet.experiments.representation import LAYER_METRICS

    lines: dict[tuple, dict[str, str]] = {}
    for row in rows:
        if row["metric"] in LAYER_METRICS:
            key = (row["run"], row["layer"], row["channels"])
            lines.setdefault(key, {})[row["metric"]] = _cell(row)
    table = [[*key, *map(cells.get, LAYER_METRICS)] for key, cells in lines.items()]
    headers = ["run", "layer", "channels", "intrinsic dimension", "feature spread", "probe (%)"]
    print(tabulate(table, headers, disable_numparse=True), end="\n\n")
    last = {run: layer for run, layer, _ in lines}
    cka = {
        (row["run"], row["other_run"]): _cell(row)
        for row in rows
        if row["metric"] == "linear_cka"
        and row["layer"] == last[row["run"]]
        and row["other_layer"] == last[row["other_run"]]
    }
    table = [[run, *(cka.get((run, o), cka.get((o, run))) for o in last)] for run in last]
    print(tabulate(table, ["linear CKA, last layers", *last], disable_numparse=True))


def _cell(row: dict) -> str:
    deviation = f" +- {row['std']:.3g}" if row["std"] is not None else ""
    return f"{row['mean']:.3g}{deviation}"


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.engine import keep_freed_memory
    from flowdet.experiments.measurement import check_output_folder, save_measurement
    from flowdet.experiments.representation import (
        ImageLimits,
        cka_rows,
        find_runs,
        layer_rows,
        represent_runs,
        represent_untrained,
    )
    from flowdet.experiments.representation_figure import representation_figure
    from flowdet.reporting.results import changed_keys

    keep_freed_memory()
    with user_errors():
        check_output_folder(args.output)
        folders = find_runs(args.runs, args.checkpoint, args.opts)
        limits = ImageLimits(test=args.images, train=args.train_images)
        groups = represent_runs(folders, args.checkpoint, args.opts, limits)
        if args.untrained:
            groups |= represent_untrained(folders, args.opts, limits)
        rows = layer_rows(groups) + cka_rows(groups)
        print_tables(rows)
        runs = [run for group in groups.values() for run in group]
        save_measurement(
            args.output,
            "representation",
            rows,
            representation_figure(rows),
            config=", ".join(str(folder / "config.yaml") for folder in args.runs),
            seeds=sorted({max(run.cfg.SEED, 0) for run in runs}),
            settings={label: changed_keys(group[0].cfg) for label, group in groups.items()},
        )


if __name__ == "__main__":
    sys.exit(main())
