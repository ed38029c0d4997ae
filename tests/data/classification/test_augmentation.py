"""Augmentation: crops and flips by hand, statistics of random ones, keys, seeds."""

import numpy as np
import pytest
import torch
from PIL import Image

from flowdet.data.classification.augmentation import (
    NUM_NUMBERS,
    BatchAugmentation,
    crop_batch,
    transform_each,
)
from flowdet.data.classification.datasets import register_image_folder
from tests.data.classification.batches import (
    ALL_AUGMENTATIONS,
    batches,
    ids,
    pixels_of,
    set_keys,
)


def test_crop_offsets_by_hand():
    image = torch.tensor([[1, 2], [3, 4]]).expand(4, 1, 2, 2)
    offsets = torch.tensor([[1, 1], [0, 0], [2, 1], [1, 2]])
    crops = crop_batch(image, 1, offsets)[:, 0].tolist()
    # unchanged, moved down and right, moved up, moved left
    assert crops == [[[1, 2], [3, 4]], [[0, 0], [0, 1]], [[3, 4], [0, 0]], [[2, 0], [4, 0]]]


def test_numbers_decide_crop_and_flip(cfg):
    set_keys(cfg, {"INPUT.CROP_PADDING": 1, "INPUT.RANDOM_FLIP": "horizontal"})
    images = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(3, 3, 2, 2)
    numbers = torch.zeros(3, NUM_NUMBERS, dtype=torch.int64)
    # modulo 3 an offset, modulo 2 a flip
    numbers[:, :3] = torch.tensor([[4, 1, 2], [1, 1, 5], [0, 2, 1]])
    augmented = BatchAugmentation(cfg)(images, numbers)
    assert augmented[:, 2].tolist() == [[[1, 2], [3, 4]], [[2, 1], [4, 3]], [[0, 0], [0, 2]]]
    assert augmented.dtype == torch.uint8


def test_transform_depends_on_the_seed_only_and_restores_the_generator():
    images, seeds = torch.zeros(4, 3, 2, 2), torch.tensor([7, 8, 7, 8])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    noise = transform_each(lambda image: image + torch.rand(3, 2, 2), images, seeds)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(noise[:2], noise[2:]) and not torch.equal(noise[0], noise[1])


def test_half_of_the_images_are_flipped(cfg):
    set_keys(cfg, {"INPUT.RANDOM_FLIP": "horizontal"})
    source = {i: x.permute(2, 0, 1) for i, x in pixels_of("noise").items()}
    records = sum(batches(cfg, 100), [])
    flipped = sum(torch.equal(r["image"], source[r["image_id"]].flip(-1)) for r in records)
    same = sum(torch.equal(r["image"], source[r["image_id"]]) for r in records)
    assert flipped + same == 400 and 150 < flipped < 250


def test_crops_have_every_offset(cfg):
    set_keys(cfg, {"INPUT.CROP_PADDING": 1})
    source = pixels_of("noise")[100].permute(2, 0, 1)
    offsets = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    crops = crop_batch(source.expand(9, -1, -1, -1), 1, offsets)
    images = [r["image"] for r in sum(batches(cfg, 200), []) if r["image_id"] == 100]
    counts = [sum(torch.equal(crop, image) for image in images) for crop in crops]
    assert sum(counts) == len(images) == 80 and min(counts) > 0


@pytest.mark.parametrize(
    "key", ["INPUT.AUTO_AUGMENT", "INPUT.RANDOM_ERASING", "INPUT.RANDOM_ROTATION"]
)
def test_each_transform_is_switched_by_its_key(cfg, key):
    plain = batches(cfg, 5)
    set_keys(cfg, {key: ALL_AUGMENTATIONS[key]})
    augmented = batches(cfg, 5)
    assert ids(augmented) == ids(plain)
    pairs = [(a["image"], b["image"]) for a, b in zip(sum(augmented, []), sum(plain, []))]
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    assert 5 < sum(not torch.equal(a, b) for a, b in pairs)


def test_erasing_sets_a_rectangle_to_zero(cfg, register):
    white = np.full((12, 12), 255, dtype=np.uint8)
    cfg.DATASETS.TRAIN = (register("white", [{"image_id": 0, "label": 0, "image": white}]),)
    set_keys(cfg, {"INPUT.RANDOM_ERASING": 1.0})
    for record in sum(batches(cfg, 3), []):
        rows, columns = (record["image"][0] == 0).nonzero().T
        assert 0 < len(rows) == len(rows.unique()) * len(columns.unique()) < 60


def test_resized_crops_come_from_the_image_before_resizing(cfg, tmp_path):
    """Crops of the whole width reach both ends of a ramp; the center square would cut them off."""
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (40, 1))
    for i in range(2):
        path = tmp_path / "x" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(ramp[:, : 120 - i]).save(path)
    register_image_folder("ramps", tmp_path)
    cfg.DATASETS.TRAIN = ("ramps",)
    set_keys(cfg, {"INPUT.RESIZED_CROP_AREA": 0.2})
    images = [r["image"] for r in sum(batches(cfg, 20), [])]
    assert {tuple(image.shape) for image in images} == {(3, 12, 12)}
    assert min(int(x.min()) for x in images) < 40 and max(int(x.max()) for x in images) > 195
    spans = {int(x.max()) - int(x.min()) for x in images}
    assert len(spans) > 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.AUTO_AUGMENT", "cifar", "INPUT.AUTO_AUGMENT 'cifar': use .*'cifar10'"),
        ("INPUT.RANDOM_FLIP", "vertical", "INPUT.RANDOM_FLIP 'vertical': use .*'horizontal'"),
        ("INPUT.RANDOM_ERASING", 1.5, "INPUT.RANDOM_ERASING must be from 0 to 1, got 1.5"),
        ("INPUT.RESIZED_CROP_AREA", -0.1, "INPUT.RESIZED_CROP_AREA must be from 0 to 1"),
        ("INPUT.CROP_PADDING", -1, "INPUT.CROP_PADDING must not be negative"),
        ("INPUT.RANDOM_ROTATION", -1.0, "INPUT.RANDOM_ROTATION must not be negative"),
    ],
)
def test_impossible_values_name_the_key(cfg, key, value, message):
    set_keys(cfg, {key: value})
    with pytest.raises(ValueError, match=message):
        BatchAugmentation(cfg)
