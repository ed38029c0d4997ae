"""Loads config files and applies overrides."""

from __future__ import annotations

import difflib
import itertools

from detectron2.config import CfgNode, get_cfg

from flowdet.config import add_flowdet_config, flat_items
from flowdet.config.config_files import config_path
from flowdet.config.errors import ConfigError, UnknownKeyError
from flowdet.config.user_imports import check_trusted, import_parts
from flowdet.data.custom import dataset_of, register_custom
from flowdet.engine.config_effects import warn_without_effect
from flowdet.engine.config_reader import ConfigFile, read_config_file
from flowdet.engine.config_types import typed_example, typed_value
from flowdet.engine.config_values import check_values
from flowdet.engine.renamed_keys import is_old_key, update_config, update_overrides

# keys in iterations, and the keys that give the same in epochs
_EPOCH_KEYS = {
    "SOLVER.MAX_ITER": "SOLVER.MAX_EPOCHS",
    "SOLVER.STEPS": "SOLVER.STEP_EPOCHS",
    "SOLVER.WARMUP_ITERS": "SOLVER.WARMUP_EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD": "SOLVER.CHECKPOINT_EPOCHS",
    "TEST.EVAL_PERIOD": "TEST.EVAL_EPOCHS",
}


# fills the place of a value that an override lacks
_MISSING = object()


def load_config(path: str, overrides: list | None = None, *, trust_config: bool = False) -> CfgNode:
    """Loads a config file and applies overrides. Call `resolve_config` on the result.

    It imports the modules in `IMPORTS`, and registers the dataset of `DATASETS.PATH` (errors in the
    dataset are raised later, when it is read). It renames keys of earlier versions, and logs a
    warning for each; so it does for keys that have no effect with the values of the others.

    Args:
        path: path of a file, or name of one of flowdet's configs, see `config_files.config_path`.
        overrides: keys and values, `[KEY, value, KEY, value, ...]`.
        trust_config: whether the modules in `IMPORTS` of the file are imported, which runs their
            code; `IMPORTS` in `overrides` always is.

    Raises:
        FileNotFoundError: the config file, one of its bases, or a file in `IMPORTS`, does not
            exist.
        ImportError: a module in `IMPORTS` does not exist.
        KeyError: a key does not exist. The message lists similar keys.
        ValueError: a file is not valid YAML, a value has the wrong type or is out of range, an
            override has no value, a dataset in another folder has the same name, or the file has
            `IMPORTS` and is not trusted.
    """
    path = config_path(path)
    cfg = get_cfg()
    add_flowdet_config(cfg)
    defaults = dict(flat_items(cfg))
    file = read_config_file(path)
    update_config(file.keys, path, cfg.MODEL.FLOW_DET.NUM_QUERIES)
    _merge_file(cfg, file, defaults)
    overrides = update_overrides(
        _checked_pairs(overrides or [], defaults), cfg.MODEL.FLOW_DET.NUM_QUERIES
    )
    _merge_overrides(cfg, overrides, defaults)
    _prefer_iterations(cfg, overrides)
    if not trust_config and "IMPORTS" not in overrides[::2]:
        check_trusted(cfg.IMPORTS, file.file_of("IMPORTS"))
    import_parts(cfg.IMPORTS)
    check_values(cfg)
    warn_without_effect(dict(flat_items(cfg)), [*_own_keys(file, defaults), *overrides[::2]])
    _use_custom_dataset(cfg, overrides)
    return cfg


def get_config(name: str, overrides: list | None = None, *, trust_config: bool = False) -> CfgNode:
    """Loads a config by its name or path and applies overrides; see `load_config`.

        cfg = flowdet.get_config("voc_flow_r50", ["SOLVER.BASE_LR", 2e-4])

    Raises:
        FileNotFoundError, ImportError, KeyError, ValueError: as `load_config`.
    """
    return load_config(name, overrides, trust_config=trust_config)


def overlay_overrides(name: str) -> list[str]:
    """Returns the keys of an overlay as overrides, `[KEY, value, KEY, value, ...]`.

    An overlay is a small config file that changes some keys of any config, such as
    `cls/bases/backprop`.

    Args:
        name: name or path of the file, see `config_files.config_path`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    overlay = CfgNode(read_config_file(config_path(name)).keys)
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


def _merge_file(cfg: CfgNode, file: ConfigFile, defaults: dict[str, object]) -> None:
    """Sets the keys of a config file, in place; raises KeyError or ValueError."""
    for key, value in _leaves(file.keys, defaults):
        source = file.file_of(key)
        if key not in defaults:
            raise UnknownKeyError(f"{source}: {_unknown_key(key, defaults)}")
        default = defaults[key]
        if isinstance(default, CfgNode):
            raise ConfigError(
                f"{source}: {key} is {value!r}, but must be a group of keys, such as "
                f"{key}.{next(iter(default))}"
            )
        _set(cfg, key, typed_value(key, value, default, source))


def _own_keys(file: ConfigFile, defaults: dict[str, object]) -> list[str]:
    """Returns the keys that a config file itself sets, without those of its bases.

    The config.yaml of a run sets all keys, also those that have no effect: it has none of its own.
    """
    keys = [key for key, _ in _leaves(file.files[-1][1], defaults) if key in defaults]
    return [] if len(keys) > len(defaults) / 2 else keys


def _leaves(keys: dict, defaults: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Returns every key of a config file and its value; not the groups of keys."""
    items = []
    for name, value in keys.items():
        key = f"{prefix}{name}"
        if not isinstance(defaults.get(key), CfgNode):
            items.append((key, value))
        elif isinstance(value, dict):
            items += _leaves(value, defaults, f"{key}.")
        # a group without keys, for example if all of its lines are comments
        elif value is not None:
            items.append((key, value))
    return items


def _checked_pairs(overrides: list, defaults: dict[str, object]) -> list:
    """Returns the overrides; raises KeyError or ValueError if they are not pairs of known keys."""
    for key, value in itertools.zip_longest(overrides[::2], overrides[1::2], fillvalue=_MISSING):
        key = str(key)
        name, equals, typed = key.partition("=")
        if equals and _is_known(name, defaults):
            raise ConfigError(f"{key}: write the key and the value as two words, {name} {typed}")
        if not _is_known(key, defaults):
            raise UnknownKeyError(_unknown_key(key, defaults))
        default = defaults.get(key)
        if isinstance(default, CfgNode):
            raise ConfigError(
                f"{key} is a group of keys: give one of its keys, such as "
                f"{key}.{next(iter(default))}"
            )
        if value is _MISSING:
            example = typed_example(key, default)
            raise ConfigError(f"{key} has no value: write, for example, {key} {example}")
        if isinstance(value, str) and _is_open_list(value):
            raise ConfigError(
                f"{key} is {value!r}, the beginning of a list: write the list without spaces, or "
                f'in quotes, {key} "{value} ..."'
            )
    return overrides


def _is_open_list(value: str) -> bool:
    """Returns whether a value is the first word of a list that the shell has divided."""
    return value[:1] in ("[", "(") and not {*value} & {"]", ")"}


def _is_known(key: str, defaults: dict[str, object]) -> bool:
    return key in defaults or is_old_key(key)


def _merge_overrides(cfg: CfgNode, overrides: list, defaults: dict[str, object]) -> None:
    """Sets the keys of overrides, in place; raises ValueError for a value of the wrong type."""
    for key, value in zip(overrides[::2], overrides[1::2]):
        _set(cfg, key, typed_value(key, value, defaults[key]))


def _set(cfg: CfgNode, key: str, value: object) -> None:
    group, _, name = key.rpartition(".")
    node = cfg
    for part in group.split(".") if group else ():
        node = node[part]
    node[name] = value


def _prefer_iterations(cfg: CfgNode, overrides: list) -> None:
    """Turns off the keys in epochs for which the overrides set the key in iterations."""
    given = overrides[::2]
    for iterations, epochs in _EPOCH_KEYS.items():
        if iterations in given and epochs not in given:
            cfg.merge_from_list([epochs, [] if epochs == "SOLVER.STEP_EPOCHS" else 0])


def _unknown_key(key: str, defaults: dict[str, object]) -> str:
    """Returns the error message for an unknown key, with similar keys if there are any."""
    upper = {known.upper(): known for known in defaults}
    near = difflib.get_close_matches(key.upper(), upper, n=3)
    name = key.rpartition(".")[2].upper()
    # the right name in a wrong group
    near += [known for known in upper if known.endswith(f".{name}") and known not in near]
    if not near:
        return f"unknown config key {key}: docs/config.md lists flowdet's keys"
    return f"unknown config key {key}; similar keys are {[upper[x] for x in near[:3]]}"


def _use_custom_dataset(cfg: CfgNode, overrides: list) -> None:
    """Registers the dataset of `DATASETS.PATH` and sets `DATASETS.TRAIN` and `TEST` to its splits.

    A key that the overrides set, or that already names splits of this dataset, is not changed.
    """
    if not cfg.DATASETS.PATH:
        return
    # it loads all models, which a config needs only here
    from flowdet.engine.task_builders import CLASSIFICATION, task_of

    if task_of(cfg) is CLASSIFICATION:
        raise ConfigError(
            f"DATASETS.PATH (--data) is for detectors, but a {cfg.MODEL.META_ARCHITECTURE} is a "
            "classifier: register folders of images with "
            "flowdet.data.classification.register_image_folder in a module that IMPORTS names, and "
            "give their names as DATASETS.TRAIN and TEST"
        )
    names = register_custom(
        cfg.DATASETS.PATH,
        on_problem=cfg.DATASETS.ON_PROBLEM,
        hold_out=cfg.DATASETS.HOLD_OUT,
        hold_out_seed=cfg.DATASETS.HOLD_OUT_SEED,
        format_name=cfg.DATASETS.FORMAT,
    )
    for key in ("TRAIN", "TEST"):
        named_split = set(cfg.DATASETS[key]) & {*names.values()}
        if f"DATASETS.{key}" not in overrides[::2] and not named_split:
            evaluated = dataset_of(names["train"]).evaluated_split
            split = "train" if key == "TRAIN" else evaluated
            cfg.DATASETS[key] = (names[split],) if split else ()
