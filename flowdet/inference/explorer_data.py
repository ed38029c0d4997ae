"""Computes what the explorer shows of an image: states, estimates and predictions of all blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from flowdet.detection import FlowMatchingDetector, SetDetector
from flowdet.detection.base_detector import original_size
from flowdet.detection.boxes import to_absolute
from flowdet.detection.set_detector import ImageAnalysis
from flowdet.detection.stability import BoxStability, Refinement
from flowdet.detection.tokens import ImageTokens
from flowdet.evaluation.block_agreement import compare_blocks
from flowdet.flow import FlowState, Solution
from flowdet.visualization.box_trajectory import BoxTrajectory, interpolate_states

# About this number of intervals divide the time from 0 to 1. Every step of the solver has the same
# number of them, at least one.
INTERVALS = 16
# of the box stability that is shown for a model whose scores are not multiplied by it
STABILITY_SAMPLES, STABILITY_NOISE = 4, 0.2


@dataclass(frozen=True)
class StepPredictions:
    """The detections that follow from the state before one step of the solver.

    Attributes:
        estimate: those of the estimate of z_1 toward which the step moves. With at least two blocks
            they have the fields of `add_block_agreement`.
        blocks: those of every single block; empty for a detector without blocks.
        ensemble: those of the mean estimate of all blocks; None for a detector without blocks.
    """

    estimate: Instances
    blocks: Sequence[Instances] = ()
    ensemble: Instances | None = None


@dataclass(frozen=True)
class TransportRun:
    """The transport from noise to detections for one image and one noise seed.

    Attributes:
        seed: the seed of z_0; None for a detector that is not a `FlowMatchingDetector`.
        trajectory: the decoded states of all queries. Its times contain those of the solver, and
            are evenly spaced in every step.
        step_starts: the index in `trajectory.times` at which every step starts.
        steps: the predictions of every step. The last estimate gives the detections of a model
            without box stability.
        stable: the detections of the last estimate with scores that are multiplied by the box
            stability, which is their field `stability`. These are the detections of a model with
            box stability. None if the stability is not known.
    """

    seed: int | None
    trajectory: BoxTrajectory
    step_starts: list[int]
    steps: list[StepPredictions]
    stable: Instances | None = None


def transport_runs(seeds: Sequence[int]) -> ImageAnalysis:
    """Makes an `ImageAnalysis` that adds a `TransportRun` per seed to the result of every image, as
    a list under the key `transport_runs`.

    A detector that is not a `FlowMatchingDetector` has no independent blocks. It gets one run with
    its configured seed.
    """

    def analyze(
        model: SetDetector, tokens: ImageTokens, inputs: list[dict], _: list[Instances]
    ) -> list[dict]:
        if isinstance(model, FlowMatchingDetector):
            runs = [_flow_runs(model, tokens, inputs, seed) for seed in seeds]
        else:
            runs = [_runs_without_blocks(model, tokens, inputs)]
        return [{"transport_runs": list(of_image)} for of_image in zip(*runs, strict=True)]

    return analyze


def step_grid(times: Sequence[float]) -> tuple[list[float], list[int]]:
    """Divides every step of a solver into equal intervals, about `INTERVALS` in all.

    Args:
        times: the times of the solver, from 0 to 1.

    Returns:
        All times, and the index among them at which every step starts.
    """
    per_step = max(1, round(INTERVALS / (len(times) - 1)))
    grid = [
        start + (end - start) * i / per_step
        for start, end in zip(times[:-1], times[1:], strict=True)
        for i in range(per_step)
    ]
    return [*grid, times[-1]], list(range(0, len(grid), per_step))


def _flow_runs(
    model: FlowMatchingDetector, tokens: ImageTokens, inputs: list[dict], seed: int
) -> list[TransportRun]:
    """Returns the run of every image from the noise of a seed."""
    solution = model.solve(tokens, model.initial_noise(len(inputs), seed), trajectory=True)
    times, states = model.states_of(solution)
    refinement = model.refinement_of(solution)
    # after an early exit, the estimate stays the same
    missing = len(times) - 1 - len(refinement.estimates)
    estimates = refinement.estimates + [refinement.z_1] * missing
    steps = []
    for state, estimate in zip(_states_before_steps(model, solution), estimates, strict=True):
        of_blocks = model.block_estimates(tokens, state)
        steps.append(_step_predictions(model, inputs, estimate, of_blocks))
    stable = _stable_detections(model, inputs, refinement)
    if stable[0] is not None:
        _add_agreement(model, inputs, stable, of_blocks)
    trajectories, starts = _trajectories(model, inputs, times, states)
    return [
        TransportRun(seed, trajectory, starts, of_image, last if last is None else last.to("cpu"))
        for trajectory, last, *of_image in zip(trajectories, stable, *steps, strict=True)
    ]


def _runs_without_blocks(
    model: SetDetector, tokens: ImageTokens, inputs: list[dict]
) -> list[TransportRun]:
    """Returns the run of every image of a detector that has no independent blocks.

    Its last estimate gives the detections of the model, with box stability if the model has one.
    """
    times, states = model.state_trajectory(tokens)
    steps = model.step_detections(tokens, inputs, trajectory=True)
    trajectories, starts = _trajectories(model, inputs, times, states)
    return [
        TransportRun(None, trajectory, starts, [StepPredictions(x.to("cpu")) for x in of_image])
        for trajectory, *of_image in zip(trajectories, *steps, strict=True)
    ]


def _states_before_steps(model: FlowMatchingDetector, solution: Solution) -> Iterator[FlowState]:
    """Yields the states before the steps of a solution, with the estimates that the blocks got."""
    flow, times = model.flow, solution.times
    state = flow.initial_state(solution.states[0])
    yield state
    for estimate, t, t_next in zip(solution.estimates, times[:-1], times[1:], strict=True):
        if t_next < 1:
            state = flow.advance(state, estimate, t, t_next)
            yield state


def _step_predictions(
    model: FlowMatchingDetector, inputs: list[dict], estimate: Tensor, of_blocks: Tensor
) -> list[StepPredictions]:
    """Returns the predictions of one step for every image.

    Args:
        model: the detector.
        inputs: the inputs of the B images.
        estimate: the estimate toward which the step moves, [B, M, d].
        of_blocks: the estimate of every block at the state before the step, [T, B, M, d].
    """
    detections = model.detections(estimate, inputs)
    _add_agreement(model, inputs, detections, of_blocks)
    ensemble = model.detections(of_blocks.mean(dim=0), inputs)
    blocks = zip(*(model.detections(z, inputs) for z in of_blocks), strict=True)
    return [
        StepPredictions(x.to("cpu"), [block.to("cpu") for block in by_block], mean.to("cpu"))
        for x, by_block, mean in zip(detections, blocks, ensemble, strict=True)
    ]


def _stable_detections(
    model: FlowMatchingDetector, inputs: list[dict], refinement: Refinement
) -> list[Instances | None]:
    """Returns the detections whose scores are multiplied by the box stability.

    A model without box stability gets the default number of perturbations. It is None for a model
    that cannot have box stability, because its queries have no estimate before the first step.
    """
    if model.flow.start is None:
        return [None] * len(inputs)
    shape = tuple(refinement.z_1.shape[1:])
    measure = model.stability or BoxStability(STABILITY_SAMPLES, STABILITY_NOISE, shape)
    factors = measure.to(model.device)(refinement, model.heads.boxes)
    detections = model.detections(refinement.z_1, inputs, factors)
    for of_image, factor in zip(detections, factors, strict=True):
        of_image.stability = factor[of_image.pred_queries]
    return detections


def _add_agreement(
    model: FlowMatchingDetector, inputs: list[dict], detections: list[Instances], of_blocks: Tensor
) -> None:
    """Adds the agreement of at least two blocks to the detections of every image, in place."""
    if len(of_blocks) < 2:
        return
    logits, boxes = model.heads(of_blocks)
    for i, (x, of_image) in enumerate(zip(inputs, detections, strict=True)):
        compare_blocks(of_image, logits[:, i], boxes[:, i], original_size(x))


def _trajectories(
    model: SetDetector, inputs: list[dict], times: list[float], states: list[Tensor]
) -> tuple[list[BoxTrajectory], list[int]]:
    """Decodes the states at the times of `step_grid`.

    Returns:
        The trajectory of every image, and the index of the start of every step.
    """
    grid, starts = step_grid(times)
    z = interpolate_states(times, states, grid)
    boxes, objectness = (x.cpu() for x in model.decode_states(z))
    new_times = torch.tensor(grid)
    trajectories = [
        BoxTrajectory(new_times, to_absolute(boxes[:, i], original_size(x)), objectness[:, i])
        for i, x in enumerate(inputs)
    ]
    return trajectories, starts
