"""The way of the queries' boxes from noise to objects, as finely as a film needs it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from flowdet.detection.base import Question, SetDetector, original_size
from flowdet.flow import ImageTokens


@dataclass(frozen=True)
class Travel:
    """What the state of every query of one image decodes to, at times from 0 to 1.

    It is the state z_t that the transport carries which is decoded, not the estimate of its
    end: noise at t = 0, and at t = 1 what the detections come from.

    Attributes:
        times: [F], evenly spaced.
        boxes: [F, M, 4], absolute xyxy in the original image, cut off at its border.
        objectness: [F, M], the probability of any class but the background.
    """

    times: Tensor
    boxes: Tensor
    objectness: Tensor


def travel(frames: int) -> Question:
    """Asks for the `Travel` of every image, as `travel`, at `frames` times.

    Between two states of the solver, z_t is on the straight line between them, which is where
    the Euler step leads: only the decoding is done more often, nothing is smoothed.

    Raises:
        ValueError: fewer than two frames.
    """
    if frames < 2:
        raise ValueError(f"a travel has at least 2 frames, got {frames}")
    times = torch.linspace(0, 1, frames)

    def ask(
        model: SetDetector, tokens: ImageTokens, inputs: list[dict], _: list[Instances]
    ) -> list[dict]:
        z = between(*model.visited_states(tokens), times.tolist())
        logits, boxes = (x.cpu() for x in model.heads(z))
        objectness = 1 - logits.softmax(-1)[..., -1]
        return [
            {"travel": Travel(times, absolute(boxes[:, i], original_size(x)), objectness[:, i])}
            for i, x in enumerate(inputs)
        ]

    return ask


def between(times: list[float], states: list[Tensor], wanted: list[float]) -> Tensor:
    """States at other times, each on the line between its neighbours, [F, ...].

    Args:
        times: of `states`, rising from 0 to 1.
        wanted: in [0, 1].
    """
    found, step = [], 0
    for t in wanted:
        while t > times[step + 1]:
            step += 1
        share = (t - times[step]) / (times[step + 1] - times[step])
        # lerp reaches both ends exactly
        found.append(torch.lerp(states[step], states[step + 1], share))
    return torch.stack(found)


def absolute(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised cxcywh [..., 4] as absolute xyxy in an image of (height, width), cut off at its
    border."""
    height, width = size
    scale = boxes.new_tensor([width, height, width, height])
    pixels = Boxes(box_convert(boxes.reshape(-1, 4), "cxcywh", "xyxy") * scale)
    pixels.clip(size)
    return pixels.tensor.reshape(boxes.shape)
