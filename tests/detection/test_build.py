"""What the keys of MODEL.FLOW_DET are made into."""

import logging

import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from flowdet.detection.build import build_loss_weights, max_position_frequency
from flowdet.engine import load_config
from flowdet.events import warn_of_untrained_blocks
from tests.detection.tiny import batch, targets_of, tiny_cfg, tiny_model


@pytest.mark.parametrize("queries", [20, 50, 100])
def test_background_weight_of_an_image_does_not_depend_on_the_number_of_queries(queries):
    criterion = tiny_model(NUM_QUERIES=queries, BACKGROUND_WEIGHT_PER_IMAGE=2.0).criterion
    assert queries * criterion.class_weights[-1].item() == pytest.approx(2.0, rel=1e-5)
    # the divisor of the classification loss of an image without objects
    normalizer = criterion.normalizer(targets_of([]), queries)
    assert normalizer.classes.item() == pytest.approx(2.0, rel=1e-5)


def test_a_background_query_never_weighs_more_than_an_object():
    node = tiny_cfg(NUM_QUERIES=1, BACKGROUND_WEIGHT_PER_IMAGE=2.0).MODEL.FLOW_DET
    assert build_loss_weights(node).background == 1.0


@pytest.mark.parametrize(
    ("config", "expected"),
    # 96 / 8 = 12 and 256 / 16 = 16 tokens per side
    [("digits_flow", 5.0), ("voc_flow_r50", 7.0), ("voc_flow_r18_frozen", 7.0)],
)
def test_position_frequency_follows_from_the_token_grid(config, expected):
    cfg = load_config(config, ["MODEL.WEIGHTS", "", "MODEL.FLOW_DET.NUM_CLASSES", 3])
    cfg.MODEL.DEVICE = "cpu"
    frequencies = build_model(cfg).neck.encoding.frequencies
    # in radians per image
    assert frequencies[-1].item() / 6.2831853 == pytest.approx(expected, rel=1e-5)


def frequency(strides=(8,), fixed_size=(96, 128), key=0.0, min_size=800):
    cfg = tiny_cfg(POSITION_MAX_FREQUENCY=key)
    cfg.INPUT.FIXED_SIZE, cfg.INPUT.MIN_SIZE_TEST = list(fixed_size), min_size
    return max_position_frequency(cfg, [ShapeSpec(stride=stride) for stride in strides])


def test_position_frequency_is_that_of_the_shorter_side_and_the_finest_map():
    assert frequency() == frequency(fixed_size=(128, 96)) == 5.0
    assert frequency(strides=(16, 8)) == 5.0
    # images that are not resized to a fixed size have at least MIN_SIZE_TEST
    assert frequency(fixed_size=(0, 0), min_size=160) == 9.0
    # two tokens per side
    assert frequency(fixed_size=(16, 16)) == 1.0


def test_position_frequency_can_be_set():
    assert frequency(key=3.5) == 3.5
    assert frequency(strides=(None,), fixed_size=(0, 0), key=3.5, min_size=0) == 3.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": -1.0}, "is -1.0, but must be at least 0"),
        ({"fixed_size": (0, 0), "min_size": 0}, "image size .* is not known"),
        ({"strides": (None,)}, "stride of the backbone is not known"),
    ],
)
def test_impossible_or_unknown_position_frequency_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=f"MODEL.FLOW_DET.POSITION_MAX_FREQUENCY .*{message}"):
        frequency(**arguments)


@pytest.fixture
def warnings_of(caplog):
    """The warnings about untrained blocks of two inferences with a model of these keys."""
    warn_of_untrained_blocks.cache_clear()

    def run(**keys):
        model = tiny_model(**keys).eval()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "flowdet.events"):
            for _ in range(2):
                model(batch())
        return [record.getMessage() for record in caplog.records]

    yield run
    warn_of_untrained_blocks.cache_clear()


@pytest.mark.parametrize(
    ("mode", "block", "blocks"),
    [
        ("ensemble", 0, "blocks 1, 2 "),
        ("multi_step_ensemble", 0, "blocks 1, 2 "),
        ("single_step", 1, "block 1 "),
        ("single_step", -1, "block 2 "),
    ],
)
def test_mode_with_blocks_that_were_not_trained_at_the_start_warns_once(
    warnings_of, mode, block, blocks
):
    (message,) = warnings_of(INFERENCE_MODE=mode, SINGLE_STEP_BLOCK=block)
    assert f"inference mode {mode}" in message and f"evaluates {blocks}at t = 0" in message
    assert "MODEL.FLOW_DET.INFERENCE_MODE multi_step" in message
    assert "MODEL.FLOW_DET.LEARN_AT_START True" in message


@pytest.mark.parametrize(
    "keys",
    [
        {"INFERENCE_MODE": "multi_step"},
        {"INFERENCE_MODE": "single_step", "SINGLE_STEP_BLOCK": 0},
        {"INFERENCE_MODE": "ensemble", "LEARN_AT_START": True},
        {"INFERENCE_MODE": "single_step", "SINGLE_STEP_BLOCK": 2, "LEARN_AT_START": True},
        {"INFERENCE_MODE": "ensemble", "TRAINING_STATES": "interpolated"},
        # rollouts of one step: all blocks are trained at t = 0
        {"INFERENCE_MODE": "ensemble", "ROLLOUT_STEPS": [1, 3]},
    ],
    ids=str,
)
def test_mode_with_trained_blocks_does_not_warn(warnings_of, keys):
    assert warnings_of(**keys) == []
