"""Drawing: boxes, labels, colors and the layout of sheets."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from flowdet.evaluation.block_agreement import add_block_agreement
from flowdet.visualization.drawing import (
    MAX_TILES,
    TILE,
    TITLE_FONT,
    DetectionVisualizer,
    DrawnBox,
    _label_corner,
    _shorten,
    class_color,
    contact_sheet,
    draw_boxes,
    image_of,
    pixels_text,
    sheet_columns,
)
from flowdet.visualization.fonts import TitleFont


def result(path, size, boxes, scores):
    """A result for a black image of size (width, height), which is written to `path`."""
    Image.new("RGB", size).save(path)
    instances = Instances(size[::-1])
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.zeros(len(scores), dtype=torch.long)
    return {"file_name": str(path), "instances": instances, "trajectory": [instances] * 3}


def test_labels_below_stay_in_the_image():
    image = Image.new("RGB", (TILE, TILE))
    bottom = [100, 200, 220, TILE - 4]

    def rows(**settings):
        """The rows of the letters, which are lighter than the lines."""
        drawn = draw_boxes(image, [DrawnBox(bottom, "cat", (0.0, 0.0, 1.0), **settings)])
        return np.flatnonzero((np.asarray(drawn).min(axis=2) > 60).any(axis=1))

    above, below = rows(), rows(below=True)
    assert len(above) and len(below)
    assert above.max() < 200 < 260 < below.min() and below.max() < TILE - 2


@pytest.mark.parametrize("size", [(96, 96), (40, 20), (800, 500)])
def test_box_is_drawn_at_its_position(tmp_path, size):
    width, height = size
    box = [0.25 * width, 0.5 * height, 0.75 * width, 0.9 * height]
    drawn = result(tmp_path / "image.png", size, [box], [0.8])
    picture = DetectionVisualizer(["cat"], 0.5).picture(drawn)
    assert max(picture.size) == max(TILE, width)
    bright = np.asarray(picture).max(axis=2) > 128
    columns = np.flatnonzero(bright[round(0.8 * picture.height)])
    edges = np.array([columns.min(), columns.max()]) / picture.width
    assert edges == pytest.approx([0.25, 0.75], abs=0.02)


def test_pixels_without_boxes_are_those_of_the_image():
    """Also if lines of either kind leave the image."""
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    )
    box, color = [200, -50, 500, 60], (1.0, 0.0, 0.0)
    boxes = [DrawnBox(box, "", color), DrawnBox(box, "", color, width=1)]
    drawn = np.asarray(draw_boxes(image, boxes, 320))
    changed = (drawn != np.asarray(image)).any(axis=2)
    assert changed[:60, 195:205].any(axis=1).all() and changed[55:65, 200:].any(axis=0).all()
    assert not changed[:, :195].any() and not changed[65:].any() and not changed[:55, 206:].any()


def test_detections_below_the_threshold_are_not_drawn(tmp_path):
    drawn = result(tmp_path / "image.png", (50, 50), [[5, 5, 20, 20]] * 2, [0.5, 0.4])
    before = drawn["instances"].pred_boxes.tensor.clone()
    assert len(DetectionVisualizer(["cat"], 0.5).above_threshold(drawn["instances"])) == 1
    assert np.asarray(DetectionVisualizer(["cat"], 0.6).tile(drawn)).max() == 0
    assert torch.equal(drawn["instances"].pred_boxes.tensor, before)


def test_an_image_in_memory_needs_no_file(tmp_path):
    drawn = result(tmp_path / "image.png", (40, 20), [[5, 5, 20, 15]], [0.9])
    expected = np.asarray(DetectionVisualizer(["cat"], 0.5).picture(drawn))
    (tmp_path / "image.png").unlink()
    drawn["pixels"] = np.zeros((20, 40, 3), np.uint8)
    assert np.array_equal(np.asarray(DetectionVisualizer(["cat"], 0.5).picture(drawn)), expected)


def test_block_boxes_and_their_spread_are_drawn(tmp_path):
    size = (100, 100)
    drawn = result(tmp_path / "image.png", size, [[20, 40, 60, 80]], [0.9])
    plain = np.asarray(DetectionVisualizer(["cat"], 0.5).tile(drawn)).astype(int)
    boxes = torch.tensor([[[20.0, 40, 60, 80], [30.0, 50, 90, 95]]])
    add_block_agreement(drawn["instances"], boxes, torch.tensor([[0.9, 0.8]]))
    agreement = np.asarray(DetectionVisualizer(["cat"], 0.5).tile(drawn)).astype(int)
    changed = np.abs(agreement - plain).max(axis=2) > 60
    # the right and the lower edge of the second block's box
    assert changed[round(0.7 * TILE), round(0.9 * TILE) - 2 : round(0.9 * TILE) + 3].any()
    assert changed[round(0.95 * TILE) - 2 : round(0.95 * TILE) + 3, round(0.7 * TILE)].any()
    assert not changed[round(0.97 * TILE) :].any()


def test_numbers_of_pixels_as_text():
    assert [pixels_text(x) for x in (0.04, 1.26, 9.96, 12.4)] == ["0.0px", "1.3px", "10px", "12px"]


def test_image_without_detections(tmp_path):
    drawn = result(tmp_path / "image.png", (50, 50), [], [])
    assert DetectionVisualizer(["cat"], 0.5).tile(drawn).size == (TILE, TILE)


def test_one_tile_per_step(tmp_path):
    drawn = result(tmp_path / "image.png", (50, 100), [[5, 5, 20, 20]], [0.9])
    tiles = DetectionVisualizer(["cat"], 0.5).steps(drawn)
    assert [tile.size for tile in tiles] == [(TILE // 2, TILE)] * 3


def test_labels_stay_in_the_image():
    x, y = _label_corner([300, 4, 319, 60], "aeroplane 99%", 10, 320)
    assert 0 < x < 250 and y > 0
    assert _label_corner([30, 100, 90, 160], "cat 9%", 10, 320)[1] < 100


def test_class_colors_differ_and_are_in_range():
    colors = np.array([class_color(i) for i in range(80)])
    assert colors.min() >= 0 and colors.max() <= 1
    assert len(np.unique(colors.round(3), axis=0)) == 80


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 3), (8, 4), (10, 5), (12, 4)]
)
def test_sheet_columns(count, columns):
    assert sheet_columns(count) == columns


def test_sheet_shows_every_tile():
    tiles = [Image.new("RGB", size, "red") for size in [(320, 200), (160, 320), (320, 320)]]
    sheet = np.asarray(contact_sheet(tiles, ["a", "b", "a" * 200], columns=2)).astype(int)
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 50)
    assert red.sum() == 320 * 200 + 160 * 320 + 320 * 320
    assert sheet.shape[1] > 2 * TILE and sheet.shape[0] > 2 * TILE
    assert contact_sheet([Image.new("RGB", (5, 5))], ["one"]).width > TILE // 2


def test_too_many_tiles_for_a_sheet():
    with pytest.raises(ValueError, match="folder"):
        contact_sheet([Image.new("RGB", (1, 1))] * (MAX_TILES + 1), [""] * (MAX_TILES + 1))


def test_long_titles_keep_both_ends():
    font = TitleFont(TITLE_FONT)
    short = _shorten("first" + "x" * 100 + "last", 200, font)
    assert short.startswith("first") and short.endswith("last")
    assert font.getlength(short) <= 200
    assert _shorten("short", 200, font) == "short"


def test_images_are_drawn_with_the_value_range_of_their_result(tmp_path):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(gray * np.uint16(16)).save(tmp_path / "a.png")
    image = image_of({"file_name": str(tmp_path / "a.png"), "value_range": [0, 4080]})
    assert np.array_equal(np.asarray(image), np.stack([gray] * 3, axis=-1))
    with pytest.raises(OSError, match="cannot read image .*b.png: No such file"):
        image_of({"file_name": str(tmp_path / "b.png")})
