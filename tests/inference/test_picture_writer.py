"""Where pictures go: names never collide, and no image is replaced."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from flowdet.inference.picture_writer import (
    MAX_ANIMATED,
    Extras,
    PictureFolder,
    PictureSheet,
    open_pictures,
    picture_names,
    step_titles,
)
from flowdet.inference.video_writer import ANIMATION_SUFFIXES
from flowdet.visualization.box_trajectory import BoxTrajectory
from flowdet.visualization.drawing import DetectionVisualizer


class Squares:
    """In place of a visualizer."""

    def picture(self, result):
        return Image.new("RGB", (30, 30))

    tile = picture

    def steps(self, result):
        return [Image.new("RGB", (30, 30))] * 2


def write(output, files, times=()):
    pictures = open_pictures(str(output), files, Squares(), Extras(times))
    for file in files:
        pictures.add({"file_name": str(file)})
    pictures.close()
    return pictures


def written(folder):
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*") if x.is_file())


def test_folder_or_sheet(tmp_path):
    (tmp_path / "folder.png").mkdir()
    files = [Path("a.jpg")]
    for name, kind in [
        ("out", PictureFolder),
        ("out.png/", PictureFolder),
        ("folder.png", PictureFolder),
        ("run.1", PictureFolder),
        ("sheet.png", PictureSheet),
        ("sheet.JPG", PictureSheet),
    ]:
        assert type(open_pictures(f"{tmp_path}/{name}", files, Squares())) is kind, name


def test_folder_takes_the_names_of_the_images(tmp_path):
    write(tmp_path / "out", [Path("x/a.jpg"), Path("y/b.tif"), Path("y/c.gif")])
    assert written(tmp_path / "out") == ["a.jpg", "b.tif", "c.png"]


def test_equal_names_keep_their_folders(tmp_path):
    write(
        tmp_path / "out", [Path("x/y/a.jpg"), Path("x/z/a.jpg"), Path("x/b.jpg")], times=[0.5, 1.0]
    )
    assert written(tmp_path / "out") == [
        "b.jpg",
        "b_trajectory.png",
        "y/a.jpg",
        "y/a_trajectory.png",
        "z/a.jpg",
        "z/a_trajectory.png",
    ]
    assert picture_names([Path("a.jpg"), Path("x/a.jpg")]) == [Path("a.jpg"), Path("x/a.jpg")]


@pytest.mark.parametrize(
    ("files", "times"),
    [
        (["a.gif", "a.png"], []),
        (["a.jpg", "a.png"], [0.5, 1.0]),
        (["a.jpg", "a_trajectory.png"], [0.5, 1.0]),
    ],
)
def test_two_pictures_of_one_name_are_refused(tmp_path, files, times):
    with pytest.raises(ValueError, match="two images"):
        write(tmp_path, [Path("x", name) for name in files], times)
    assert written(tmp_path) == []


@pytest.mark.parametrize("output", ["", "a.png"])
def test_images_are_not_replaced(tmp_path, output):
    image = tmp_path / "a.png"
    image.write_bytes(b"precious")
    with pytest.raises(ValueError, match="is one of the images"):
        write(tmp_path / output, [image])
    assert image.read_bytes() == b"precious"


def test_sheet_and_its_trajectory(tmp_path):
    write(tmp_path / "new" / "sheet.png", [Path("a.jpg"), Path("b.jpg")], times=[0.5, 1.0])
    assert written(tmp_path) == ["new/sheet.png", "new/sheet_trajectory.png"]
    sheet, steps = (Image.open(tmp_path / name) for name in written(tmp_path))
    # two images side by side; two rows of two steps
    assert steps.width == sheet.width and steps.height > 1.5 * sheet.height


def test_too_many_images_for_a_sheet_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        open_pictures(str(tmp_path / "sheet.png"), [Path("a.jpg")] * 500, Squares())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "notes").write_text("")
    with pytest.raises(FileExistsError, match="notes"):
        open_pictures(str(tmp_path / "notes"), [Path("a.jpg")], Squares())


def test_step_titles():
    assert step_titles([0.5, 1.0]) == ["step 1 of 2, t = 0.50", "step 2 of 2, t = 1.00"]


def filmed(file):
    """A result of one query that moves, without detections."""
    boxes = torch.tensor([[[0.0, 0, 9, 9]], [[9.0, 9, 18, 18]]])
    return {
        "file_name": str(file),
        "pixels": np.zeros((20, 20, 3), np.uint8),
        "width": 20,
        "instances": Instances(
            (20, 20),
            pred_boxes=Boxes(torch.zeros(0, 4)),
            scores=torch.zeros(0),
            pred_classes=torch.zeros(0, dtype=torch.long),
            pred_queries=torch.zeros(0, dtype=torch.long),
        ),
        "box_trajectory": BoxTrajectory(torch.tensor([0.0, 1]), boxes, torch.ones(2, 1)),
    }


@pytest.mark.parametrize("suffix", ANIMATION_SUFFIXES)
def test_a_film_per_image_or_one_of_all(tmp_path, suffix):
    files = [Path("a.jpg"), Path("b.jpg")]
    for output in ("out", "out/sheet.png"):
        pictures = open_pictures(
            str(tmp_path / output), files, DetectionVisualizer(["x"], 0.5), Extras(film=suffix)
        )
        for file in files:
            pictures.add(filmed(file))
        pictures.close()
    films = [f"{name}_trajectory{suffix}" for name in ("a", "b", "sheet")]
    assert written(tmp_path / "out") == sorted(["a.jpg", "b.jpg", "sheet.png", *films])
    if suffix == ".gif":
        one, _, all_of_them = (Image.open(tmp_path / "out" / name) for name in films)
        assert one.n_frames == all_of_them.n_frames == 3
        assert all_of_them.width > 1.8 * one.width


def test_too_many_images_for_a_film(tmp_path):
    files = [Path(f"{i}.jpg") for i in range(MAX_ANIMATED + 1)]
    with pytest.raises(ValueError, match="film of 13 images is too large .* folder"):
        open_pictures(str(tmp_path / "sheet.png"), files, Squares(), Extras(film=".gif"))
    open_pictures(str(tmp_path / "out"), files, Squares(), Extras(film=".gif"))


def test_a_film_does_not_replace_an_image(tmp_path):
    image = tmp_path / "a_trajectory.gif"
    image.write_bytes(b"precious")
    with pytest.raises(ValueError, match="is one of the images"):
        open_pictures(str(tmp_path / "a.png"), [image], Squares(), Extras(film=".gif"))
