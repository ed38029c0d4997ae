"""Keys that `--resume` cannot change."""

import pytest

from flowdet.engine import FlowDetCheckpointer, Trainer, resolve_config
from flowdet.engine.resumed_keys import check_resumed_keys, check_resumed_length
from tests.detection.tiny import tiny_cfg, tiny_model

IMAGES = {"a": [((2, 3, 30, 33), "cat", 0)], "b": [((2, 3, 30, 33), "dog", 0)]}


@pytest.fixture
def cfg(tmp_path):
    """The config of a run with a checkpoint."""
    cfg = tiny_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    FlowDetCheckpointer(tiny_model(), str(tmp_path)).save("model_0000001")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return cfg


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.FLOW_DET.PROPOSAL_QUERIES", 30),
        ("MODEL.FLOW_DET.NUM_BLOCKS", 5),
        ("MODEL.FLOW_DET.SELF_CONDITIONING", False),
        ("MODEL.META_ARCHITECTURE", "BackpropDetector"),
        ("SOLVER.OPTIMIZER", "SGD"),
        ("SOLVER.BASE_LR", 0.5),
        ("SOLVER.IMS_PER_BATCH", 64),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 7.0),
        # of the learning rate
        ("SOLVER.WARMUP_FACTOR", 0.5),
        ("SOLVER.BASE_LR_END", 1e-6),
    ],
)
def test_keys_of_model_and_optimizer_are_named(cfg, key, value, caplog):
    check_resumed_keys(cfg)
    assert "--resume" not in caplog.text
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError) as error:
        check_resumed_keys(cfg)
    message = str(error.value)
    check_resumed_keys(cfg, override=True)
    assert f"--resume changes, after {cfg.OUTPUT_DIR}/model_0000001.pth: {key} " in caplog.text
    assert (
        message.startswith(f"--resume cannot change {key} from ") and f" to {value!r}:" in message
    )
    assert "model_0000001.pth" in message and "--override" in message and "\n" not in message


def test_length_inference_and_files_may_change_and_are_told(cfg, caplog):
    cfg.merge_from_list(
        [
            *("SOLVER.MAX_EPOCHS", 0, "SOLVER.CHECKPOINT_EPOCHS", 0, "TEST.EVAL_PERIOD", 2),
            *("MODEL.FLOW_DET.SCORE_THRESHOLD", 0.3, "MODEL.FLOW_DET.NUM_STEPS", 9),
            *("MODEL.FLOW_DET.INFERENCE_MODE", "ensemble", "MODEL.WEIGHTS", "other.pth"),
            *("MODEL.DEVICE", "cuda", "DATALOADER.NUM_WORKERS", 1, "SEED", 8),
            *("INPUT.RANDOM_FLIP", "vertical", "DATASETS.TRAIN", ("other",)),
        ]
    )
    check_resumed_keys(cfg)
    for text in (
        *("SOLVER.MAX_EPOCHS from 7 to 0", "CHECKPOINT_EPOCHS from 3 to 0", "SEED from 0 to 8"),
        *("RANDOM_FLIP from 'none' to 'vertical'", "TRAIN from ['digits_train'] to ['other']"),
    ):
        assert text in caplog.text
    # it has no effect on a resumed training
    assert "MODEL.WEIGHTS from" not in caplog.text


def test_keys_that_the_model_does_not_read_may_change(cfg):
    cfg.merge_from_list(
        [
            *("MODEL.BOX_TRANSPORT.SIGNAL_SCALE", 1.0, "MODEL.FORWARD_FORWARD.LABEL", "pixels"),
            *("MODEL.FLOW_CLS.NUM_BLOCKS", 9, "MODEL.NOPROP.ETA", 0.7),
            # it counts only with the optimizer SGD
            *("SOLVER.NESTEROV", True),
        ]
    )
    check_resumed_keys(cfg)


def test_many_keys_are_counted(cfg):
    node = cfg.MODEL.FLOW_DET
    node.NUM_BLOCKS, node.NUM_QUERIES, node.BOX_SAMPLES, node.NUM_HEADS, node.DROPOUT = (
        9,
        9,
        9,
        9,
        1,
    )
    with pytest.raises(ValueError, match="NUM_.* and 2 more keys: "):
        check_resumed_keys(cfg)


def test_a_run_without_checkpoint_or_of_an_earlier_version(cfg, tmp_path):
    text = (tmp_path / "config.yaml").read_text()
    earlier = "\n".join(x for x in text.splitlines() if "NUM_QUERIES" not in x)
    (tmp_path / "config.yaml").write_text(earlier)
    cfg.MODEL.FLOW_DET.NUM_QUERIES = 77
    check_resumed_keys(cfg)
    cfg.MODEL.FLOW_DET.NUM_BLOCKS = 9
    for name in ("last_checkpoint", "model_0000001.pth"):
        (tmp_path / name).unlink()
    check_resumed_keys(cfg)


def test_an_optimizer_of_another_model_is_not_resumed(voc_dataset, tmp_path):
    """As with --override and a key that adds parameters."""
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.OUTPUT_DIR, cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MAX_ITER = str(tmp_path), 0, 1
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    resolve_config(cfg)
    trainer = Trainer(cfg)
    trainer.checkpointer.save("model_0000000", iteration=0)
    cfg.MODEL.FLOW_DET.PROPOSAL_QUERIES = 5
    with pytest.raises(ValueError, match="optimizer's state in .* does not fit the parameters"):
        Trainer(cfg).resume_or_load(resume=True)


def test_a_resumed_training_is_not_shorter_than_its_run(cfg, tmp_path):
    # a checkpoint that records no iteration
    check_resumed_length(cfg)
    path = tmp_path / "model_0000009.pth"
    FlowDetCheckpointer(tiny_model(), str(tmp_path)).save(path.stem, iteration=9)
    cfg.SOLVER.MAX_ITER = 9
    with pytest.raises(ValueError, match=f"{path} has 10 iterations, and SOLVER.MAX_ITER is 9."):
        check_resumed_length(cfg)
    for length in (10, 11):
        cfg.SOLVER.MAX_ITER = length
        check_resumed_length(cfg)
    cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER = str(tmp_path / "none"), 1
    check_resumed_length(cfg)
