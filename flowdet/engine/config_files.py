"""Finds the config files that come with flowdet, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

import flowdet

# files that are not complete configs: bases of others, and studies
_BASES = ("bases/", "cls/bases/", "paper/recipe", "ablations/")


def configs_folder() -> Path:
    """The folder of the config files: in the installed package, or `configs/` of the checkout."""
    package = Path(flowdet.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def list_configs() -> list[str]:
    """The names of all configs, e.g. `voc_flow_r50`, `paper/digits_flow`, `cls/digits_flow_vit`."""
    folder = configs_folder()
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(_BASES))


def config_path(name: str) -> str:
    """The path of a config file.

    Args:
        name: the path of a file, or a name of `list_configs`, with or without `configs/` before and
            `.yaml` after it. An existing file comes first.

    Raises:
        FileNotFoundError: there is neither; the message lists similar names.
    """
    if Path(name).is_file():
        return str(name)
    short = str(name).removeprefix("configs/").removesuffix(".yaml")
    path = configs_folder() / f"{short}.yaml"
    if path.is_file():
        return str(path)
    near = difflib.get_close_matches(short, list_configs(), n=3, cutoff=0.4)
    hint = f"similar: {', '.join(near)}" if near else "flowdet.list_configs() lists all names"
    raise FileNotFoundError(f"there is no config file {str(name)!r} (--config-file); {hint}")
