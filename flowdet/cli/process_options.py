"""The options of commands that run in several processes."""

from __future__ import annotations

import argparse
from datetime import timedelta

from flowdet.cli.common import user_errors


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a command that calls `launch_processes`, named as in detectron2.

    By default, processes on one machine take a free port. (detectron2's default is the same port
    for all programs of a user, so that two trainings could not run at the same time.)
    """
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, metavar="N", help="processes per machine (default: 1)")
    add("--num-machines", type=int, default=1, metavar="N", help="default: 1")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    add(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of the first machine; auto takes a free port of this one (default)",
    )
    parser.add_argument(
        "--timeout",
        type=_minutes,
        default=10.0,
        metavar="MINUTES",
        help="with several processes: end all of them if one does not answer for this long "
        "(default: 10); the others wait while the first one computes the metrics of an evaluation",
    )


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
        timedelta(minutes=minutes)
    except (ValueError, OverflowError):
        minutes = 0.0
    if not minutes > 0:
        raise argparse.ArgumentTypeError(f"must be a number of minutes above 0, got {text!r}")
    return minutes


def check_processes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if the config's device cannot run `--num-gpus` processes.

    Sets `args.on_cpu`: whether several processes share the cores of this machine.
    """
    args.on_cpu = False
    if args.num_gpus < 0 or args.num_machines < 1:
        parser.error("--num-gpus must not be negative, and --num-machines must be at least 1")
    if not args.num_gpus and args.num_machines > 1:
        parser.error("--num-gpus is the number of processes per machine: it must be at least 1")
    if args.num_machines > 1 and args.dist_url == "auto":
        parser.error("--num-machines needs --dist-url, tcp://HOST:PORT of the first machine")
    if args.num_gpus * args.num_machines <= 1:
        return
    # they load torch, which a single process needs only after the options are read
    import torch

    from flowdet.engine import load_config

    with user_errors():
        args.on_cpu = load_config(args.config_file, args.opts).MODEL.DEVICE == "cpu"
    visible = torch.cuda.device_count()
    if args.num_gpus > visible and not args.on_cpu:
        count = f"{visible} GPUs are" if visible else "no GPU is"
        parser.error(
            f"--num-gpus is {args.num_gpus}, but {count} visible: with MODEL.DEVICE cpu it is the "
            "number of processes on the CPU"
        )
