"""Writers of pictures: file names do not collide, and no image is replaced."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from flowdet.inference.output_formats import ANIMATION_SUFFIXES
from flowdet.inference.picture_writer import (
    MAX_ANIMATED,
    FolderWriter,
    SheetWriter,
    TrajectoryOutputs,
    open_picture_writer,
    picture_names,
    step_titles,
)
from flowdet.inference.video_writer import write_image
from flowdet.visualization.box_trajectory import BoxTrajectory
from flowdet.visualization.drawing import DetectionVisualizer


class BlackSquares:
    """Replaces a `DetectionVisualizer`."""

    def picture(self, result):
        return Image.new("RGB", (30, 30))

    tile = picture

    def steps(self, result):
        return [Image.new("RGB", (30, 30))] * 2


def write(output, files, times=()):
    """Writes the picture of every file, and the sheet of steps if there are times."""
    pictures = open_picture_writer(str(output), files, BlackSquares(), TrajectoryOutputs(times))
    for file in files:
        pictures.add({"file_name": str(file)})
    pictures.close()


def file_names(folder):
    """All files below a folder, sorted."""
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*") if x.is_file())


def test_folder_or_sheet(tmp_path):
    (tmp_path / "folder.png").mkdir()
    files = [Path("a.jpg")]
    for name, kind in [
        ("out", FolderWriter),
        ("out.png/", FolderWriter),
        ("folder.png", FolderWriter),
        ("run.1", FolderWriter),
        ("sheet.png", SheetWriter),
        ("sheet.JPG", SheetWriter),
    ]:
        assert type(open_picture_writer(f"{tmp_path}/{name}", files, BlackSquares())) is kind, name


def test_pictures_have_the_names_of_the_images(tmp_path):
    write(tmp_path / "out", [Path("x/a.jpg"), Path("y/b.tif"), Path("y/c.gif")])
    assert file_names(tmp_path / "out") == ["a.jpg", "b.tif", "c.png"]


@pytest.mark.parametrize("output", ["out", "sheet.png"])
def test_images_may_be_skipped(tmp_path, output):
    files = [Path("a.jpg"), Path("b.jpg"), Path("c.jpg")]
    pictures = open_picture_writer(str(tmp_path / output), files, BlackSquares())
    pictures.add({"file_name": "c.jpg"})
    pictures.close()
    assert file_names(tmp_path) == ["out/c.jpg" if output == "out" else output]


def test_a_sheet_without_images_is_not_written(tmp_path):
    pictures = open_picture_writer(str(tmp_path / "sheet.png"), [Path("a.jpg")], BlackSquares())
    pictures.close()
    assert file_names(tmp_path) == []


@pytest.mark.parametrize("output", ["notes/out", "notes/sheet.png"])
def test_an_output_that_cannot_be_created_is_an_error_at_the_start(tmp_path, output):
    (tmp_path / "notes").write_text("")
    with pytest.raises(OSError, match="notes"):
        open_picture_writer(str(tmp_path / output), [Path("a.jpg")], BlackSquares())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".tif", ".bmp"])
def test_a_full_disk_leaves_no_partial_picture(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # below a part that PIL writes at once
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"{path}'$"):
            write_image(Image.fromarray(noise), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file_names(tmp_path) == []
    write_image(Image.fromarray(noise), path)
    assert Image.open(path).size == (60, 60)


def test_images_of_the_same_name_keep_their_folders(tmp_path):
    write(
        tmp_path / "out", [Path("x/y/a.jpg"), Path("x/z/a.jpg"), Path("x/b.jpg")], times=[0.5, 1.0]
    )
    assert file_names(tmp_path / "out") == [
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
def test_two_pictures_of_the_same_path_are_refused(tmp_path, files, times):
    with pytest.raises(ValueError, match="two images"):
        write(tmp_path, [Path("x", name) for name in files], times)
    assert file_names(tmp_path) == []


@pytest.mark.parametrize("output", ["", "a.png"])
def test_images_are_not_replaced(tmp_path, output):
    image = tmp_path / "a.png"
    image.write_bytes(b"precious")
    with pytest.raises(ValueError, match="is one of the input images"):
        write(tmp_path / output, [image])
    assert image.read_bytes() == b"precious"


def test_sheet_and_its_trajectory(tmp_path):
    write(tmp_path / "new" / "sheet.png", [Path("a.jpg"), Path("b.jpg")], times=[0.5, 1.0])
    assert file_names(tmp_path) == ["new/sheet.png", "new/sheet_trajectory.png"]
    sheet, steps = (Image.open(tmp_path / name) for name in file_names(tmp_path))
    # two images side by side; two rows of two steps
    assert steps.width == sheet.width and steps.height > 1.5 * sheet.height


def test_too_many_images_for_a_sheet(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        open_picture_writer(str(tmp_path / "sheet.png"), [Path("a.jpg")] * 500, BlackSquares())


def test_the_folder_is_a_file(tmp_path):
    (tmp_path / "notes").write_text("")
    with pytest.raises(FileExistsError, match="notes"):
        open_picture_writer(str(tmp_path / "notes"), [Path("a.jpg")], BlackSquares())


def test_step_titles():
    assert step_titles([0.5, 1.0]) == ["step 1 of 2, t = 0.50", "step 2 of 2, t = 1.00"]


def animated_result(file):
    """A result without detections, whose trajectory has one moving query."""
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
def test_an_animation_per_image_or_one_of_all(tmp_path, suffix):
    files = [Path("a.jpg"), Path("b.jpg")]
    for output in ("out", "out/sheet.png"):
        pictures = open_picture_writer(
            str(tmp_path / output),
            files,
            DetectionVisualizer(["x"], 0.5),
            TrajectoryOutputs(animation_suffix=suffix),
        )
        for file in files:
            pictures.add(animated_result(file))
        pictures.close()
    animations = [f"{name}_trajectory{suffix}" for name in ("a", "b", "sheet")]
    assert file_names(tmp_path / "out") == sorted(["a.jpg", "b.jpg", "sheet.png", *animations])
    if suffix == ".gif":
        one, _, all_of_them = (Image.open(tmp_path / "out" / name) for name in animations)
        assert one.n_frames == all_of_them.n_frames == 3
        assert all_of_them.width > 1.8 * one.width


def test_too_many_images_for_an_animation(tmp_path):
    files = [Path(f"{i}.jpg") for i in range(MAX_ANIMATED + 1)]
    with pytest.raises(ValueError, match="animation of 13 images is too large .* folder"):
        open_picture_writer(
            str(tmp_path / "sheet.png"),
            files,
            BlackSquares(),
            TrajectoryOutputs(animation_suffix=".gif"),
        )
    open_picture_writer(
        str(tmp_path / "out"), files, BlackSquares(), TrajectoryOutputs(animation_suffix=".gif")
    )


def test_an_animation_does_not_replace_an_image(tmp_path):
    image = tmp_path / "a_trajectory.gif"
    image.write_bytes(b"precious")
    with pytest.raises(ValueError, match="is one of the input images"):
        open_picture_writer(
            str(tmp_path / "a.png"),
            [image],
            BlackSquares(),
            TrajectoryOutputs(animation_suffix=".gif"),
        )
