"""Loads config files and applies overrides."""

from __future__ import annotations

import difflib

from detectron2.config import CfgNode, get_cfg

from flowdet.config import add_flowdet_config
from flowdet.data.custom import register_custom
from flowdet.engine.config_files import config_path
from flowdet.engine.renamed_keys import update_config, update_overrides
from flowdet.engine.user_imports import import_parts

# keys in iterations, and the keys that give the same in epochs
_EPOCH_KEYS = {
    "SOLVER.MAX_ITER": "SOLVER.MAX_EPOCHS",
    "SOLVER.STEPS": "SOLVER.STEP_EPOCHS",
    "SOLVER.WARMUP_ITERS": "SOLVER.WARMUP_EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD": "SOLVER.CHECKPOINT_EPOCHS",
    "TEST.EVAL_PERIOD": "TEST.EVAL_EPOCHS",
}


def load_config(path: str, overrides: list | None = None) -> CfgNode:
    """Loads a config file and applies overrides. Call `resolve_config` on the result.

    It imports the modules in `IMPORTS`, and registers the dataset of `DATASETS.PATH` (errors in the
    dataset are raised later, when it is read). It renames keys of earlier versions, and logs a
    warning for each.

    Args:
        path: path of a file, or name of one of flowdet's configs, see `config_files.config_path`.
        overrides: keys and values, `[KEY, value, KEY, value, ...]`.

    Raises:
        FileNotFoundError: the config file, or a file in `IMPORTS`, does not exist.
        ImportError: a module in `IMPORTS` does not exist.
        KeyError: a key does not exist. For overrides, the message lists similar keys.
        ValueError: a value has the wrong type, or a dataset in another folder has the same name.
    """
    path = config_path(path)
    cfg = get_cfg()
    add_flowdet_config(cfg)
    loaded = CfgNode.load_yaml_with_base(path)
    update_config(loaded, path, cfg.MODEL.FLOW_DET.NUM_QUERIES)
    cfg.merge_from_other_cfg(CfgNode(loaded))
    overrides = update_overrides(overrides or [], cfg.MODEL.FLOW_DET.NUM_QUERIES)
    try:
        cfg.merge_from_list(_integers_to_floats(cfg, overrides))
        _prefer_iterations(cfg, overrides)
    except (KeyError, AssertionError) as error:
        raise KeyError(_similar_keys(cfg, overrides) or error.args[0]) from error
    import_parts(cfg.IMPORTS)
    _use_custom_dataset(cfg, overrides)
    return cfg


def get_config(name: str, overrides: list | None = None) -> CfgNode:
    """Loads a config by its name or path and applies overrides; see `load_config`.

        cfg = flowdet.get_config("voc_flow_r50", ["SOLVER.BASE_LR", 2e-4])

    Raises:
        FileNotFoundError, ImportError, KeyError, ValueError: as `load_config`.
    """
    return load_config(name, overrides)


def overlay_overrides(name: str) -> list[str]:
    """Returns the keys of an overlay as overrides, `[KEY, value, KEY, value, ...]`.

    An overlay is a small config file that changes some keys of any config, such as
    `cls/bases/backprop`.

    Args:
        name: name or path of the file, see `config_files.config_path`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    overlay = CfgNode(CfgNode.load_yaml_with_base(config_path(name)))
    return [
        str(word)
        for key, value in flat_items(overlay)
        if not isinstance(value, CfgNode)
        for word in (key, value)
    ]


def with_keys(cfg: CfgNode, keys: dict[str, object]) -> CfgNode:
    """Returns a copy of a config with some keys set."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    return cfg


def flat_items(node: CfgNode, prefix: str = "") -> list[tuple[str, object]]:
    """Returns every key of a config, such as `MODEL.DEVICE`, and its value; also the nodes."""
    items = []
    for name, value in node.items():
        items.append((prefix + name, value))
        if isinstance(value, CfgNode):
            items += flat_items(value, f"{prefix}{name}.")
    return items


def _integers_to_floats(cfg: CfgNode, overrides: list) -> list:
    """Converts integer overrides of float keys to floats: yacs refuses `SOLVER.BASE_LR 1`."""
    floats = {key for key, value in flat_items(cfg) if isinstance(value, float)}
    typed = list(overrides)
    for i in range(0, len(typed) - 1, 2):
        if typed[i] in floats and str(typed[i + 1]).lstrip("-").isdecimal():
            typed[i + 1] = float(typed[i + 1])
    return typed


def _prefer_iterations(cfg: CfgNode, overrides: list) -> None:
    """Turns off the keys in epochs for which the overrides set the key in iterations."""
    given = overrides[::2]
    for iterations, epochs in _EPOCH_KEYS.items():
        if iterations in given and epochs not in given:
            cfg.merge_from_list([epochs, [] if epochs == "SOLVER.STEP_EPOCHS" else 0])


def _similar_keys(cfg: CfgNode, overrides: list) -> str:
    """Returns an error message with keys similar to the first unknown key; "" for none."""
    known = [key for key, _ in flat_items(cfg)]
    unknown = [key for key in overrides[::2] if key not in known]
    similar = difflib.get_close_matches(unknown[0], known, n=3) if unknown else []
    return f"unknown config key {unknown[0]}; similar keys are {similar}" if similar else ""


def _use_custom_dataset(cfg: CfgNode, overrides: list) -> None:
    """Registers the dataset of `DATASETS.PATH` and sets `DATASETS.TRAIN` and `TEST` to its splits.

    A key that the overrides set, or that already names splits of this dataset, is not changed.
    """
    if not cfg.DATASETS.PATH:
        return
    names = register_custom(cfg.DATASETS.PATH)
    evaluated = names["val" if "val" in names else "test"]
    for key, name in (("TRAIN", names["train"]), ("TEST", evaluated)):
        named_split = set(cfg.DATASETS[key]) & {*names.values()}
        if f"DATASETS.{key}" not in overrides[::2] and not named_split:
            cfg.DATASETS[key] = (name,)
