"""Plots training metrics over the epochs of several runs (Figure 2).

    tools/plot_training.py --runs output/table1_digits/*batch8*
    tools/plot_training.py --runs output/a output/b --metrics total_loss bbox/AP75

Runs that differ only in their seed are drawn as one line, the mean, with a band from minimum to
maximum.
The runs may be complete, interrupted or still training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flowdet.cli.common import command, command_parser, user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--runs",
        nargs="+",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output folders of trainings",
    )
    add(
        "--metrics",
        nargs="+",
        default=["total_loss", "bbox/AP50"],
        help="keys of metrics.json (default: total_loss bbox/AP50)",
    )
    add(
        "--output",
        type=Path,
        default=Path("output/curves"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.experiments.measurement import check_output_folder, save_measurement
    from flowdet.reporting.curves import curve_figure, curve_rows, group_runs
    from flowdet.reporting.results import changed_keys

    with user_errors():
        check_output_folder(args.output)
        groups = group_runs(args.runs)
        rows = curve_rows(groups, args.metrics)
        runs = [run for group in groups.values() for run in group]
        save_measurement(
            args.output,
            "curves",
            rows,
            curve_figure(rows),
            config=", ".join(str(folder / "config.yaml") for folder, _ in runs),
            seeds=sorted({cfg.SEED for _, cfg in runs}),
            settings={label: changed_keys(group[0][1]) for label, group in groups.items()},
        )


if __name__ == "__main__":
    sys.exit(main())
