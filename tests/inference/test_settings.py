"""inference_config: options for inference, and which models and modes they apply to."""

from pathlib import Path

import pytest

from flowdet.config.errors import UsageError
from flowdet.inference.settings import inference_config

CONFIGS = Path(__file__).parents[2] / "configs"
DETECTOR, CLASSIFIER = str(CONFIGS / "digits_flow.yaml"), str(CONFIGS / "cls/digits_flow_vit.yaml")
BACKPROP = str(CONFIGS / "digits_backprop.yaml")


@pytest.mark.parametrize(("file", "node"), [(DETECTOR, "FLOW_DET"), (CLASSIFIER, "FLOW_CLS")])
def test_options_set_the_keys_of_the_task(file, node):
    overrides = ["TEST.BATCH_SIZE", 9, "SEED", 5]
    cfg = inference_config(file, overrides, device="cpu", mode="single_step", block=1, batch_size=3)
    keys = cfg.MODEL[node]
    assert (keys.INFERENCE_MODE, keys.SINGLE_STEP_BLOCK) == ("single_step", 1)
    assert (cfg.MODEL.DEVICE, cfg.TEST.BATCH_SIZE, cfg.SEED) == ("cpu", 3, 5)
    assert inference_config(file, mode="multi_step", steps=7).MODEL[node].NUM_STEPS == 7


def test_without_options_the_config_is_unchanged():
    keys = inference_config(DETECTOR, ["MODEL.FLOW_DET.NUM_STEPS", 2]).MODEL.FLOW_DET
    assert (keys.INFERENCE_MODE, keys.NUM_STEPS) == ("multi_step", 2)
    assert inference_config(BACKPROP).MODEL.META_ARCHITECTURE == "BackpropDetector"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "ensemble", "steps": 2}, "steps is for mode multi_step or multi_step_ensemble"),
        ({"mode": "single_step", "steps": 2}, "steps is for .*, not for single_step"),
        ({"block": 1}, "block is for mode single_step, not for multi_step"),
        # the texts of InferencePlan.check
        ({"mode": "fast"}, "INFERENCE_MODE is 'fast', but must be a reg"),
        ({"steps": 0}, "must be at least 1, got 0"),
        ({"mode": "single_step", "block": 4}, "no block 4 .*blocks are 0 to 3"),
    ],
)
def test_options_that_do_not_apply(options, message):
    with pytest.raises(UsageError, match=message) as raised:
        inference_config(DETECTOR, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"mode": "ensemble"}, {"steps": 2}, {"block": 0}])
def test_a_model_without_inference_modes(options):
    name = next(iter(options))
    with pytest.raises(UsageError, match=f"BackpropDetector has no .* modes: leave out {name}$"):
        inference_config(BACKPROP, **options)
