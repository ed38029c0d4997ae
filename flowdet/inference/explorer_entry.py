"""Encodes an image with its transport runs for the explorer, within a limit of size."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence

import torch
from detectron2.structures import Instances
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from PIL import Image

from flowdet.config.errors import UsageError
from flowdet.inference.explorer_data import StepPredictions, TransportRun
from flowdet.inference.explorer_truth import TrueBox
from flowdet.visualization.box_trajectory import BoxTrajectory
from flowdet.visualization.drawing import image_of

# the maximum size of the entry of an image in the page, and of its picture in it, in bytes
MAX_ENTRY, MAX_PICTURE = 148_000, 80_000
# detections with a lower score are left out
LEAST_SCORE = 0.05
# the longer sides in pixels and the qualities of the picture that are tried, the best one first
_SIDES, _QUALITIES = (800, 640, 480, 320, 160), (85, 70, 50)
# The maximum number of detections per list and of queries with states that are tried. Only many
# steps and blocks need a lower number than the first.
_LIMITS = (50, 30, 20, 12, 8, 5, 3)
# coordinates of images with a longer side than this have no decimals
_LARGE = 1000


def explorer_entry(result: dict, ground_truth: Iterable[TrueBox] | None = None) -> Markup:
    """Returns the entry of an image in the explorer, as JSON of at most `MAX_ENTRY` bytes that can
    be embedded in HTML.

    All coordinates are in pixels of the original image. A detection is a list of query, class
    index, score, the box in xyxy, agreement, spread (pixels) and stability; those of the last three
    that are not known are null or left out. If the entry would be too large, the detections with
    the lowest scores are left out of every list, and `limit` is the number that remain.

    Args:
        result: the result of a predictor with `transport_runs`.
        ground_truth: the annotated objects; None if they are not known.

    Raises:
        OSError, ValueError: the image cannot be read.
        ValueError: the entry is too large even with few detections.
    """
    entry = {
        "name": os.path.basename(result["file_name"]),
        "width": result["width"],
        "height": result["height"],
        "picture": picture_uri(image_of(result)),
    }
    decimals = 0 if max(result["width"], result["height"]) > _LARGE else 1
    if ground_truth is not None:
        entry["truth"] = [
            [x.name, *_rounded(x.box, decimals), int(x.ignored)] for x in ground_truth
        ]
    for limit in _LIMITS:
        encoder = _Encoder(limit, decimals)
        entry["runs"] = [encoder.run(run) for run in result["transport_runs"]]
        entry["limit"] = limit if encoder.left_out else None
        text = htmlsafe_json_dumps(entry, separators=(",", ":"), allow_nan=False)
        if len(text) <= MAX_ENTRY:
            return text
    raise UsageError(
        f"the page of {entry['name']} would need {len(text) // 1000} KB with {_LIMITS[-1]} "
        f"detections per step and block, but at most {MAX_ENTRY // 1000} KB are allowed: use fewer "
        "steps or noise seeds"
    )


def picture_uri(image: Image.Image) -> str:
    """Returns an image as a data URI (JPEG) of at most `MAX_PICTURE` bytes; a large one is scaled
    down."""
    for side in _SIDES:
        scaled = image.copy()
        scaled.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            scaled.save(buffer, "JPEG", quality=quality, optimize=True)
            uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            if len(uri) <= MAX_PICTURE:
                return uri
    raise AssertionError(f"a JPEG of {_SIDES[-1]} pixels has more than {MAX_PICTURE} bytes")


class _Encoder:
    """Converts runs to lists of numbers for JSON.

    Args:
        limit: the maximum number of detections per list, and of queries with states.
        decimals: decimals of the coordinates.

    Attributes:
        left_out: whether a detection or a query was left out because of the limit.
    """

    def __init__(self, limit: int, decimals: int):
        self.limit = limit
        self.decimals = decimals
        self.left_out = False

    def run(self, run: TransportRun) -> dict:
        """Encodes a run. Its states are those of the queries with the most probable objects."""
        queries = self._shown_queries(run)
        trajectory = run.trajectory
        times = trajectory.times.tolist()
        return {
            "seed": run.seed,
            "times": _rounded(times, 4),
            "starts": run.step_starts,
            "queries": queries,
            "states": [_rounded(x, self.decimals) for x in _of_queries(trajectory, queries)],
            "steps": [self._step(step) for step in run.steps],
            "stable": None if run.stable is None else self.rows(run.stable),
        }

    def _shown_queries(self, run: TransportRun) -> list[int]:
        """Returns the queries whose states are stored: first those of the detections, best first,
        then the others by their objectness at t = 1."""
        count = run.trajectory.boxes.shape[1]
        last = run.steps[-1].estimate
        detected = last.pred_queries[last.scores >= LEAST_SCORE].tolist()
        others = run.trajectory.objectness[-1].argsort(descending=True, stable=True).tolist()
        # the merged detections of several steps may name queries of all of them
        queries = [q for q in dict.fromkeys([*detected, *others]) if q < count]
        self.left_out |= len(queries) > self.limit
        return queries[: self.limit]

    def _step(self, step: StepPredictions) -> dict:
        encoded = {"estimate": self.rows(step.estimate)}
        if step.ensemble is not None:
            encoded["blocks"] = [self.rows(x) for x in step.blocks]
            encoded["ensemble"] = self.rows(step.ensemble)
        return encoded

    def rows(self, instances: Instances) -> list[list]:
        """Encodes the detections with a score of at least `LEAST_SCORE`, best first."""
        instances = instances[instances.scores >= LEAST_SCORE]
        self.left_out |= len(instances) > self.limit
        instances = instances[: self.limit]
        columns = [
            instances.pred_queries.tolist(),
            instances.pred_classes.tolist(),
            _rounded(instances.scores.tolist(), 3),
            *(_rounded(x, self.decimals) for x in instances.pred_boxes.tensor.T.tolist()),
        ]
        for name, decimals in (("agreement", 3), ("box_spread", 1), ("stability", 3)):
            if instances.has(name):
                columns.append(_rounded(instances.get(name).tolist(), decimals))
            else:
                columns.append([None] * len(instances))
        return [_without_trailing_nones(row) for row in zip(*columns, strict=True)]


def _of_queries(trajectory: BoxTrajectory, queries: Sequence[int]) -> list[list[float]]:
    """Returns the boxes of some queries at every time, the coordinates of all in one list."""
    return trajectory.boxes[:, torch.tensor(queries, dtype=torch.long)].flatten(1).tolist()


def _without_trailing_nones(row: Sequence) -> list:
    values = list(row)
    while values and values[-1] is None:
        values.pop()
    return values


def _rounded(values: Iterable[float], decimals: int) -> list[float]:
    """Rounds numbers for JSON; a whole number has no decimal point."""
    rounded = [round(float(x), decimals) for x in values]
    return [int(x) if x == int(x) else x for x in rounded]
