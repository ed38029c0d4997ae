"""Measures the AP of a detector after every integration step, in every mode (Figure 6, right).

    tools/measure_refinement.py --run output/digits_demo --max-steps 8
    tools/measure_refinement.py --run output/table1_digits/flow_batch8_seed* --plans multi_step-1 \\
        multi_step-4 multi_step-16

A BackpropDetector is evaluated after every layer. For several runs the command reports the mean and
the standard deviation. With --plans it evaluates only the named plans (MODE-STEPS, ensemble or
single_step-BLOCK), each after its last step. `KEY VALUE` pairs override the configs of the runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from flowdet.cli.common import command, command_parser, parse_with_overrides, user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--run",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="output folders of trainings",
    )
    add("--weights", help="checkpoint (default: model_final.pth of the run)")
    add(
        "--max-steps", type=int, default=8, metavar="N", help="largest number of steps (default: 8)"
    )
    add("--plans", nargs="+", metavar="PLAN", help="evaluate these plans (default: all)")
    # the former name of --plans, which recorded commands in result files use
    add("--walks", nargs="+", dest="plans", help=argparse.SUPPRESS)
    add(
        "--output",
        type=Path,
        default=Path("output/refinement"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, argv)


def print_table(rows: list[dict], metric: str) -> None:
    """Prints one line per plan, with the metric after each step."""
    lines: dict[tuple, list] = {}
    for row in rows:
        if row["metric"] == metric:
            mode = f"{row['mode']}, block {row['block']}" if "block" in row else row["mode"]
            spread = f" +- {row['std']:.1f}" if row["std"] is not None else ""
            lines.setdefault((mode, row["num_steps"]), []).append(f"{row['mean']:.1f}{spread}")
    table = [[mode, steps, " ".join(values)] for (mode, steps), values in lines.items()]
    print(tabulate(table, ["mode", "steps", f"{metric} after step 1, 2, ..."]), end="\n\n")


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.experiments.measurement import check_output_folder, load_run, save_measurement
    from flowdet.experiments.refinement import (
        all_plans,
        mean_over_runs,
        refinement_figure,
        refinement_rows,
    )
    from flowdet.flow import InferencePlan
    from flowdet.reporting.results import changed_keys

    with user_errors():
        check_output_folder(args.output)
        rows_by_run, seeds = [], []
        for run in args.run:
            cfg, model = load_run(run, args.weights, args.opts)
            suffix = "-subset" if cfg.TEST.CLASS_SUBSET else ""
            metrics = [f"{name}{suffix}" for name in ("AP50", "AP75")]
            if args.plans:
                plans = [InferencePlan.parse(name) for name in args.plans]
            else:
                plans = all_plans(cfg.MODEL.FLOW_DET.NUM_BLOCKS, args.max_steps)
            rows_by_run.append(refinement_rows(cfg, model, plans, metrics, not args.plans))
            seeds.append(max(cfg.SEED, 0))
        rows = mean_over_runs(rows_by_run)
        for metric in metrics:
            print_table(rows, metric)
        save_measurement(
            args.output,
            "refinement",
            rows,
            refinement_figure(rows, metrics[0]),
            config=str(args.run[0] / "config.yaml"),
            seeds=seeds,
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    sys.exit(main())
