"""Finds the config files that come with flowdet, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import flowdet

# files that are not complete configs: bases of other configs, and studies
_BASES = ("bases/", "cls/bases/", "cls/baselines/bases/", "paper/recipe", "ablations/")


def configs_folder() -> Path:
    """Returns the folder of the configs: in the installed package, or in the checkout."""
    package = Path(flowdet.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def list_configs() -> list[str]:
    """Returns the names of all configs, such as `voc_flow_r50` or `cls/digits_flow_vit`."""
    folder = configs_folder()
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(_BASES))


def config_path(name: str) -> str:
    """Returns the path of a config file.

    Args:
        name: path of a file, or a name in `list_configs`, with or without the prefix `configs/` and
            the suffix `.yaml`. If both exist, it is the file.

    Raises:
        FileNotFoundError: neither exists, and the message lists similar names; or it is a folder.
    """
    if os.path.isfile(name):
        return str(name)
    short = str(name).removeprefix("configs/").removesuffix(".yaml")
    path = configs_folder() / f"{short}.yaml"
    if os.path.isfile(path):
        return str(path)
    if os.path.isdir(name):
        raise FileNotFoundError(
            f"{str(name)!r} is a folder; give a file (--config-file), such as "
            f"{Path(name, 'config.yaml')}"
        )
    near = difflib.get_close_matches(short, list_configs(), n=3, cutoff=0.4)
    hint = f"similar: {', '.join(near)}" if near else "flowdet.list_configs() lists all names"
    raise FileNotFoundError(f"there is no config file {str(name)!r} (--config-file); {hint}")
