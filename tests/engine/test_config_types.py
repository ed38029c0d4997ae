"""Values of overrides and config files are converted, or the error shows how to type them."""

import pytest
import yaml

from flowdet.config import flat_items
from flowdet.engine import load_config


def value_of(key, typed):
    return dict(flat_items(load_config("digits_flow", [key, typed])))[key]


@pytest.mark.parametrize("typed", ["[res4]", "['res4']", '["res4"]', "(res4)", "('res4',)", "res4"])
def test_names_in_lists_need_no_quotes(typed):
    assert value_of("MODEL.FLOW_DET.IN_FEATURES", typed) == ["res4"]


@pytest.mark.parametrize(
    "key, typed, expected",
    [
        ("MODEL.RESNETS.OUT_FEATURES", "[res2,res3]", ["res2", "res3"]),
        ("MODEL.RESNETS.OUT_FEATURES", "[res2, 'res3',]", ["res2", "res3"]),
        ("MODEL.RESNETS.OUT_FEATURES", ("res3",), ["res3"]),
        ("DATASETS.TRAIN", "a_train", ("a_train",)),
        ("DATASETS.TRAIN", "('a_train', 'b_train')", ("a_train", "b_train")),
        ("DATASETS.TEST", "[]", ()),
        ("DATASETS.TEST", "", ()),
        ("TEST.CLASS_SUBSET", "[3,007]", ["3", "007"]),
        ("SOLVER.STEPS", "30", (30,)),
        ("SOLVER.STEPS", "[30, 4e1]", (30, 40)),
        ("SOLVER.STEP_EPOCHS", "(8, 11)", [8, 11]),
        ("INPUT.MIN_SIZE_TRAIN", "[480, 640]", (480, 640)),
        ("MODEL.PIXEL_MEAN", "(1, 2.5, 3)", [1, 2.5, 3]),
        ("OUTPUT_DIR", "2024", "2024"),
        ("OUTPUT_DIR", "'2024'", "2024"),
        ("OUTPUT_DIR", "runs/[a]", "runs/[a]"),
        ("MODEL.WEIGHTS", "", ""),
        ("MODEL.WEIGHTS", "None", ""),
        ("MODEL.WEIGHTS", None, ""),
        ("SOLVER.MAX_ITER", "1e4", 10000),
        ("SOLVER.MAX_ITER", 12.0, 12),
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", "inf", float("inf")),
        ("SOLVER.WEIGHT_DECAY_BIAS", "0.1", 0.1),
        ("SOLVER.WEIGHT_DECAY_BIAS", "None", None),
        ("SOLVER.NESTEROV", "true", True),
        ("SOLVER.NESTEROV", "False", False),
        ("SOLVER.NESTEROV", "no", False),
        ("SOLVER.NESTEROV", "1", True),
    ],
)
def test_values_as_people_type_them(key, typed, expected):
    value = value_of(key, typed)
    assert value == expected and type(value) is type(expected)


WRONG = [
    ("MODEL.FLOW_DET.IN_FEATURES", "[res4", 'in quotes, MODEL.FLOW_DET.IN_FEATURES "[res4'),
    ("MODEL.FLOW_DET.IN_FEATURES", "[[res4]]", "\"['res4']\""),
    ("MODEL.FLOW_DET.IN_FEATURES", "[res4,,res5]", "\"['res4']\""),
    ("MODEL.FLOW_DET.IN_FEATURES", [4], "\"['res4']\""),
    ("SOLVER.STEPS", "[a, b]", 'SOLVER.STEPS "[30000]"'),
    ("SOLVER.STEPS", "[2.5]", "an integer"),
    ("SOLVER.STEPS", "soon", "a list"),
    ("SOLVER.STEP_EPOCHS", "[1;2]", '"[1, 2]"'),
    ("MODEL.PIXEL_MEAN", "[a, b, c]", "a list of numbers"),
    ("MODEL.PIXEL_MEAN", "True", "a list"),
    ("SOLVER.MAX_ITER", "2.5", "must be an integer; write, for example, SOLVER.MAX_ITER 40000"),
    ("SOLVER.MAX_ITER", "10,000", "an integer"),
    ("SOLVER.MAX_ITER", "True", "an integer"),
    ("SOLVER.MAX_ITER", "None", "an integer"),
    ("SOLVER.MAX_ITER", "inf", "an integer"),
    ("SOLVER.BASE_LR", "2,5", "with a decimal point; write, for example, SOLVER.BASE_LR 0.001"),
    ("SOLVER.BASE_LR", "fast", "a number"),
    ("SOLVER.BASE_LR", "1/2", "a number"),
    ("SOLVER.BASE_LR", "nan", "a finite number"),
    ("SOLVER.BASE_LR", float("inf"), "a finite number"),
    ("SOLVER.BASE_LR", "False", "a number"),
    ("SOLVER.WEIGHT_DECAY_BIAS", "low", "a number"),
    ("SOLVER.NESTEROV", "maybe", "True or False; write, for example, SOLVER.NESTEROV False"),
    ("SOLVER.NESTEROV", "2", "True or False"),
    ("SOLVER.NESTEROV", "0.0", "True or False"),
    ("SOLVER.NESTEROV", "", "True or False"),
    ("OUTPUT_DIR", 2024, "a text, in quotes"),
    ("OUTPUT_DIR", {"a": 1}, "a text, not a group of keys"),
]


@pytest.mark.parametrize("key, typed, hint", WRONG)
def test_error_has_key_value_and_how_to_type_it(key, typed, hint):
    with pytest.raises(ValueError) as info:
        load_config("digits_flow", [key, typed])
    text = str(info.value)
    assert text.startswith(f"{key} is {typed!r}, ") and hint in text and "\n" not in text


@pytest.mark.parametrize(
    "key, value, hint",
    [
        ("SOLVER.MAX_ITER", "many", "MAX_ITER: 40000"),
        ("SOLVER.BASE_LR", [0.1], "BASE_LR: 0.001"),
        ("INPUT.RANDOM_FLIP", False, "a text, in quotes"),
        ("MODEL.CLASS_NAMES", [True, False], "a list of texts, each in quotes"),
        ("MODEL.FLOW_DET.IN_FEATURES", 4, "IN_FEATURES: ['res4']"),
        ("SOLVER", 3, "must be a group of keys, such as SOLVER."),
        ("MODEL.WEIGHTS", {"PATH": "a.pth"}, "a text, not a group of keys"),
    ],
)
def test_error_in_a_file_names_the_file(tmp_path, key, value, hint):
    nested = value
    for name in reversed(key.split(".")):
        nested = {name: nested}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(nested))
    with pytest.raises(ValueError) as info:
        load_config(str(path))
    assert str(info.value).startswith(f"{path}: {key} is {value!r}, ") and hint in str(info.value)


def test_values_in_a_file_that_yaml_reads_as_another_type(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "SOLVER:\n  BASE_LR: 1\n  WEIGHT_DECAY: 1e-3\n  NESTEROV: on\n  MAX_ITER: 1e2\n"
        "INPUT:\n  MIN_SIZE_TRAIN: 640\nDATASETS:\n  TRAIN: a_train\n  TEST: (b_test,)\n"
        "MODEL:\nOUTPUT_DIR: '2024'\n"
    )
    cfg = load_config(str(path))
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.WEIGHT_DECAY, solver.NESTEROV) == (1.0, 1e-3, True)
    assert (solver.MAX_ITER, cfg.INPUT.MIN_SIZE_TRAIN, cfg.OUTPUT_DIR) == (100, (640,), "2024")
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("a_train",), ("b_test",))


@pytest.mark.parametrize(
    "overrides, kind, message",
    [
        (["SOLVER.BASE_LR"], ValueError, "SOLVER.BASE_LR has no value.*SOLVER.BASE_LR 0.001"),
        (["SEED", "1", "SOLVER.STEPS"], ValueError, "SOLVER.STEPS has no value"),
        (["SOLVER.BASE_LR=1"], ValueError, "as two words, SOLVER.BASE_LR 1"),
        (["SOLVER.BASE_LR=1", "SEED=2"], ValueError, "as two words, SOLVER.BASE_LR 1"),
        (["SOLVER", "3"], ValueError, "SOLVER is a group of keys.*SOLVER\\."),
        (["MODEL.RESNETS.OUT_FEATURES", "[res3,", "res4]"], ValueError, "beginning of a list"),
        (["solver.base_lr", "1"], KeyError, "unknown config key solver.base_lr.*SOLVER.BASE_LR"),
        (["BASE_LR", "1"], KeyError, "unknown config key BASE_LR.*SOLVER.BASE_LR"),
        (["SOLVER.NUM_WORKERS", "1"], KeyError, "DATALOADER.NUM_WORKERS"),
        (["QQQQ", "1"], KeyError, "unknown config key QQQQ"),
        (["MODEL.FLOW_DET.NUM_QUERIES", "many"], ValueError, "NUM_QUERIES is 'many'"),
        (["MODEL.FLOW_DET.BACKGROUND_WEIGHT", "x"], ValueError, "BACKGROUND_WEIGHT is 'x'"),
    ],
)
def test_overrides_that_are_no_pairs_of_keys_and_values(overrides, kind, message):
    with pytest.raises(kind, match=message) as info:
        load_config("digits_flow", overrides)
    assert "\n" not in str(info.value)


def test_unknown_key_in_a_file_names_the_file_and_similar_keys(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("SOLVER:\n  BASE_RL: 0.1\n")
    with pytest.raises(
        KeyError,
        match=r"config.yaml: unknown config key SOLVER.BASE_RL; similar.*"
        r"SOLVER.BASE_LR",
    ):
        load_config(str(path))
