#!/usr/bin/env python
"""AP50 after every integration step of a trained detector, in every mode (Figure 6, right).

    tools/measure_refinement.py --run output/digits_demo --max-steps 8

The blocks of a BackpropDetector are looked at in the same way. `KEY VALUE` pairs override the
config of the run.
"""

import argparse
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
from tabulate import tabulate

from flowdet.analysis import changed_keys
from flowdet.analysis.output import check_output_folder, load_run, save_measurement
from flowdet.analysis.refinement import all_walks, refinement_figure, refinement_rows
from flowdet.engine.command import user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="FOLDER", help="OUTPUT_DIR of the training")
    add("--weights", help="default: model_final.pth of the run")
    add("--max-steps", type=int, default=8, metavar="N")
    add("--output", type=Path, default=Path("output/refinement"), metavar="FOLDER")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser.parse_args(argv)


def print_table(rows: list[dict], metric: str) -> None:
    """A line per walk, a column per step."""
    lines: dict[tuple, list] = {}
    for row in rows:
        if row["metric"] == metric:
            mode = f"{row['mode']}, block {row['block']}" if "block" in row else row["mode"]
            lines.setdefault((mode, row["num_steps"]), []).append(f"{row['mean']:.1f}")
    table = [[mode, steps, " ".join(values)] for (mode, steps), values in lines.items()]
    print(tabulate(table, ["mode", "steps", f"{metric} after step 1, 2, ..."]))


def main() -> None:
    args = parse_args()
    with user_errors():
        check_output_folder(args.output)
        cfg, model = load_run(args.run, args.weights, args.opts)
        metrics = [f"{name}-subset" if cfg.TEST.CLASS_SUBSET else name for name in ("AP50", "AP75")]
        walks = all_walks(cfg.MODEL.FLOW_DET.NUM_BLOCKS, args.max_steps)
        rows = refinement_rows(cfg, model, walks, metrics)
    print_table(rows, metrics[0])
    save_measurement(
        args.output,
        "refinement",
        rows,
        refinement_figure(rows, metrics[0]),
        config=str(args.run / "config.yaml"),
        seeds=[max(cfg.SEED, 0)],
        settings=changed_keys(cfg),
    )


if __name__ == "__main__":
    main()
