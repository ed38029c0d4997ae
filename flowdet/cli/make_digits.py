"""Generates the digits detection dataset: handwritten digits on textured backgrounds.

    tools/make_digits.py
    tools/make_digits.py --output datasets/digits128 --image-size 128 --train 5000

It needs no download. The same options give the same files.
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
        "--output",
        type=Path,
        help="folder of the dataset (default: digits in $DETECTRON2_DATASETS or datasets/)",
    )
    add("--train", type=int, default=2000, help="number of training images (default: %(default)s)")
    add("--test", type=int, default=400, help="number of test images (default: %(default)s)")
    add("--image-size", type=int, default=96, help="in pixels (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add("--force", action="store_true", help="replace another digits dataset in the folder")
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.data.detection.builtin import datasets_root
    from flowdet.data.detection.digits import make_digits

    args.output = args.output or datasets_root() / "digits"
    with user_errors():
        made = make_digits(
            args.output,
            num_train=args.train,
            num_test=args.test,
            image_size=args.image_size,
            seed=args.seed,
            force=args.force,
        )
    counts = f"{args.train} training and {args.test} test images"
    print(f"{args.output}: {'wrote' if made else 'already holds these'} {counts}")


if __name__ == "__main__":
    sys.exit(main())
