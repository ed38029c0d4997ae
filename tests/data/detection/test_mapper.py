"""The mapper of detection: sizes, augmentations, boxes, broken images, impossible keys."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.utils.env import seed_all_rng
from PIL import Image

from flowdet.config import add_flowdet_config
from flowdet.data.detection.mapper import FlowDatasetMapper
from flowdet.data.detection.voc import load_voc_dicts
from flowdet.data.image_reader import read_image

IMAGES = {"one": [((8, 12, 40, 36), "cat", 0), ((50, 2, 60, 10), "dog", 0)], "none": []}


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_flowdet_config(cfg)
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


@pytest.fixture
def records(voc_folder):
    return load_voc_dicts(voc_folder(IMAGES), "train", ["cat", "dog"], keep_difficult=True)


def boxes(mapped):
    return mapped["instances"].gt_boxes.tensor


def test_fixed_size_scales_image_and_boxes(cfg, records):
    cfg.INPUT.FIXED_SIZE = [96, 32]
    mapped = FlowDatasetMapper(cfg, is_train=True)(records[0])
    assert mapped["image"].shape == (3, 96, 32) and mapped["image"].dtype == torch.uint8
    assert boxes(mapped)[0].tolist() == [4, 24, 20, 72]
    assert mapped["instances"].gt_classes.tolist() == [0, 1]


def test_without_fixed_size_the_shortest_edge_is_resized(cfg, records):
    cfg.INPUT.MIN_SIZE_TEST = 24
    assert FlowDatasetMapper(cfg, is_train=False)(records[0])["image"].shape == (3, 24, 32)


def test_flip_is_switched_by_its_key_and_off_in_evaluation(cfg, records):
    cfg.INPUT.FIXED_SIZE, cfg.INPUT.RANDOM_FLIP = [48, 64], "horizontal"
    mapper = FlowDatasetMapper(cfg, is_train=True)
    lefts = {float(boxes(mapper(records[0]))[0, 0]) for _ in range(20)}
    assert lefts == {8, 24}
    mapper = FlowDatasetMapper(cfg, is_train=False)
    images = [mapper(records[0])["image"] for _ in range(5)]
    assert all(torch.equal(image, images[0]) for image in images)


def test_scale_jitter_keeps_the_image_size_and_maps_the_boxes(cfg, records):
    cfg.INPUT.FIXED_SIZE, cfg.INPUT.SCALE_JITTER = [48, 64], [0.5, 1.5]
    mapper = FlowDatasetMapper(cfg, is_train=True)
    counts, widths = set(), set()
    for _ in range(40):
        mapped = mapper(records[0])
        assert mapped["image"].shape == (3, 48, 64)
        assert (boxes(mapped) >= 0).all()
        assert (boxes(mapped)[:, 2:] <= torch.tensor([64, 48])).all()
        counts.add(len(mapped["instances"]))
        widths.update((boxes(mapped)[:1, 2] - boxes(mapped)[:1, 0]).round().tolist())
    assert 1 in counts, "boxes outside the crop must be dropped"
    assert min(widths) < 22 and max(widths) > 38


def test_color_jitter_only_in_training(cfg, records):
    cfg.INPUT.FIXED_SIZE = [48, 64]
    plain = FlowDatasetMapper(cfg, is_train=True)(records[0])["image"]
    cfg.INPUT.COLOR_JITTER = 0.4
    assert not torch.equal(FlowDatasetMapper(cfg, is_train=True)(records[0])["image"], plain)
    assert torch.equal(FlowDatasetMapper(cfg, is_train=False)(records[0])["image"], plain)


def test_images_without_objects_are_kept(cfg, records):
    mapped = FlowDatasetMapper(cfg, is_train=True)(records[1])
    assert len(mapped["instances"]) == 0 and boxes(mapped).shape == (0, 4)


def test_evaluation_gets_no_annotation(cfg, records):
    mapped = FlowDatasetMapper(cfg, is_train=False)(records[0])
    assert set(mapped) == {"file_name", "image_id", "height", "width", "image"}


def test_unreadable_image_names_file_and_id(cfg, records):
    mapper = FlowDatasetMapper(cfg, is_train=True)
    with open(records[0]["file_name"], "wb") as file:
        file.write(b"not a picture")
    with pytest.raises(OSError, match=r"cannot read image .*one.jpg \(image id one\): ") as error:
        mapper(records[0])
    assert str(error.value).count("one.jpg") == 1
    with pytest.raises(OSError, match="gone.jpg"):
        mapper({**records[0], "file_name": "gone.jpg"})


def test_wrong_size_in_annotation_names_file_and_id(cfg, records):
    with pytest.raises(ValueError, match=r"one.jpg \(image id one\)"):
        FlowDatasetMapper(cfg, is_train=True)({**records[0], "width": 65})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("FIXED_SIZE", [64]),
        ("FIXED_SIZE", [64, 0]),
        ("FIXED_SIZE", [-1, -1]),
        ("SCALE_JITTER", [1.5, 0.5]),
        ("SCALE_JITTER", [0.0, 1.0]),
        ("SCALE_JITTER", [0.5, 1.5]),  # without FIXED_SIZE
        ("COLOR_JITTER", 1.0),
        ("RANDOM_FLIP", "diagonal"),
        ("FORMAT", "rgb"),
        ("VALUE_RANGE", [4095, 0]),
    ],
)
def test_impossible_values_name_the_key(cfg, key, value):
    cfg.INPUT[key] = value
    with pytest.raises(ValueError, match=f"INPUT.{key}"):
        FlowDatasetMapper(cfg, is_train=True)


def test_mapper_can_be_built_without_a_config(records):
    mapper = FlowDatasetMapper(False, augmentations=[], image_format="RGB")
    image = mapper(records[0])["image"]
    assert image.shape == (3, 48, 64) and np.ptp(image.numpy()) > 0


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_pixels_in_memory_are_mapped_like_a_file(cfg, records, image_format):
    cfg.INPUT.FIXED_SIZE, cfg.INPUT.FORMAT = [24, 32], image_format
    mapper = FlowDatasetMapper(cfg, is_train=False)
    mapped, expected = (
        mapper.map_pixels(read_image(records[0]["file_name"])),
        mapper(records[0]),
    )
    assert set(mapped) == {"image", "height", "width"}
    assert torch.equal(mapped["image"], expected["image"])
    assert (mapped["height"], mapped["width"]) == (48, 64)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_training_inputs_are_those_of_detectron2(cfg, records, image_format):
    cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.CROP.ENABLED = image_format, "vertical", True
    mapped = []
    for mapper in (FlowDatasetMapper, DatasetMapper):
        seed_all_rng(5)
        mapper = mapper(cfg, is_train=True)
        mapped.append([mapper(record) for record in records * 3])
    for ours, theirs in zip(*mapped, strict=True):
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(boxes(ours), boxes(theirs))
        assert ours["instances"].image_size == theirs["instances"].image_size


def deepened(records, tmp_path, factor):
    """Returns the first record with its image as 16-bit color, every value times `factor`."""
    pixels = cv2.imread(records[0]["file_name"])
    path = str(tmp_path / "deep.png")
    cv2.imwrite(path, pixels.astype(np.uint16) * factor)
    return {**records[0], "file_name": path}


def test_16_bit_images_are_mapped_like_8_bit_images(cfg, records, tmp_path):
    mapper = FlowDatasetMapper(cfg, is_train=False)
    deep = mapper(deepened(records, tmp_path, 257))
    assert torch.equal(deep["image"], mapper(records[0])["image"])
    assert "value_range" not in deep


def test_value_range_is_applied_and_returned(cfg, records, tmp_path):
    cfg.INPUT.VALUE_RANGE = [0, 4080]
    mapper = FlowDatasetMapper(cfg, is_train=False)
    record = deepened(records, tmp_path, 16)
    deep = mapper(record)
    assert torch.equal(deep["image"], mapper(records[0])["image"])
    assert np.array_equal(
        read_image(deep["file_name"], deep["value_range"]), read_image(records[0]["file_name"])
    )
    cfg.INPUT.VALUE_RANGE = [0, 99]
    message = r"deep.png \(image id one\) has pixels from .* set INPUT.VALUE_RANGE"
    with pytest.raises(ValueError, match=message):
        FlowDatasetMapper(cfg, is_train=True)(record)


def test_exif_orientation_is_applied_once(cfg, records):
    exif = Image.Exif()
    exif[0x112] = 6
    path = records[0]["file_name"]
    stored = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif, quality=95)
    assert FlowDatasetMapper(cfg, is_train=True)(records[0])["instances"].image_size == (800, 1067)


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
@pytest.mark.parametrize("is_train", [True, False])
def test_an_image_that_cannot_be_resized_is_named(cfg, tmp_path, is_train, size):
    cfg.INPUT.FIXED_SIZE = (0, 0)
    mapper = FlowDatasetMapper(cfg, is_train=is_train)
    Image.new("RGB", size).save(tmp_path / "line.png")
    record = {"file_name": str(tmp_path / "line.png"), "image_id": 7, "annotations": []}
    with pytest.raises(ValueError, match=r"line.png \(image id 7\) of \d+x\d+ pixels cannot be re"):
        mapper(record)
    with pytest.raises(ValueError, match="the image of .* pixels cannot be resized"):
        mapper.map_pixels(np.zeros((*size, 3), dtype=np.uint8))
