"""Creates the digits dataset and the pretrained backbone for comparisons on the digits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

DIGITS_BACKBONE = Path("output/digits_pretrain/backbone.pth")


def prepare_digits(config_files: Sequence[str], opts: Sequence[str]) -> list[str]:
    """Creates the dataset and the pretrained backbone unless they exist.

    It does nothing if none of the configs trains on the digits.

    Args:
        config_files: the config files of the comparison; `digits_*` are those of the digits.
        opts: overrides of all configs; the backbone is not created if they set MODEL.WEIGHTS.

    Returns:
        The overrides that set MODEL.WEIGHTS to the backbone; [] if none are needed.

    Raises:
        OSError: a command that creates a file failed.
    """
    digits_files = [file for file in config_files if Path(file).name.startswith("digits_")]
    if not digits_files:
        return []
    digits = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "digits"
    required = {digits / "manifest.json": ("make_digits", digits, [])}
    overrides = []
    if "MODEL.WEIGHTS" not in opts:
        config = ["--config-file", "digits_flow"]
        required[DIGITS_BACKBONE] = ("pretrain_digits", DIGITS_BACKBONE, config)
        overrides = ["MODEL.WEIGHTS", str(DIGITS_BACKBONE)]
    for path, (name, output, options) in required.items():
        if not path.is_file():
            command = [sys.executable, "-m", f"flowdet.cli.{name}", "--output", str(output)]
            if subprocess.run([*command, *options]).returncode:
                words = " ".join([*command[1:], *options])
                raise OSError(f"{path} is missing, and `python {words}` failed to create it")
    return overrides
