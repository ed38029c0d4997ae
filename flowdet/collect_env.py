"""Prints what a bug report needs: `python -m flowdet.collect_env`.

It prints the versions of flowdet and of what it is built on, the folder of the config files, and
detectron2's own report about Python, torch, the GPUs and the compilers.
"""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import flowdet

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "Pillow", "opencv-python-headless")


def collect_env() -> str:
    """The report, as text. It never fails: instead of a missing part it gives the reason."""
    lines = [
        f"flowdet {flowdet.__version__} in {Path(flowdet.__file__).parent}",
        f"configs: {_configs_folder()}",
    ]
    try:
        from detectron2.utils.collect_env import collect_env_info

        lines.append(collect_env_info())
    # a broken detectron2 or torch may raise anything on import
    except Exception as error:
        lines.append(
            f"detectron2 cannot be imported ({type(error).__name__}: {error}). Install it with: "
            "flowdet-install-detectron2"
        )
        lines += [f"Python {platform.python_version()} on {platform.platform()}", *_versions()]
    return "\n".join(lines)


def _configs_folder() -> str:
    try:
        from flowdet.config.config_files import configs_folder

        return str(configs_folder())
    except Exception as error:
        return f"unknown ({type(error).__name__}: {error})"


def _versions() -> list[str]:
    """A line per package, from its metadata: nothing is imported."""
    lines = []
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return lines


if __name__ == "__main__":
    print(collect_env())
