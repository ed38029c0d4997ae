"""Trajectories of boxes: the state z_t of every query, decoded to a box at many times t."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from flowdet.detection.base_detector import original_size
from flowdet.detection.boxes import to_absolute
from flowdet.detection.set_detector import ImageAnalysis, SetDetector
from flowdet.detection.tokens import ImageTokens


@dataclass(frozen=True)
class BoxTrajectory:
    """The decoded states z_t of all M queries of one image at F evenly spaced times.

    The state z_t is decoded, not the estimate of z_1. At t = 0 it is noise; at t = 1 it is the
    embedding that the detection is decoded from.

    Attributes:
        times: [F], from 0 to 1.
        boxes: [F, M, 4], absolute xyxy in pixels of the original image, clipped to it.
        objectness: [F, M], one minus the probability of background.
    """

    times: Tensor
    boxes: Tensor
    objectness: Tensor


def box_trajectory(frames: int) -> ImageAnalysis:
    """Makes an `ImageAnalysis` that adds the `BoxTrajectory` of every image to its result, under
    the key `box_trajectory`.

    Between two states of the solver z_t is interpolated linearly, because an Euler step is a
    straight line.

    Args:
        frames: F, the number of times from 0 to 1.

    Raises:
        ValueError: `frames` is below 2.
    """
    if frames < 2:
        raise ValueError(f"a box trajectory needs at least 2 frames, got {frames}")
    times = torch.linspace(0, 1, frames)

    def analyze(
        model: SetDetector, tokens: ImageTokens, inputs: list[dict], _: list[Instances]
    ) -> list[dict]:
        z = interpolate_states(*model.state_trajectory(tokens), times.tolist())
        boxes, objectness = (x.cpu() for x in model.decode_states(z))
        trajectories = [
            BoxTrajectory(times, to_absolute(boxes[:, i], original_size(x)), objectness[:, i])
            for i, x in enumerate(inputs)
        ]
        return [{"box_trajectory": trajectory} for trajectory in trajectories]

    return analyze


def interpolate_states(times: list[float], states: list[Tensor], new_times: list[float]) -> Tensor:
    """Interpolates states linearly between their times.

    Args:
        times: the times of the states, ascending from 0 to 1.
        states: the states, tensors of one shape [...].
        new_times: F times, ascending, in [0, 1].

    Returns:
        The states at the new times, [F, ...].
    """
    interpolated, step = [], 0
    for t in new_times:
        while t > times[step + 1]:
            step += 1
        weight = (t - times[step]) / (times[step + 1] - times[step])
        # lerp is exact at both ends
        interpolated.append(torch.lerp(states[step], states[step + 1], weight))
    return torch.stack(interpolated)
