"""Is disagreement a better confidence than the score? Calibration and selection of detections.

    tools/measure_uncertainty.py --run output/digits_demo
    tools/measure_uncertainty.py --run output/voc_flow_r18_frozen --draws 8

Holds the score of every detection against what other draws of noise, the single blocks and the
earlier steps of the transport say of the same query. Of a BackpropDetector it looks at the layers.
`KEY VALUE` pairs override the config of the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from flowdet.cli.common import at_least_one, command_parser, parse_with_overrides, user_errors
from flowdet.experiments.measurement import check_output_folder, load_run, save_measurement
from flowdet.experiments.uncertainty import measure, uncertainty_figure
from flowdet.reporting.results import changed_keys


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="FOLDER", help="OUTPUT_DIR of the training")
    add("--weights", help="default: model_final.pth of the run")
    add("--draws", type=at_least_one, default=4, metavar="N", help="of noise, beside the usual one")
    add("--output", type=Path, default=Path("output/uncertainty"), metavar="FOLDER")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parse_with_overrides(parser, argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with user_errors():
        check_output_folder(args.output)
        cfg, model = load_run(args.run, args.weights, args.opts)
        rows, found = measure(cfg, model, args.draws)
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
        uncertainty_figure(found),
        config=str(args.run / "config.yaml"),
        seeds=[max(cfg.SEED, 0)],
        settings=changed_keys(cfg),
    )


if __name__ == "__main__":
    sys.exit(main())
