"""Compares a detection's score with other measures of confidence: calibration and selection.

    tools/measure_uncertainty.py --run output/digits_demo
    tools/measure_uncertainty.py --run output/voc_flow_r18_frozen --samples 8

The other measures are box stability, box size, and the agreement with other predictions for the
same query: those of other samples of the initial noise, of each block, and of earlier integration
steps. A BackpropDetector has only the predictions of its earlier layers. `KEY VALUE` pairs override
the config of the run.
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
    add("--run", type=Path, required=True, metavar="FOLDER", help="output folder of a training")
    add("--weights", help="checkpoint (default: model_final.pth of the run)")
    samples = "further samples of the initial noise (default: 4)"
    add("--samples", type=at_least_one, default=4, metavar="N", help=samples)
    add(
        "--output",
        type=Path,
        default=Path("output/uncertainty"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.experiments.measurement import check_output_folder, load_run, save_measurement
    from flowdet.experiments.uncertainty import measure, uncertainty_figure
    from flowdet.reporting.results import changed_keys

    with user_errors():
        check_output_folder(args.output)
        cfg, model = load_run(args.run, args.weights, args.opts)
        rows, confidences = measure(cfg, model, args.samples)
        lines: dict[str, list] = {}
        for row in rows:
            lines.setdefault(row["measure"], []).append(row["mean"])
        metrics = list(dict.fromkeys(row["metric"] for row in rows))
        table = [[name, *values] for name, values in lines.items()]
        print(tabulate(table, ["confidence", *metrics], floatfmt=".2f"))
        save_measurement(
            args.output,
            "uncertainty",
            rows,
            uncertainty_figure(confidences),
            config=str(args.run / "config.yaml"),
            seeds=[max(cfg.SEED, 0)],
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    sys.exit(main())
