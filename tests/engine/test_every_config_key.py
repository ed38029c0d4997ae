"""Every config key with nonsense: it is refused in one line, or the value is valid."""

import math

import pytest
from detectron2.config import CfgNode

from flowdet.config import flat_items
from flowdet.config.errors import ConfigError
from flowdet.config.schema import KEYS, defaults
from flowdet.config.unread_keys import UNREAD_KEYS
from flowdet.engine import load_config
from flowdet.engine.config_types import typed_value
from flowdet.engine.config_values import check_training_values, check_values, example

NAMES = [name for name in KEYS if name in defaults()]
# keys for which a negative number, or a list that contains one, is valid
NEGATIVE = {
    *("SEED", "MODEL.PIXEL_MEAN", "MODEL.NOPROP.NOISE_SEED", "MODEL.CATEGORY_IDS"),
    *("MODEL.FLOW_DET.NOISE_SEED", "MODEL.FLOW_CLS.NOISE_SEED", "MODEL.RPN.BOUNDARY_THRESH"),
    *("MODEL.FLOW_DET.SINGLE_STEP_BLOCK", "MODEL.FLOW_CLS.SINGLE_STEP_BLOCK"),
    *("MODEL.RPN.CONV_DIMS", "INPUT.VALUE_RANGE"),
}


@pytest.fixture(scope="module")
def cfg():
    return load_config("digits_flow", ["MODEL.DEVICE", "cpu"])


def outcome(cfg, name, typed):
    """The value of a key that is accepted; the message of a ConfigError if it is refused."""
    node, last = cfg, name.rpartition(".")[2]
    for part in name.split(".")[:-1]:
        node = node[part]
    before = node[last]
    try:
        node[last] = typed_value(name, typed, defaults()[name])
        check_values(cfg)
        check_training_values(cfg)
        return node[last], ""
    except ConfigError as error:
        return None, str(error)
    finally:
        node[last] = before


def assert_refused(cfg, name, typed):
    value, text = outcome(cfg, name, typed)
    assert text, f"{name} {typed!r} was accepted as {value!r}"
    # one line that has the key and what the value must be
    assert "\n" not in text and name in text and (" must " in text or " only " in text), text


def numbers():
    return [name for name in NAMES if type(defaults()[name]) in (int, float, type(None))]


def lists():
    return [name for name in NAMES if isinstance(defaults()[name], (list, tuple))]


@pytest.mark.parametrize("typed", ["nan", "inf", "-inf", math.nan, math.inf, 1e309, [math.nan]])
def test_numbers_that_are_not_finite(cfg, typed):
    infinite = {"SOLVER.CLIP_GRADIENTS.NORM_TYPE"} if typed in ("inf", math.inf) else set()
    for name in numbers():
        if name not in infinite:
            assert_refused(cfg, name, typed)


@pytest.mark.parametrize("typed", ["", "abc", "[1]", "1 2", {"A": 1}, [1], "1e400", 10**400])
def test_numbers_of_another_type(cfg, typed):
    infinite = {"SOLVER.CLIP_GRADIENTS.NORM_TYPE"} if typed == "1e400" else set()
    for name in numbers():
        if name not in infinite:
            assert_refused(cfg, name, typed)


@pytest.mark.parametrize("typed", ["", "abc", "[True]", "2", "-1", 0.5, None, math.nan, {}])
def test_true_or_false_of_another_type(cfg, typed):
    for name in NAMES:
        if isinstance(defaults()[name], bool):
            assert_refused(cfg, name, typed)


def test_negative_numbers(cfg):
    for name in numbers():
        if name in NEGATIVE:
            assert outcome(cfg, name, "-1") == (-1, "")
        else:
            assert_refused(cfg, name, "-1")
            assert_refused(cfg, name, -(10**12))


@pytest.mark.parametrize("typed", [[1, "a"], "[1, a]", [math.nan], [math.inf, 1], [[[1]]], {}])
def test_lists_with_elements_of_another_type(cfg, typed):
    for name in lists():
        kind = type([*defaults()[name], ""][0])
        if kind in (int, float, bool) or name in ("SOLVER.STEP_EPOCHS", "TEST.EXPECTED_RESULTS"):
            assert_refused(cfg, name, typed)


def test_lists_with_a_negative_number(cfg):
    for name in lists():
        if type([*defaults()[name], ""][0]) in (int, float) and name not in NEGATIVE:
            length = len(defaults()[name])
            assert_refused(cfg, name, [-1e9] * length)


def test_empty_lists(cfg):
    """An empty list is valid only where it is the default, or for what may be left out."""
    may_be_empty = {"SOLVER.STEPS", "MODEL.FLOW_CLS.IN_FEATURES", "MODEL.RPN.CONV_DIMS"}
    for name in lists():
        if not defaults()[name] or name in may_be_empty:
            assert outcome(cfg, name, "[]")[1] == ""
        else:
            assert_refused(cfg, name, "[]")


def test_names_that_do_not_exist(cfg):
    free = ("a text", "the path")
    for name in NAMES:
        if isinstance(defaults()[name], str) and (
            not KEYS[name].rule.text.startswith(free) or name.endswith(".BLOCK")
        ):
            assert_refused(cfg, name, "no such name")


def test_every_text_and_list_takes_no_group_of_keys(cfg):
    for name in NAMES:
        assert_refused(cfg, name, {"A": 1})


def test_far_too_large_numbers(cfg):
    wide = {"MODEL.FLOW_DET.NOISE_SEED", "MODEL.FLOW_CLS.NOISE_SEED", "MODEL.NOPROP.NOISE_SEED"}
    for name in numbers():
        if name not in {*wide, "SOLVER.CLIP_GRADIENTS.NORM_TYPE"}:
            assert_refused(cfg, name, 10**18)


def test_defaults_and_examples_are_valid():
    for name in NAMES:
        key, default = KEYS[name], defaults()[name]
        assert key.rule.accepts(default), name
        shown = example(name).strip('"')
        assert key.rule.accepts(typed_value(name, shown, default)), (name, shown)


def test_names_of_the_rules_are_those_of_the_code():
    """The declaration is below the code that reads the keys, so it repeats some names."""
    from flowdet.data.custom.findings import ON_PROBLEM
    from flowdet.detection.box_transport.paths import PATHS
    from flowdet.detection.detector import BLOCK_EXECUTIONS, COUPLINGS
    from flowdet.detection.heads import BOX_HEADS
    from flowdet.detection.set_detector import MATCHINGS
    from flowdet.engine.optimizer import OPTIMIZERS
    from flowdet.engine.previews import MAX_SAMPLES
    from flowdet.flowcls.baselines.forward_forward import INFERENCES
    from flowdet.flowcls.baselines.label_overlay import LABELS
    from flowdet.flowcls.baselines.layer_collaboration import COLLABORATIONS
    from flowdet.flowcls.baselines.noprop import EMBEDDINGS, VARIANTS
    from flowdet.flowcls.classifier import TOPOLOGIES
    from flowdet.flowcls.feature_reader import FEATURES

    for name, names in {
        "DATASETS.ON_PROBLEM": ON_PROBLEM,
        "MODEL.BOX_TRANSPORT.PATH": PATHS,
        "MODEL.FLOW_DET.BLOCK_EXECUTION": BLOCK_EXECUTIONS,
        "MODEL.FLOW_DET.COUPLING": COUPLINGS,
        "MODEL.FLOW_DET.BOX_HEAD": BOX_HEADS,
        "MODEL.FLOW_DET.MATCHING": MATCHINGS,
        "SOLVER.OPTIMIZER": OPTIMIZERS,
        "MODEL.FORWARD_FORWARD.INFERENCE": INFERENCES,
        "MODEL.FORWARD_FORWARD.LABEL": LABELS,
        "MODEL.FORWARD_FORWARD.COLLABORATION": COLLABORATIONS,
        "MODEL.NOPROP.EMBEDDING": EMBEDDINGS,
        "MODEL.NOPROP.VARIANT": VARIANTS,
        "MODEL.FLOW_CLS.TOPOLOGY": TOPOLOGIES,
        "MODEL.FLOW_CLS.FEATURES": FEATURES,
    }.items():
        assert KEYS[name].rule.text == f"one of {', '.join(names)}", name
    assert KEYS["TEST.SAMPLE_IMAGES"].rule.text == f"from 0 to {MAX_SAMPLES}"


def test_unread_keys_still_have_a_type():
    unread = [name for name in defaults() if name.startswith(tuple(UNREAD_KEYS))]
    for name in unread:
        if type(defaults()[name]) in (int, float):
            with pytest.raises(ConfigError, match=name):
                typed_value(name, "nan", defaults()[name])


def test_all_keys_of_a_config_are_walked(cfg):
    leaves = {name for name, value in flat_items(cfg) if not isinstance(value, CfgNode)}
    assert leaves == {*NAMES} | {n for n in leaves if n.startswith(tuple(UNREAD_KEYS))}
    assert len(NAMES) > 300
