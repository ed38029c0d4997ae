"""Images: resizing, EXIF rotation, gray and broken images, what is kept in memory."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

import flowdet.data.classification.images as images_module
from flowdet.data.classification.images import (
    ImageStore,
    model_input,
    read_pixels,
    resize_and_crop,
)
from tests.data.classification.batches import write_folder


def test_shortest_edge_is_resized_and_the_center_cropped():
    ramp = torch.arange(0, 240, 4, dtype=torch.uint8).expand(1, 3, 20, 60)
    cropped = resize_and_crop(ramp, (10, 10))
    assert cropped.shape == (1, 3, 10, 10)
    # columns 20 to 39 of the original, two in each column of the result
    expected = (ramp[0, 0, 0, 20:40:2].int() + ramp[0, 0, 0, 21:40:2].int()) // 2
    assert (cropped[0, 0, 5].int() - expected).abs().max() <= 1
    assert resize_and_crop(ramp, (20, 60)) is ramp
    for size in ((7, 31), (64, 3), (1, 1), (61, 60)):
        assert resize_and_crop(ramp, size).shape[-2:] == size


def test_shrinking_averages_pixels():
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(16).expand(3, 32, 32)
    inner = resize_and_crop(stripes, (8, 8))[:, :, 1:-1].int()
    assert (inner - 100).abs().max() <= 2


def test_gray_images_get_three_equal_channels():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    expected = torch.tensor(gray).expand(3, 3, 4)
    for image in (gray, gray[..., None]):
        assert torch.equal(read_pixels({"image_id": 0, "image": image}), expected)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8)])
def test_other_arrays_are_an_error(image):
    with pytest.raises(ValueError, match="image 9 must be uint8"):
        read_pixels({"image_id": 9, "image": image})


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(np.repeat(np.array([[0], [200]], np.uint8), [6, 6], 0).repeat(20, 1))
    exif = Image.Exif()
    exif[0x112] = 6  # rotate clockwise: the dark upper half becomes the right half
    image.save(tmp_path / "rotated.png", exif=exif)
    record = {"image_id": 0, "label": 0, "file_name": str(tmp_path / "rotated.png")}
    store = ImageStore([record], fixed_size=(5, 5), limit=0, keep_resized=False)
    assert store.size == (20, 12)
    pixels = store.batch([0])[0, 0]
    assert pixels[:, :6].eq(200).all() and pixels[:, 6:].eq(0).all()


def test_images_are_kept_up_to_the_limit(tmp_path):
    records = DatasetCatalog.get(write_folder(tmp_path, [(12, 10)] * 3))
    size_in_bytes = 3 * 3 * 12 * 10
    for limit in (size_in_bytes, size_in_bytes - 1):
        store = ImageStore(records, (4, 4), limit, keep_resized=False)
        assert store.in_memory == (limit == size_in_bytes) and store.size == (10, 12)
        assert torch.equal(store.batch([2, 0])[1], read_pixels(records[0]))
        assert torch.equal(store.original(2), read_pixels(records[2]))


def test_images_of_different_sizes_are_kept_only_if_resizing_them_is_allowed(tmp_path):
    records = DatasetCatalog.get(write_folder(tmp_path, [(12, 10), (9, 9)]))
    kept = ImageStore(records, (4, 4), 2**20, keep_resized=True)
    read = ImageStore(records, (4, 4), 2**20, keep_resized=False)
    assert kept.in_memory and not read.in_memory
    assert kept.batch([0, 1]).shape == (2, 3, 4, 4)
    assert torch.equal(kept.batch([0, 1]), read.batch([0, 1]))
    assert kept.original(0).shape == (3, 4, 4) and read.original(0).shape == (3, 10, 12)


def test_model_input_has_the_size_and_the_order_of_channels():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    record = {"image_id": 0, "image": image}
    rgb = model_input([record, record], (6, 6), "RGB")
    assert torch.equal(rgb, torch.tensor(image).permute(2, 0, 1).expand(2, 3, 6, 6))
    assert torch.equal(model_input([record, record], (6, 6), "BGR"), rgb.flip(1))
    assert model_input([record], (3, 4), "RGB").shape == (1, 3, 3, 4)


@pytest.mark.parametrize("limit", [0, 2**20])
def test_broken_file_is_named_with_its_image_id(tmp_path, limit):
    records = DatasetCatalog.get(write_folder(tmp_path, [(12, 12)] * 4))
    broken = tmp_path / "b" / "3.png"

    def read_all():
        return ImageStore(records, (12, 12), limit, keep_resized=True).batch(range(4))

    broken.write_bytes(broken.read_bytes()[:200])  # the header is intact
    with pytest.raises(OSError, match=r"b.3.png \(image id b/3.png\)"):
        read_all()
    broken.write_bytes(b"no image")
    with pytest.raises(OSError, match=r"b.3.png \(image id b/3.png\)"):
        read_all()


def test_16_bit_files_use_the_value_range(tmp_path):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(gray * np.uint16(16)).save(tmp_path / "a.png")
    record = {"image_id": 7, "label": 0, "file_name": str(tmp_path / "a.png")}
    expected = torch.tensor(gray).expand(3, 3, 4)
    for limit in (0, 2**20):
        store = ImageStore([record], (3, 4), limit, keep_resized=True, value_range=(0, 4080))
        assert torch.equal(store.batch([0])[0], expected)
    assert torch.equal(model_input([record], (3, 4), "RGB", (0, 4080))[0], expected)
    with pytest.raises(ValueError, match=r"a.png \(image id 7\) has pixels from 0 to 3520, "):
        read_pixels(record, (0, 99))


def test_headers_are_read_without_decoding(tmp_path, monkeypatch):
    records = DatasetCatalog.get(write_folder(tmp_path, [(12, 12)] * 3))
    monkeypatch.setattr(images_module, "read_image", None)
    assert ImageStore(records, (5, 5), limit=0, keep_resized=True).size == (12, 12)


@pytest.mark.parametrize("size", [(2, 60_000), (60_000, 2)])
def test_of_a_line_only_the_middle_is_resized(monkeypatch, size):
    resized = []
    resize = images_module.resize
    monkeypatch.setattr(
        images_module, "resize", lambda x, s, **o: resized.append(s) or resize(x, s, **o)
    )
    line = torch.zeros(3, *size, dtype=torch.uint8)
    # the middle is white
    line[:, size[0] // 2 - 1 : size[0] // 2 + 1, size[1] // 2 - 1 : size[1] // 2 + 1] = 255
    image = resize_and_crop(line, (8, 8))
    assert torch.equal(image, image.flip(1, 2)) and (image[:, 4, 4] == 255).all()
    assert max(resized[0]) == 8 * 8


def test_usual_shapes_are_resized_as_a_whole():
    image = torch.randint(256, (3, 20, 150), generator=torch.manual_seed(0), dtype=torch.uint8)
    whole = images_module.center_crop(images_module.resize(image, [8, 60], antialias=True), [8, 8])
    assert torch.equal(resize_and_crop(image, (8, 8)), whole)
