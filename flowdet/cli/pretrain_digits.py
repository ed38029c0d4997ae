"""Pretrains the backbone of the digits configs by classifying every cell of its feature map.

    tools/pretrain_digits.py
    tools/pretrain_digits.py --output output/digits_pretrain/backbone.pth --iterations 1000

The weights take the place of ImageNet weights. Pretraining takes about a minute on a CPU. The
images are generated from the training digits only; no test image is used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flowdet.cli.common import command, command_parser, user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    config, output = "configs/digits_flow.yaml", Path("output/digits_pretrain/backbone.pth")
    add("--config-file", default=config, help="config with the backbone (default: %(default)s)")
    add("--output", type=Path, default=output, help="checkpoint (default: %(default)s)")
    add("--iterations", type=int, default=500, help="training iterations (default: %(default)s)")
    add("--batch-size", type=int, default=32, help="images per iteration (default: %(default)s)")
    add("--lr", type=float, default=3e-3, help="largest learning rate (default: %(default)s)")
    add("--num-workers", type=int, default=1, help="processes of the loader (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add("--device", help="cpu, cuda, ... (default: cuda if there is a GPU, else cpu)")
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.cli.run_pretraining import pretrain

    with user_errors():
        pretrain(args)


if __name__ == "__main__":
    sys.exit(main())
