"""The boxes that the state of every query decodes to, from noise at t = 0 to detections at t = 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from flowdet.detection.boxes import to_absolute
from flowdet.detection.set_detector import ImageAnalysis, SetDetector, original_size
from flowdet.detection.tokens import ImageTokens


@dataclass(frozen=True)
class BoxTrajectory:
    """The decoded states z_t of all queries of one image at evenly spaced times.

    The state is decoded, not the estimate of z_1: noise at t = 0, the detections at t = 1.

    Attributes:
        times: [F], from 0 to 1.
        boxes: [F, M, 4], absolute xyxy in the original image, clipped to it.
        objectness: [F, M], the probability of any class but background.
    """

    times: Tensor
    boxes: Tensor
    objectness: Tensor


def box_trajectory(frames: int) -> ImageAnalysis:
    """An analysis that adds the `BoxTrajectory` of every image, as `box_trajectory`, at `frames`
    times.

    Between two solver states z_t is interpolated linearly, as the Euler step does.

    Raises:
        ValueError: fewer than two frames.
    """
    if frames < 2:
        raise ValueError(f"a box trajectory has at least 2 frames, got {frames}")
    times = torch.linspace(0, 1, frames)

    def analyze(
        model: SetDetector, tokens: ImageTokens, inputs: list[dict], _: list[Instances]
    ) -> list[dict]:
        z = interpolate_states(*model.state_trajectory(tokens), times.tolist())
        logits, boxes = (x.cpu() for x in model.heads(z))
        objectness = 1 - logits.softmax(-1)[..., -1]
        trajectories = [
            BoxTrajectory(times, to_absolute(boxes[:, i], original_size(x)), objectness[:, i])
            for i, x in enumerate(inputs)
        ]
        return [{"box_trajectory": trajectory} for trajectory in trajectories]

    return analyze


def interpolate_states(times: list[float], states: list[Tensor], new_times: list[float]) -> Tensor:
    """States at other times by linear interpolation, [F, ...].

    Args:
        times: of `states`, ascending from 0 to 1.
        new_times: ascending, in [0, 1].
    """
    interpolated, step = [], 0
    for t in new_times:
        while t > times[step + 1]:
            step += 1
        share = (t - times[step]) / (times[step + 1] - times[step])
        # lerp reaches both ends exactly
        interpolated.append(torch.lerp(states[step], states[step + 1], share))
    return torch.stack(interpolated)
