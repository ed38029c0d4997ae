"""What a comparison on the digits needs and makes if it is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

DIGITS_BACKBONE = Path("output/digits_pretrain/backbone.pth")


def prepare_digits(tools: Path, config_files: Sequence[str], opts: Sequence[str]) -> list[str]:
    """Makes the dataset and the pretrained backbone, if any of the configs is one of the digits.

    Args:
        tools: folder of make_digits.py and pretrain_digits.py.
        config_files: of the comparison; those of the digits are named `digits_*`.
        opts: overrides of all of them: with MODEL.WEIGHTS among them no backbone is made.

    Returns:
        The overrides that name the backbone.

    Raises:
        OSError: one of the tools has failed.
    """
    of_digits = [file for file in config_files if Path(file).name.startswith("digits_")]
    if not of_digits:
        return []
    digits = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "digits"
    wanted = {digits / "manifest.json": ("make_digits.py", digits, [])}
    overrides = []
    if "MODEL.WEIGHTS" not in opts:
        config = ["--config-file", str(Path(of_digits[0]).with_name("digits_flow.yaml"))]
        wanted[DIGITS_BACKBONE] = ("pretrain_digits.py", DIGITS_BACKBONE, config)
        overrides = ["MODEL.WEIGHTS", str(DIGITS_BACKBONE)]
    for path, (tool, output, extra) in wanted.items():
        if not path.is_file():
            command = [sys.executable, str(tools / tool), "--output", str(output), *extra]
            if subprocess.run(command).returncode:
                raise OSError(f"tools/{tool} has failed, so {path} is missing")
    return overrides
