"""`--resume` with a config whose model or optimizer differs from that of the run."""

import pytest
from detectron2.modeling import build_model

from flowdet.engine import FlowDetCheckpointer, build_optimizer
from flowdet.engine.config import with_keys
from flowdet.engine.resumed_model import check_resumed_config, check_resumed_model
from tests.detection.tiny import tiny_cfg

ANCHORS = {"MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32]]}


class TrainerState:
    """The part of a trainer that a checkpoint has."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def state_dict(self):
        return {"iteration": 3, "_trainer": {"optimizer": self.optimizer.state_dict()}}


def cfg_of(folder, keys=None, **flow_keys):
    return with_keys(tiny_cfg(**flow_keys), {"OUTPUT_DIR": str(folder), **ANCHORS, **(keys or {})})


def save_run(cfg):
    """Writes config.yaml and a checkpoint of a run."""
    model = build_model(cfg)
    state = TrainerState(build_optimizer(cfg, model))
    FlowDetCheckpointer(model, cfg.OUTPUT_DIR, trainer=state).save("model_0000002")
    with open(f"{cfg.OUTPUT_DIR}/config.yaml", "w") as file:
        file.write(cfg.dump())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run without a proposal network."""
    folder = tmp_path_factory.mktemp("run")
    save_run(cfg_of(folder))
    return folder


def error_of(cfg):
    with pytest.raises(ValueError) as error:
        check_resumed_config(cfg)
    message = str(error.value)
    assert message.startswith("--resume cannot change the trained parameters or the optimizer")
    assert "or start anew in another OUTPUT_DIR" in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    "key, value, trained",
    [
        ("FLOW_DET.PROPOSAL_QUERIES", 4, 0),
        ("FLOW_DET.NECK_BLOCKS", 1, 0),
        ("FLOW_DET.NUM_BLOCKS", 2, 3),
        ("FLOW_DET.NUM_BLOCKS", 4, 3),
        ("FLOW_DET.BOX_SAMPLES", 3, None),
        ("FLOW_DET.BOX_HEAD", "linear", "mlp"),
        ("FLOW_DET.LEARN_TARGET", None, None),
        ("FLOW_DET.HIDDEN_DIM", 64, 32),
        ("META_ARCHITECTURE", "BackpropDetector", "FlowMatchingDetector"),
        ("META_ARCHITECTURE", "FCOSDetector", "FlowMatchingDetector"),
    ],
)
def test_a_key_that_changes_the_parameters_is_named(folder, key, value, trained):
    cfg = cfg_of(folder)
    group, _, name = key.rpartition(".")
    node = cfg.MODEL[group] if group else cfg.MODEL
    before = node[name]
    if trained is not None:
        assert before == trained
    node[name] = value = (not before) if value is None else value
    assert f"MODEL.{key} {before!r} (here {value!r})" in error_of(cfg)


def test_a_removed_network_is_named(tmp_path):
    save_run(cfg_of(tmp_path, PROPOSAL_QUERIES=4))
    message = error_of(cfg_of(tmp_path))
    assert "MODEL.FLOW_DET.PROPOSAL_QUERIES 4 (here 0)" in message
    assert "number or grouping of trained parameters" in message
    check_resumed_config(cfg_of(tmp_path, PROPOSAL_QUERIES=5))


@pytest.mark.parametrize(
    "keys, part",
    [
        ({"SOLVER.OPTIMIZER": "SGD"}, "another optimizer (AdamW)"),
        ({"SOLVER.BIAS_LR_FACTOR": 0.5}, "grouping of trained parameters"),
        ({"SOLVER.WEIGHT_DECAY_NORM": 1e-4}, "grouping of trained parameters"),
        ({"SOLVER.AMP.ENABLED": True}, "another precision"),
    ],
)
def test_a_key_that_changes_the_optimizer_is_named(folder, keys, part):
    cfg = cfg_of(folder, keys)
    message = error_of(cfg)
    assert part in message and next(iter(keys)) in message


def test_the_architecture_comes_first_and_long_lists_are_cut(folder):
    other = {"MODEL.META_ARCHITECTURE": "BackpropDetector", "SOLVER.OPTIMIZER": "SGD"}
    flow_keys = {"MATCHING": "per_block", "NMS_THRESHOLD": 0.9, "NUM_BLOCKS": 1, "DROPOUT": 0.3}
    message = error_of(cfg_of(folder, other, FLOW_WEIGHT=0.5, NOISE_SEED=3, **flow_keys))
    assert "config.yaml: MODEL.META_ARCHITECTURE 'FlowMatchingDetector' (here" in message
    assert message.count("(here") == 6 and "and 2 more keys" in message


def test_keys_that_keep_the_parameters_can_change(folder):
    keys = {"SOLVER.MAX_EPOCHS": 9, "SOLVER.BASE_LR": 1e-5, "MODEL.WEIGHTS": "other.pth"}
    check_resumed_config(cfg_of(folder, keys))
    check_resumed_config(cfg_of(folder, NMS_THRESHOLD=0.3, NUM_STEPS=9, DENOISING_QUERIES=4))


def test_nothing_is_built_for_the_same_config(folder, monkeypatch):
    monkeypatch.setattr("flowdet.engine.resumed_model.build_model", None)
    check_resumed_config(cfg_of(folder, {"SOLVER.MAX_ITER": 50, "MODEL.DEVICE": "cpu"}))


def test_a_run_without_a_config_or_a_checkpoint(folder, tmp_path):
    check_resumed_config(cfg_of(tmp_path))
    save_run(cfg_of(tmp_path))
    (tmp_path / "config.yaml").unlink()
    check_resumed_config(cfg_of(tmp_path))
    message = error_of(cfg_of(tmp_path, NUM_BLOCKS=1))
    assert "trained with another config or another version of the model" in message


def test_a_trainer_compares_its_own_model(folder):
    cfg = cfg_of(folder, NUM_BLOCKS=2)
    model = build_model(cfg)
    with pytest.raises(ValueError, match=r"NUM_BLOCKS 3 \(here 2\)"):
        check_resumed_model(cfg, model, build_optimizer(cfg, model))
