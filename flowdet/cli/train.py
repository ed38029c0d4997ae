"""Trains and evaluates a detector or a classifier.

    tools/train_net.py --config-file configs/digits_flow.yaml
    tools/train_net.py --config-file configs/voc_flow_r50.yaml --num-gpus 8 SOLVER.BASE_LR 2e-4
    tools/train_net.py --config-file configs/voc_flow_r50.yaml --data path/to/dataset
    tools/train_net.py --config-file configs/digits_flow.yaml --num-gpus 2 MODEL.DEVICE cpu
    tools/train_net.py --config-file RUN/config.yaml --eval-only MODEL.WEIGHTS RUN/model_final.pth

`--config-file` takes a path or the name of one of flowdet's configs. `--data` takes the folder of a
dataset in the format of an annotation tool (docs/custom_datasets.md). `--resume` continues the run
in OUTPUT_DIR from its last checkpoint. Ctrl-C or SIGTERM ends a training with a checkpoint and
prints the command that continues it. `--replay FILE` repeats a step that a training saved because a
loss or gradient was not finite. `KEY VALUE` pairs at the end override the config. `--num-gpus` is
the number of processes per machine; with `MODEL.DEVICE cpu` they share the cores.
"""

from __future__ import annotations

import argparse
import sys

from flowdet.cli.common import add_trust_option, command, with_program
from flowdet.cli.process_options import add_process_options, check_processes
from flowdet.reporting.command_line import program_name


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the options of detectron2's training commands and those of flowdet.

    `--opts` before the overrides is optional.
    """
    argv = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--opts"]
    program = program_name()
    parser = argparse.ArgumentParser(
        prog=program,
        epilog=with_program(__doc__, program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path or name of a config")
    add("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, without a training")
    add("--data", metavar="FOLDER", help="train and evaluate on this dataset (DATASETS.PATH)")
    add(
        "--override",
        action="store_true",
        help="with --resume: continue although keys of the model or the optimizer have changed",
    )
    add(
        "--replay",
        metavar="FILE",
        help="repeat the step in a file that a training wrote because the step was not finite",
    )
    add_process_options(parser)
    add_trust_option(parser)
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    late = [word for word in args.opts if word.startswith("--")]
    if late:
        parser.error(f"{' '.join(late)}: flags go before the KEY VALUE pairs")
    if args.data:
        # quoted, because a folder named 2024 would be read as a number
        args.opts = ["DATASETS.PATH", repr(args.data), *args.opts]
    if not args.config_file and not args.replay:
        parser.error("--config-file is missing, e.g. --config-file configs/digits_flow.yaml")
    check_processes(parser, args)
    return args


@command
def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status, 130 after Ctrl-C, 143 after SIGTERM."""
    args = parse_args(argv)
    from flowdet.cli.run_training import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
