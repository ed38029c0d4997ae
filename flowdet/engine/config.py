"""Config files, overrides and keys."""

from __future__ import annotations

import difflib

from detectron2.config import CfgNode, get_cfg

from flowdet.config import add_flowdet_config
from flowdet.data.custom import register_custom
from flowdet.engine.config_files import config_path
from flowdet.engine.renamed_keys import update_config, update_overrides
from flowdet.engine.user_imports import import_parts


def load_config(path: str, overrides: list[str] | None = None) -> CfgNode:
    """A config file with overrides (`KEY value KEY value ...`), not yet resolved.

    The modules in its `IMPORTS` are imported, and the dataset of `DATASETS.PATH` is registered;
    errors of the dataset appear when it is read. Keys of earlier versions are renamed, with a
    warning each.

    Args:
        path: of a file, or the name of one of flowdet's configs, see `config_files.config_path`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: as `import_parts`.
        KeyError: a key does not exist; the message names near ones.
        ValueError: another dataset of the same folder name is in use.
    """
    path = config_path(path)
    cfg = get_cfg()
    add_flowdet_config(cfg)
    loaded = CfgNode.load_yaml_with_base(path)
    update_config(loaded, path)
    cfg.merge_from_other_cfg(CfgNode(loaded))
    overrides = update_overrides(overrides or [], cfg.MODEL.FLOW_DET.NUM_QUERIES)
    try:
        cfg.merge_from_list(_whole_numbers_as_floats(cfg, overrides))
        _prefer_iterations(cfg, overrides)
    except (KeyError, AssertionError) as error:
        raise KeyError(_near_keys(cfg, overrides) or error.args[0]) from error
    import_parts(cfg.IMPORTS)
    _use_custom_dataset(cfg, overrides)
    return cfg


def get_config(name: str, overrides: list | None = None) -> CfgNode:
    """A config by its name or path, with overrides, not resolved; errors as of `load_config`.

        cfg = flowdet.get_config("voc_flow_r50", ["SOLVER.BASE_LR", 2e-4])
    """
    return load_config(name, overrides)


def _use_custom_dataset(cfg: CfgNode, overrides: list) -> None:
    """Registers the dataset of `DATASETS.PATH`, and trains and evaluates on it unless other
    datasets, or other splits of it, are asked for."""
    if not cfg.DATASETS.PATH:
        return
    names = register_custom(cfg.DATASETS.PATH)
    evaluated = names["val" if "val" in names else "test"]
    for key, name in (("TRAIN", names["train"]), ("TEST", evaluated)):
        asked_for = f"DATASETS.{key}" in overrides[::2] or set(cfg.DATASETS[key]) & {
            *names.values()
        }
        if not asked_for:
            cfg.DATASETS[key] = (name,)


def _whole_numbers_as_floats(cfg: CfgNode, overrides: list) -> list:
    """`SOLVER.BASE_LR 1` means 1.0, which yacs refuses."""
    floats = {key for key, value in flat_items(cfg) if isinstance(value, float)}
    typed = list(overrides)
    for i in range(0, len(typed) - 1, 2):
        if typed[i] in floats and str(typed[i + 1]).lstrip("-").isdecimal():
            typed[i + 1] = float(typed[i + 1])
    return typed


def with_keys(cfg: CfgNode, keys: dict[str, object]) -> CfgNode:
    """A copy of a config with some keys set."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    return cfg


# what is counted in iterations, and the key that counts it in epochs
_EPOCH_KEYS = {
    "SOLVER.MAX_ITER": "SOLVER.MAX_EPOCHS",
    "SOLVER.STEPS": "SOLVER.STEP_EPOCHS",
    "SOLVER.WARMUP_ITERS": "SOLVER.WARMUP_EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD": "SOLVER.CHECKPOINT_EPOCHS",
    "TEST.EVAL_PERIOD": "TEST.EVAL_EPOCHS",
}


def _prefer_iterations(cfg: CfgNode, overrides: list) -> None:
    """`SOLVER.MAX_ITER 20` as an override means 20, whatever epochs the config file names."""
    given = overrides[::2]
    for iterations, epochs in _EPOCH_KEYS.items():
        if iterations in given and epochs not in given:
            cfg.merge_from_list([epochs, [] if epochs == "SOLVER.STEP_EPOCHS" else 0])


def _near_keys(cfg: CfgNode, overrides: list[str]) -> str:
    known = [key for key, _ in flat_items(cfg)]
    unknown = [key for key in overrides[::2] if key not in known]
    near = difflib.get_close_matches(unknown[0], known, n=3) if unknown else []
    return f"{unknown[0]} is no config key, near are {near}" if near else ""


def flat_items(node: CfgNode, prefix: str = "") -> list[tuple[str, object]]:
    """Every key, written with dots, and its value."""
    items = []
    for name, value in node.items():
        items.append((prefix + name, value))
        if isinstance(value, CfgNode):
            items += flat_items(value, f"{prefix}{name}.")
    return items
