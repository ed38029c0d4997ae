"""The cache of a frozen backbone's features."""

import logging
import shutil

import pytest
import torch
from detectron2.layers import ShapeSpec
from safetensors.torch import save_file
from torch import nn

from flowdet.detection.feature_cache import FeatureCache
from flowdet.tensor_checksum import tensor_checksum
from tests.detection.tiny import batch, record, tiny_model


class CountingBackbone(nn.Module):
    """A frozen backbone that counts the images that pass it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=2).requires_grad_(False)
        self.count = 0

    def output_shape(self):
        return {"a": ShapeSpec(channels=4, stride=2), "b": ShapeSpec(channels=1, stride=1)}

    def forward(self, x):
        self.count += len(x)
        return {"a": self.conv(x), "b": x.mean(1, keepdim=True)}


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(4, 3, 16, 16)


def assert_close(features, expected):
    assert features.keys() == expected.keys()
    for name, x in features.items():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, expected[name], rtol=1e-3, atol=1e-3)


def test_the_backbone_sees_each_image_once(images):
    backbone, cache = CountingBackbone(), FeatureCache(1.0)
    for rows in ([0, 1], [1, 2], [2, 0, 1], [3, 3], [3]):
        assert_close(cache(backbone, images[rows]), CountingBackbone()(images[rows]))
    assert backbone.count == 4


def test_images_of_equal_bytes_and_different_shapes_are_different_entries():
    backbone, cache = CountingBackbone(), FeatureCache(1.0)
    for shape in ((1, 3, 8, 16), (1, 3, 16, 8)):
        assert_close(cache(backbone, torch.zeros(shape)), CountingBackbone()(torch.zeros(shape)))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, images):
    backbone, cache = CountingBackbone(), FeatureCache(1.0, str(tmp_path / "cache"))
    cache(backbone, images[:1])
    (folder,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="cannot be written: .*FEATURE_CACHE_DIR") as error:
        cache(backbone, images[1:2])
    assert "\n" not in str(error.value)


def test_a_flipped_image_is_another_entry(images):
    backbone, cache = CountingBackbone(), FeatureCache(1.0)
    cache(backbone, images)
    assert_close(cache(backbone, images.flip(-1)), CountingBackbone()(images.flip(-1)))
    assert backbone.count == 8


def test_a_full_cache_warns_once_and_stays_correct(images, caplog):
    backbone = CountingBackbone()
    one = sum(x.numel() * 2 for x in backbone(images[:1]).values())
    cache = FeatureCache(1.5 * one / 2**30)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_close(cache(backbone, images), CountingBackbone()(images))
    assert len(caplog.records) == 1
    assert "cache is full at 1 images" in caplog.records[0].message
    assert backbone.count == 1 + 4 + 3 + 3


def test_a_trained_backbone_is_refused():
    trained = CountingBackbone().requires_grad_(True)
    with pytest.raises(ValueError, match="FEATURE_CACHE_GIB.*conv.weight is trained.*FREEZE_AT"):
        FeatureCache.check(trained)
    with pytest.raises(ValueError, match="batch normalization is trained"):
        FeatureCache.check(nn.BatchNorm2d(3).requires_grad_(False))
    FeatureCache.check(CountingBackbone())
    with pytest.raises(ValueError, match="FEATURE_CACHE_GIB"):
        tiny_model(FEATURE_CACHE_GIB=0.1)


def test_a_cache_does_not_change_detections():
    frozen = {"file": "voc_flow_r18_frozen.yaml", "NECK_BLOCKS": 0}
    plain = tiny_model(**frozen, FEATURE_CACHE_GIB=0.0).eval()
    cached = tiny_model(**frozen, FEATURE_CACHE_GIB=0.1).eval()
    inputs = [*batch(), record(size=(48, 64), seed=3)]
    expected = plain(inputs)
    for _ in range(2):
        for result, reference in zip(cached(inputs), expected):
            assert len(result["instances"]) == len(reference["instances"]) > 0
            # the cache keeps float16
            torch.testing.assert_close(
                result["instances"].scores, reference["instances"].scores, rtol=0, atol=1e-3
            )
    assert len(cached.feature_cache.store) == 3


def test_new_weights_empty_the_cache():
    model = tiny_model(file="voc_flow_r18_frozen.yaml", NECK_BLOCKS=0, FEATURE_CACHE_GIB=0.1)
    model.eval()(batch())
    assert model.feature_cache.store and model.feature_cache.bytes
    model.load_state_dict(model.state_dict())
    assert not model.feature_cache.store and not model.feature_cache.bytes


def test_a_folder_keeps_features_for_later_runs(images, tmp_path):
    first = CountingBackbone()
    FeatureCache(1.0, str(tmp_path))(first, images)
    again = CountingBackbone()
    cache = FeatureCache(1.0, str(tmp_path))
    assert_close(cache(again, images), CountingBackbone()(images))
    assert (first.count, again.count) == (4, 0)
    # the features that were read are in memory now
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    assert_close(cache(again, images), CountingBackbone()(images))
    assert again.count == 0


def test_features_of_other_weights_are_separate(images, tmp_path):
    other = CountingBackbone()
    with torch.no_grad():
        other.conv.weight.mul_(2)
    FeatureCache(1.0, str(tmp_path))(CountingBackbone(), images)
    cache = FeatureCache(1.0, str(tmp_path))
    assert_close(cache(other, images), other(images))
    # the same cache after its detector loaded other weights
    cache.clear()
    assert_close(cache(CountingBackbone(), images), CountingBackbone()(images))


def test_features_of_other_strides_and_outputs_are_separate(images, tmp_path):
    FeatureCache(1.0, str(tmp_path))(CountingBackbone(), images)
    other = CountingBackbone()
    other.conv.stride = (4, 4)
    assert_close(FeatureCache(1.0, str(tmp_path))(other, images), other(images))
    more = CountingBackbone()
    shapes = more.output_shape() | {"c": ShapeSpec(channels=1)}
    more.output_shape = lambda: shapes
    FeatureCache(1.0, str(tmp_path))(more, images)
    assert more.count == 4


def test_a_corrupt_file_is_replaced(images, tmp_path):
    FeatureCache(1.0, str(tmp_path))(CountingBackbone(), images)
    files = sorted(tmp_path.rglob("*.safetensors"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:100])
    again = CountingBackbone()
    assert_close(FeatureCache(1.0, str(tmp_path))(again, images), CountingBackbone()(images))
    assert again.count == 2
    assert not list(tmp_path.rglob("*.partial*"))
    third = CountingBackbone()
    FeatureCache(1.0, str(tmp_path))(third, images)
    assert third.count == 0


def test_features_that_are_too_large_for_float16_are_refused(images):
    backbone = CountingBackbone()
    with torch.no_grad():
        backbone.conv.weight.mul_(1e9)
    with pytest.raises(ValueError, match="too large for float16.*FEATURE_CACHE_GIB 0"):
        FeatureCache(1.0)(backbone, images)


def test_a_folder_that_cannot_be_made_names_its_key(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory.*MODEL.FLOW_DET.FEATURE_CACHE_DIR"):
        FeatureCache(1.0, str(tmp_path / "file"))(CountingBackbone(), images)


def test_a_file_with_a_changed_bit_or_of_another_image_is_replaced(images, tmp_path):
    FeatureCache(1.0, str(tmp_path))(CountingBackbone(), images)
    files = sorted(tmp_path.rglob("*.safetensors"))
    content = bytearray(files[0].read_bytes())
    content[-3] ^= 16
    files[0].write_bytes(content)
    files[1].write_bytes(files[2].read_bytes())
    again = CountingBackbone()
    assert_close(FeatureCache(1.0, str(tmp_path))(again, images), CountingBackbone()(images))
    assert again.count == 2


@pytest.mark.parametrize(
    "row",
    [
        {"a": torch.zeros(4, 7, 7).half()},
        {"a": torch.zeros(4, 7, 7).half(), "b": torch.zeros(2, 16, 16).half()},
        {"a": torch.zeros(4, 7, 7), "b": torch.zeros(1, 16, 16)},
        {"a": torch.zeros(4).half(), "b": torch.zeros(1).half()},
        # of another image
        {"a": torch.zeros(4, 7, 3).half(), "b": torch.zeros(1, 16, 16).half()},
    ],
)
def test_a_file_with_other_features_is_replaced(images, tmp_path, row):
    FeatureCache(1.0, str(tmp_path))(CountingBackbone(), images)
    path = min(tmp_path.rglob("*.safetensors"))
    save_file(row, path, {"checksum": tensor_checksum(row, path.stem)})
    again = CountingBackbone()
    cache = FeatureCache(1.0, str(tmp_path))
    assert_close(cache(again, images), CountingBackbone()(images))
    assert again.count == 1


def test_with_full_memory_the_folder_is_still_read(images, tmp_path):
    FeatureCache(1.0, str(tmp_path))(CountingBackbone(), images)
    backbone, small = CountingBackbone(), FeatureCache(1e-9, str(tmp_path))
    assert_close(small(backbone, images), CountingBackbone()(images))
    assert backbone.count == 0
