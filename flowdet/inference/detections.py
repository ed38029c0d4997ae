"""What `flowdet.load(...)` returns for images: results that show and convert themselves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.structures import Instances
from PIL import Image

from flowdet.inference.output_formats import ANIMATION_SUFFIXES
from flowdet.inference.picture_writer import save_picture, step_titles
from flowdet.inference.pipeline import TRAJECTORY_FRAMES
from flowdet.inference.predictor import BasePredictor, Predictor
from flowdet.inference.video_writer import save_animation
from flowdet.visualization.animation import animation_frames
from flowdet.visualization.box_trajectory import BoxTrajectory, box_trajectory
from flowdet.visualization.drawing import TILE, DetectionVisualizer, contact_sheet, image_of
from flowdet.visualization.embedding import figure

if TYPE_CHECKING:
    import pandas
    import supervision

# detections with a lower score are not drawn, as in `flowdet-demo`
SHOWN_SCORE = 0.5
# the classes of a classification that a notebook shows
SHOWN_CLASSES = 5
# the longer side of a picture in a notebook, in pixels, and the number of pictures of a list
NOTEBOOK_SIDE, NOTEBOOK_PICTURES = 640, 12
# fields with one number per detection that are converted where a result has them
_OPTIONAL_FIELDS = ("box_spread", "agreement")


@dataclass(frozen=True)
class Source:
    """The image and the model of a result.

    Attributes:
        image: `file_name` and `image_id`, and of an image in memory `pixels`.
        class_names: the class names by class index.
        predictor: the predictor; None after pickling and copying, which leave the model out.
    """

    image: dict
    class_names: Sequence[str]
    predictor: BasePredictor | None

    @classmethod
    def of(cls, result: dict, predictor: BasePredictor) -> Source:
        """Returns the source of a result of a predictor."""
        kept = ("file_name", "image_id", "pixels", "value_range")
        image = {key: result[key] for key in kept if key in result}
        return cls(image, predictor.class_names, predictor)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "predictor": None}

    @property
    def name(self) -> str:
        """The file name without folders; `image 0` for an image in memory."""
        return os.path.basename(self.image["file_name"])

    @property
    def model_input(self) -> dict:
        """The dataset dict of the image, for a predictor."""
        record = {key: self.image[key] for key in ("file_name", "image_id")}
        return record | ({"image": self.image["pixels"]} if "pixels" in self.image else {})


class Detections(Instances):
    """The detections in one image: detectron2's `Instances` that show and convert themselves.

    A notebook shows the image with the boxes. Selections, such as `detections[detections.scores >
    0.8]`, are `Detections` too.

    Args:
        instances: the detections, with `pred_boxes`, `scores` and `pred_classes`.
        source: the image and the model.
    """

    def __init__(self, instances: Instances, source: Source):
        super().__init__(instances.image_size, **instances.get_fields())
        self._source = source

    def __getitem__(self, item) -> Detections:
        return Detections(super().__getitem__(item), self._source)

    def to(self, *args, **kwargs) -> Detections:
        return Detections(super().to(*args, **kwargs), self._source)

    @property
    def file_name(self) -> str:
        """The path of the image; `image 0`, `image 1`, ... for images in memory."""
        return self._source.image["file_name"]

    @property
    def names(self) -> list[str]:
        """The class name of every detection."""
        return [self._source.class_names[index] for index in self.pred_classes.tolist()]

    def picture(self, score_threshold: float = SHOWN_SCORE, side: int | None = None) -> Image.Image:
        """Draws the detections on their image.

        Args:
            score_threshold: detections with a lower score are not drawn.
            side: the longer side of the picture in pixels; None is that of the image, but at least
                320.

        Raises:
            OSError, ValueError: the file of the image cannot be read any more.
        """
        visualizer = DetectionVisualizer(self._source.class_names, score_threshold)
        return visualizer.picture({**self._source.image, "instances": self}, side)

    def _repr_html_(self) -> str:
        side = min(max(TILE, *self.image_size), NOTEBOOK_SIDE)
        return figure(self.picture(side=side), self._summary())

    def _summary(self) -> str:
        """Describes the drawn detections, in their order."""
        named = zip(self.names, self.scores.tolist(), strict=True)
        shown = [f"{name} {score:.0%}" for name, score in named if score >= SHOWN_SCORE]
        text = f"{self._source.name}: {len(shown)} of {len(self)} detections have a score of at "
        text += f"least {SHOWN_SCORE:.0%}"
        return f"{text}: {', '.join(shown)}" if shown else text

    def to_pandas(self) -> pandas.DataFrame:
        """Converts to a pandas frame with a row per detection, best first.

        Its columns are `file_name`, `class_name`, `class_id` (the class index), `score`, `x1`,
        `y1`, `x2`, `y2` (pixels of the image), and `box_spread` and `agreement` of detections that
        have them.

        Raises:
            ImportError: pandas is not installed.
        """
        # in float64, which pandas rounds and prints without further digits
        corners = self.pred_boxes.tensor.cpu().double().numpy().T
        columns: dict[str, Any] = {
            "file_name": [self.file_name] * len(self),
            "class_name": self.names,
            "class_id": self.pred_classes.cpu().numpy(),
            "score": self.scores.cpu().double().numpy(),
            **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
        }
        frame = _optional("pandas").DataFrame(columns | self._optional_fields())
        # without detections pandas takes empty lists for numbers
        return frame.astype({"file_name": object, "class_name": object})

    def to_supervision(self) -> supervision.Detections:
        """Converts to `supervision.Detections`, with the class names in `data["class_name"]`.

        Raises:
            ImportError: supervision is not installed.
        """
        return _optional("supervision").Detections(
            xyxy=self.pred_boxes.tensor.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.pred_classes.cpu().numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str), **self._optional_fields()},
        )

    def _optional_fields(self) -> dict[str, np.ndarray]:
        return {name: self.get(name).cpu().numpy() for name in _OPTIONAL_FIELDS if self.has(name)}

    def trajectory(self) -> Trajectory:
        """Runs the model on the image again and returns the detections after every step.

        Raises:
            ValueError: the detector has no queries, or these detections have been pickled or
                copied, which leaves the model out.
            OSError: the file of the image cannot be read any more.
        """
        if self._source.predictor is None:
            raise ValueError(
                "pickled and copied detections have no model: call trajectory(image) of the "
                "detector that flowdet.load returns"
            )
        return trajectory_of(self._source.predictor, self._source.model_input)


class Trajectory(Sequence):
    """The detections after every step of the solver, from noise to the result.

    `trajectory[i]` are the `Detections` after step i + 1. A notebook shows a tile per step.

    Attributes:
        times: the time t after every step; the last is 1.
        boxes: the boxes of all queries at 33 times from 0 to 1.
    """

    def __init__(self, result: dict, times: Sequence[float], source: Source):
        self.times = list(times)
        self.boxes: BoxTrajectory = result["box_trajectory"]
        self._steps = [Detections(x, source) for x in result["trajectory"]]
        self._result = result
        self._source = source

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index):
        return self._steps[index]

    def picture(self, score_threshold: float = SHOWN_SCORE) -> Image.Image:
        """Draws one tile per step, with the detections after it."""
        visualizer = DetectionVisualizer(self._source.class_names, score_threshold)
        return contact_sheet(visualizer.steps(self._result), step_titles(self.times))

    def save(self, path: str | Path, score_threshold: float = SHOWN_SCORE) -> Path:
        """Writes the picture (.png, .jpg), or an animation of the boxes (.gif, .mp4).

        Returns:
            The path.
        """
        path = Path(path)
        if path.suffix.lower() in ANIMATION_SUFFIXES:
            visualizer = DetectionVisualizer(self._source.class_names, score_threshold)
            title = Path(self._source.name).stem
            save_animation(animation_frames(visualizer, [self._result], [title]), path)
        else:
            save_picture(self.picture(score_threshold), path)
        return path

    def __repr__(self) -> str:
        return f"Trajectory({self._source.name!r}, {len(self)} steps)"

    def _repr_html_(self) -> str:
        return figure(self.picture(), f"{self._source.name}: detections after every step")


def trajectory_of(predictor: Predictor, record: dict) -> Trajectory:
    """Runs a detector on an image and returns its `Trajectory`.

    Args:
        predictor: runs the detector.
        record: the dataset dict of the image, see `flowdet.inference.image_input.image_record`.

    Raises:
        OSError: the image cannot be read.
        ValueError: the detector has no queries, and so no trajectory.
    """
    times = predictor.trajectory_times
    (result,) = predictor([record], trajectory=True, analyses=[box_trajectory(TRAJECTORY_FRAMES)])
    return Trajectory(result, times, Source.of(result, predictor))


class Classes(list):
    """The class names of one image with their probabilities, most probable first.

    A notebook shows the image with the most probable classes.
    """

    def __init__(self, classes: Sequence[tuple[str, float]], source: Source):
        super().__init__(classes)
        self._source = source

    def __reduce__(self):
        return Classes, (list(self), self._source)

    def _repr_html_(self) -> str:
        image = image_of(self._source.image)
        image.thumbnail((NOTEBOOK_SIDE // 2, NOTEBOOK_SIDE // 2))
        best = ", ".join(f"{name} {p:.0%}" for name, p in self[:SHOWN_CLASSES])
        return figure(image, f"{self._source.name}: {best}")

    def to_pandas(self) -> pandas.DataFrame:
        """Converts to a pandas frame with the columns `file_name`, `class_name`, `probability`.

        Raises:
            ImportError: pandas is not installed.
        """
        names, probabilities = zip(*self)
        columns = {"file_name": self._source.image["file_name"], "class_name": names}
        return _optional("pandas").DataFrame(columns | {"probability": probabilities})


class ResultList(list):
    """The results of several images, `Detections` or `Classes`.

    A notebook shows the first pictures; `to_pandas` puts all results into one frame.
    """

    def to_pandas(self) -> pandas.DataFrame:
        """Converts to one frame; for its columns see the results' `to_pandas`.

        Raises:
            ImportError: pandas is not installed.
            ValueError: the list is empty.
        """
        if not self:
            raise ValueError("there is no result to convert: give at least one image")
        return _optional("pandas").concat([x.to_pandas() for x in self], ignore_index=True)

    def _repr_html_(self) -> str:
        shown = "".join(x._repr_html_() for x in self[:NOTEBOOK_PICTURES])
        rest = len(self) - NOTEBOOK_PICTURES
        more = f"<p>{rest} more images are not shown</p>" if rest > 0 else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:1em">{shown}</div>{more}'


def _optional(name: str) -> Any:
    """Imports a package that flowdet needs for a conversion alone."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"this conversion needs {name} ({error}): pip install {name}") from error
