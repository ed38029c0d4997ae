"""Config files with overrides."""

import pytest
from detectron2.config import CfgNode

import flowdet
from flowdet.config import flat_items
from flowdet.engine import load_config
from flowdet.engine.config import overlay_overrides, with_keys


def test_overrides_replace_the_values_of_the_file():
    cfg = load_config("digits_flow", ["SOLVER.BASE_LR", "0.5", "OUTPUT_DIR", "elsewhere"])
    assert cfg.SOLVER.BASE_LR == 0.5 and cfg.OUTPUT_DIR == "elsewhere"
    assert cfg.MODEL.FLOW_DET.NUM_QUERIES == 20
    assert load_config("digits_flow").SOLVER.BASE_LR == 1e-3


@pytest.mark.parametrize(
    "key, similar",
    [
        ("MODEL.FLOW_DET.NUM_BLOKS", "MODEL.FLOW_DET.NUM_BLOCKS"),
        ("SOLVER.OPTIMISER", "SOLVER.OPTIMIZER"),
        ("MODEL.FLOWDET.NUM_QUERIES", "MODEL.FLOW_DET.NUM_QUERIES"),
    ],
)
def test_unknown_key_lists_similar_keys(key, similar):
    with pytest.raises(KeyError, match=f"unknown config key {key}; similar keys are .*'{similar}'"):
        load_config("digits_flow", ["SEED", "1", key, "3"])


def test_integer_for_a_float_key_becomes_a_float():
    cfg = load_config("digits_flow", ["SOLVER.BASE_LR", "1", "SEED", "7"])
    assert cfg.SOLVER.BASE_LR == 1.0 and isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.SEED == 7 and isinstance(cfg.SEED, int)


def test_iterations_in_overrides_switch_off_the_epochs_of_the_file():
    file = load_config("voc_flow_r50")
    assert file.SOLVER.MAX_EPOCHS == 50 and file.TEST.EVAL_EPOCHS == 5
    cfg = load_config("voc_flow_r50", ["SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "(10,)"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.MAX_EPOCHS) == (20, 0)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.STEP_EPOCHS) == ((10,), [])
    assert cfg.TEST.EVAL_EPOCHS == 5
    both = load_config("voc_flow_r50", ["SOLVER.MAX_ITER", "20", "SOLVER.MAX_EPOCHS", "3"])
    assert (both.SOLVER.MAX_ITER, both.SOLVER.MAX_EPOCHS) == (20, 3)


def test_get_config_takes_names_and_values_that_are_no_strings():
    cfg = flowdet.get_config("voc_flow_r50", ["SOLVER.BASE_LR", 2e-4, "INPUT.FIXED_SIZE", [64, 64]])
    assert cfg.SOLVER.BASE_LR == 2e-4 and cfg.INPUT.FIXED_SIZE == [64, 64]
    assert cfg.MODEL.META_ARCHITECTURE == "FlowMatchingDetector"


def test_with_keys_changes_a_copy():
    cfg = load_config("digits_flow")
    cfg.freeze()
    changed = with_keys(cfg, {"SEED": 5, "MODEL.FLOW_DET.NUM_BLOCKS": 2})
    assert (changed.SEED, changed.MODEL.FLOW_DET.NUM_BLOCKS) == (5, 2)
    assert (cfg.SEED, cfg.MODEL.FLOW_DET.NUM_BLOCKS) == (0, 4)


def test_flat_items_are_nodes_and_leaves():
    items = dict(flat_items(CfgNode({"A": 1, "B": {"C": {"D": "x"}}})))
    assert list(items) == ["A", "B", "B.C", "B.C.D"]
    assert items["A"] == 1 and items["B.C.D"] == "x"


def test_an_overlay_as_overrides_changes_what_it_would_change_as_a_base():
    words = overlay_overrides("cls/bases/paper")
    assert all(isinstance(word, str) for word in words)
    node = load_config("cls/cifar10_flow_vit", words).MODEL.FLOW_CLS
    assert (node.PREDICTION, node.NOISE_SCALE, node.LEARN_AT_START) == ("velocity", 1.0, False)
    with pytest.raises(FileNotFoundError, match="no config file 'cls/bases/nothing'"):
        overlay_overrides("cls/bases/nothing")
