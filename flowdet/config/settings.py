"""The settings that models take from their config keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from flowdet.flow import InferencePlan, InferenceSettings, StateSettings


def state_settings(node: CfgNode) -> StateSettings:
    """Returns the settings of the training states in `MODEL.FLOW_DET` or `MODEL.FLOW_CLS`.

    Raises:
        ValueError: a key is unknown or out of range.
    """
    return StateSettings(
        kind=node.TRAINING_STATES,
        learn_at_start=node.LEARN_AT_START,
        states_train_features=node.STATES_TRAIN_FEATURES,
        rollout_steps=tuple(node.ROLLOUT_STEPS),
        state_noise=node.STATE_NOISE,
    )


def inference_settings(node: CfgNode) -> InferenceSettings:
    """Returns the inference settings in `MODEL.FLOW_DET` or `MODEL.FLOW_CLS`.

    `NUM_STEPS` 0 means one step per block. A negative `SINGLE_STEP_BLOCK` counts from the end.

    Raises:
        ValueError: `EARLY_EXIT` is negative.
    """
    count, block = node.NUM_BLOCKS, node.SINGLE_STEP_BLOCK
    plan = InferencePlan(
        node.INFERENCE_MODE, node.NUM_STEPS or count, block + count if block < 0 else block
    )
    return InferenceSettings(plan, node.NOISE_SEED, node.get("EARLY_EXIT", 0.0))


@dataclass(frozen=True)
class PixelSettings:
    """The form of pixels that a backbone expects.

    Attributes:
        mean, std: mean and standard deviation of each channel, in the order of `format`, for values
            from 0 to 255.
        format: order of the channels, "RGB" or "BGR".
    """

    mean: Sequence[float]
    std: Sequence[float]
    format: str


def pixel_settings(cfg: CfgNode) -> PixelSettings:
    """Returns the normalization and the order of channels in a config."""
    return PixelSettings(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT)


@dataclass(frozen=True)
class EncoderFormat:
    """How backbone and neck of a detector compute at inference.

    Attributes:
        channels_last: the images have the memory format channels-last.
        bfloat16: convolutions and matrix products run in bfloat16.
    """

    channels_last: bool = False
    bfloat16: bool = False


def encoder_format(cfg: CfgNode) -> EncoderFormat:
    """Returns the format of the encoder in a config."""
    return EncoderFormat(cfg.TEST.CHANNELS_LAST, cfg.TEST.BFLOAT16)
