"""Configs with keys of earlier versions."""

import logging
from collections import Counter

import detectron2.utils.logger
import pytest
import yaml

from flowdet.engine import load_config
from flowdet.engine.renamed_keys import update_config

# the keys of a detector's config.yaml whose names or values have changed
OLD_DETECTOR = {
    "ASSIGNMENT": "carried",
    "BACKGROUND_WEIGHT": 0.04,
    "CHAIN_STEPS": [1, 2],
    "NUM_QUERIES": 50,
    "PASS_LENGTH": 106,
    "POSITION_MAX_FREQUENCY": 7.0,
    "QUALITY_TARGETS": True,
    "SINGLE_STEP_BLOCK": 0,
    "STABILITY_DRAWS": 4,
    "TRAINING_STATES": "chain",
}
OLD_CLASSIFIER = {
    "CHAIN_STEPS": [],
    "LEARN_AT_START": True,
    "PASS_LENGTH": 0,
    "SINGLE_STEP_BLOCK": -1,
    "TRAINING_STATES": "chain",
}


@pytest.fixture(autouse=True)
def log_again(monkeypatch):
    """Every message is logged once per process; a test must not depend on earlier ones."""
    monkeypatch.setattr(detectron2.utils.logger, "_LOG_COUNTER", Counter())


def write(path, detector=None, classifier=None, **more):
    nodes = {"FLOW_DET": detector, "FLOW_CLS": classifier}
    loaded = {"MODEL": {name: node for name, node in nodes.items() if node}} | more
    path.write_text(yaml.safe_dump(loaded))
    return str(path)


def messages(caplog):
    return [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]


def test_config_of_an_old_run_keeps_its_meaning(tmp_path, caplog):
    path = write(tmp_path / "config.yaml", OLD_DETECTOR, OLD_CLASSIFIER, VERSION=2)
    cfg = load_config(path)
    node = cfg.MODEL.FLOW_DET
    assert (node.MATCHING, node.TRAINING_STATES) == ("shared", "rollout")
    assert node.BACKGROUND_WEIGHT_PER_IMAGE == 2.0
    assert (node.ROLLOUT_STEPS, node.ITERS_PER_EPOCH) == ([1, 2], 106)
    assert node.IOU_AWARE_TARGETS is True and node.STABILITY_SAMPLES == 4
    assert node.POSITION_MAX_FREQUENCY == 7.0
    node = cfg.MODEL.FLOW_CLS
    assert (node.TRAINING_STATES, node.SINGLE_STEP_BLOCK) == ("rollout", -1)
    # it was not a key: only the losses at t = 0 trained the features
    assert node.STATES_TRAIN_FEATURES is False and cfg.MODEL.FLOW_DET.STATES_TRAIN_FEATURES is True
    assert not {"ASSIGNMENT", "BACKGROUND_WEIGHT", "CHAIN_STEPS"} & {*cfg.MODEL.FLOW_DET}


def test_each_renamed_key_is_logged_once(tmp_path, caplog):
    path = write(tmp_path / "config.yaml", OLD_DETECTOR, OLD_CLASSIFIER)
    with caplog.at_level(logging.WARNING):
        load_config(path)
        load_config(path)
    prefix = f"{path}: MODEL."
    renamed = [text for text in messages(caplog) if text.startswith(prefix)]
    assert sorted(text.removeprefix(prefix) for text in renamed) == [
        "FLOW_CLS.CHAIN_STEPS is now MODEL.FLOW_CLS.ROLLOUT_STEPS",
        "FLOW_CLS.PASS_LENGTH is now MODEL.FLOW_CLS.ITERS_PER_EPOCH",
        "FLOW_CLS.TRAINING_STATES 'chain' is now MODEL.FLOW_CLS.TRAINING_STATES 'rollout'",
        "FLOW_DET.ASSIGNMENT 'carried' is now MODEL.FLOW_DET.MATCHING 'shared'",
        "FLOW_DET.BACKGROUND_WEIGHT 0.04 is now MODEL.FLOW_DET.BACKGROUND_WEIGHT_PER_IMAGE 2.0",
        "FLOW_DET.CHAIN_STEPS is now MODEL.FLOW_DET.ROLLOUT_STEPS",
        "FLOW_DET.PASS_LENGTH is now MODEL.FLOW_DET.ITERS_PER_EPOCH",
        "FLOW_DET.QUALITY_TARGETS is now MODEL.FLOW_DET.IOU_AWARE_TARGETS",
        "FLOW_DET.STABILITY_DRAWS is now MODEL.FLOW_DET.STABILITY_SAMPLES",
        "FLOW_DET.TRAINING_STATES 'chain' is now MODEL.FLOW_DET.TRAINING_STATES 'rollout'",
    ]


def test_current_configs_are_left_as_they_are(caplog):
    with caplog.at_level(logging.WARNING):
        load_config("paper/voc_flow_r50")
        load_config("digits_flow", ["MODEL.FLOW_DET.MATCHING", "per_block"])
    assert messages(caplog) == []


@pytest.mark.parametrize("value, expected", [("own", "per_block"), ("carried", "shared")])
def test_old_keys_in_overrides(value, expected, caplog):
    with caplog.at_level(logging.WARNING):
        cfg = load_config("digits_flow", ["MODEL.FLOW_DET.ASSIGNMENT", value, "SEED", 4])
    assert cfg.MODEL.FLOW_DET.MATCHING == expected and cfg.SEED == 4
    assert messages(caplog) == [
        f"an override: MODEL.FLOW_DET.ASSIGNMENT '{value}' is now MODEL.FLOW_DET.MATCHING "
        f"'{expected}'"
    ]


def test_the_background_weight_of_a_query_counts_all_queries_that_the_model_has(tmp_path):
    def weight(path, *overrides):
        return load_config(path, list(overrides)).MODEL.FLOW_DET.BACKGROUND_WEIGHT_PER_IMAGE

    key = "MODEL.FLOW_DET.BACKGROUND_WEIGHT"
    assert weight("digits_flow", key, "0.1") == pytest.approx(2.0)
    assert weight("digits_flow", key, "0.1", "MODEL.FLOW_DET.NUM_QUERIES", "100") == 10.0
    # a file that does not set the number of queries has that of its base, or the default
    base = write(tmp_path / "base.yaml", {"NUM_QUERIES": 30})
    path = write(tmp_path / "leaf.yaml", {"BACKGROUND_WEIGHT": 0.1}, _BASE_=base)
    assert weight(path) == pytest.approx(3.0)
    path = write(tmp_path / "alone.yaml", {"BACKGROUND_WEIGHT": 0.1})
    assert weight(path) == pytest.approx(0.1 * load_config(path).MODEL.FLOW_DET.NUM_QUERIES)


def test_old_keys_in_a_base(tmp_path, caplog):
    base = write(tmp_path / "base.yaml", {"ASSIGNMENT": "own", "BACKGROUND_WEIGHT": 0.1})
    path = write(tmp_path / "leaf.yaml", {"NUM_QUERIES": 40}, _BASE_=base)
    with caplog.at_level(logging.WARNING):
        node = load_config(path).MODEL.FLOW_DET
    assert node.MATCHING == "per_block" and node.BACKGROUND_WEIGHT_PER_IMAGE == 4.0
    assert len(messages(caplog)) == 2 and all(path in text for text in messages(caplog))


def test_an_old_key_replaces_the_new_key_of_a_base(tmp_path):
    base = write(tmp_path / "base.yaml", {"MATCHING": "shared"})
    path = write(tmp_path / "leaf.yaml", {"ASSIGNMENT": "own"}, _BASE_=base)
    assert load_config(path).MODEL.FLOW_DET.MATCHING == "per_block"


def test_names_of_the_custom_dataset(caplog):
    datasets = {"PATH": "pets", "TRAIN": ["own_pets_train"], "TEST": ["own_pets_val", "voc_test"]}
    loaded = {"DATASETS": dict(datasets)}
    with caplog.at_level(logging.WARNING):
        update_config(loaded, "config.yaml", num_queries=50)
    assert loaded["DATASETS"]["TRAIN"] == ["custom_pets_train"]
    assert loaded["DATASETS"]["TEST"] == ["custom_pets_val", "voc_test"]
    assert messages(caplog)[0] == (
        "config.yaml: DATASETS.TRAIN ['own_pets_train'] is now DATASETS.TRAIN ['custom_pets_train']"
    )
    assert len(messages(caplog)) == 2


@pytest.mark.parametrize(
    "datasets",
    [{"PATH": "", "TRAIN": ["own_pets_train"]}, {"PATH": "pets", "TRAIN": "('voc_2007_train',)"}],
    ids=["datasets of the user", "expression"],
)
def test_other_dataset_names_stay(datasets):
    loaded = {"DATASETS": dict(datasets)}
    update_config(loaded, "config.yaml", num_queries=50)
    assert loaded["DATASETS"] == datasets
