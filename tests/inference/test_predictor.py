"""Predictor: preprocessing, images of any sizes, wrong weights and configs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from PIL import Image

from flowdet.config.errors import ConfigError, UsageError
from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from flowdet.evaluation.block_agreement import block_agreement
from flowdet.inference.predictor import Predictor
from flowdet.visualization.drawing import image_of
from tests.inference.comparison import PIXELS, assert_same_detections

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits_flow.yaml")


def config(*overrides):
    return load_config(CONFIG, ["MODEL.DEVICE", "cpu", *overrides])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    model = build_model(resolve_config(config(), training=False))
    FlowDetCheckpointer(model, str(folder)).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def predictor(weights):
    return Predictor(config("TEST.BATCH_SIZE", 2), weights)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(96, 96), (40, 130), (96, 96)]):
        paths.append(tmp_path / f"image{i}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def test_results_are_in_pixels_of_the_original_image(predictor, images):
    results = predictor(images)
    assert [x["file_name"] for x in results] == [str(x) for x in images]
    assert [x["image_id"] for x in results] == ["image0", "image1", "image2"]
    assert [(x["height"], x["width"]) for x in results] == [(96, 96), (40, 130), (96, 96)]
    for result in results:
        boxes = result["instances"].pred_boxes
        assert len(boxes) > 0
        assert result["instances"].image_size == (result["height"], result["width"])
        limit = torch.tensor([result["width"], result["height"]] * 2)
        assert (boxes.tensor >= 0).all() and (boxes.tensor <= limit).all()
    assert results[1]["instances"].pred_boxes.tensor[:, 2].max() > 96


def test_single_images_equal_batches(predictor, images):
    together = predictor(images)
    for path, result in zip(images, together, strict=True):
        (alone,) = predictor([str(path)])
        assert len(alone["instances"]) > 0
        assert_same_detections(alone["instances"], result["instances"])


def test_12_bit_images_are_detected_like_8_bit_images(weights, tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(gray * np.uint16(16)).save(tmp_path / "b.png")
    predictor = Predictor(config("INPUT.VALUE_RANGE", "[0, 4080]"), weights)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    expected, *others = predictor([*paths, gray * np.uint16(16), Image.open(paths[1])])
    for result in others:
        assert_same_detections(result["instances"], expected["instances"])
        assert np.array_equal(image_of(result), image_of(expected))


def test_dataset_dicts_are_not_changed(predictor, images):
    record = {"file_name": str(images[0]), "image_id": 7, "annotations": []}
    (result,) = predictor([record])
    assert result["image_id"] == 7
    assert record == {"file_name": str(images[0]), "image_id": 7, "annotations": []}
    with pytest.raises(ValueError, match="file_name.*image_id"):
        predictor([{"image_id": 7}])


def test_an_image_in_memory_equals_its_file(predictor, images):
    pixels = [np.asarray(Image.open(path)) for path in images]
    for result, expected in zip(predictor(pixels), predictor(images)):
        assert result["pixels"] is not None and "pixels" not in expected
        assert (result["height"], result["width"]) == (expected["height"], expected["width"])
        assert_same_detections(result["instances"], expected["instances"])
    assert [x["image_id"] for x in predictor(pixels)] == [0, 1, 2]


def test_channels_get_the_order_of_the_model(weights, images):
    path, pixels = images[0], np.asarray(Image.open(images[0]))
    predictor = Predictor(config("INPUT.FORMAT", "BGR"), weights)
    of_path, of_pixels = (predictor([x])[0]["instances"] for x in (path, pixels))
    assert_same_detections(of_path, of_pixels)


def test_only_one_batch_of_images_is_read_at_once(predictor, images):
    num_read = 0

    def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield images[0]

    results = predictor.stream(endless())
    next(results)
    assert num_read == 2
    next(results), next(results)
    assert num_read == 4


def test_values_of_analyses_are_merged_into_the_results(predictor, images):
    def sizes(model, tokens, inputs, instances):
        return [
            {"size": (x["height"], len(detections))} for x, detections in zip(inputs, instances)
        ]

    for result in predictor(images, analyses=[sizes]):
        assert result["size"] == (result["height"], len(result["instances"]))
    rows = predictor.coco_results(predictor(images[:1], analyses=[block_agreement])[0])
    assert len(rows) > 0
    assert all(row["box_spread"] > 0 and 0 < row["agreement"] < 1 for row in rows)
    assert "box_spread" not in predictor.coco_results(predictor(images[:1])[0])[0]


def test_trajectory_ends_at_the_result(predictor, images):
    (result,) = predictor(images[:1], trajectory=True)
    assert len(result["trajectory"]) == 4
    assert predictor.trajectory_times == [0.25, 0.5, 0.75, 1.0]
    last, final = result["trajectory"][-1], result["instances"]
    torch.testing.assert_close(last.pred_boxes.tensor, final.pred_boxes.tensor, atol=PIXELS, rtol=0)


def test_the_trajectory_of_single_step_has_one_step(weights):
    predictor = Predictor(config("MODEL.FLOW_DET.INFERENCE_MODE", "single_step"), weights)
    assert predictor.trajectory_times == [1.0]


def test_size_is_that_of_the_image_rotated_by_exif(predictor, tmp_path):
    path = tmp_path / "rotated.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20)).save(path, exif=exif)
    (result,) = predictor([path])
    assert (result["height"], result["width"]) == read_image(path, "RGB").shape[:2] == (60, 20)


def test_coco_results(predictor, images):
    (result,) = predictor(images[1:2])
    rows = predictor.coco_results(result)
    instances = result["instances"]
    assert len(rows) == len(instances)
    first, (x1, y1, x2, y2) = rows[0], instances.pred_boxes.tensor[0].tolist()
    assert first["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01)
    assert first["score"] == pytest.approx(float(instances.scores[0]), abs=1e-4)
    assert first["category_name"] == predictor.class_names[first["category_id"]]
    assert first["image_id"] == "image1"


def test_error_names_the_unreadable_image(predictor, images):
    images[1].write_bytes(images[1].read_bytes()[:60])
    with pytest.raises(OSError, match="image1.png"):
        predictor(images)


def test_config_of_the_caller_is_not_changed(weights):
    cfg = config()
    cfg.freeze()
    before = cfg.dump()
    Predictor(cfg, weights)
    assert cfg.dump() == before and cfg.is_frozen()


def test_weights_of_the_backbone_alone_are_refused(tmp_path, weights):
    state = torch.load(weights)["model"]
    part = {name: value for name, value in state.items() if name.startswith("backbone.")}
    torch.save({"model": part}, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"backbone.pth lacks .* \(in flow, heads, neck"):
        Predictor(config(), str(tmp_path / "backbone.pth"))


@pytest.mark.parametrize(
    ("overrides", "path", "error", "message"),
    [
        ([], None, UsageError, "MODEL.WEIGHTS is empty"),
        ([], "nowhere.pth", FileNotFoundError, "nowhere.pth"),
        (["TEST.BATCH_SIZE", 0], "nowhere.pth", ConfigError, "TEST.BATCH_SIZE"),
        (
            ["MODEL.FLOW_DET.NUM_HEADS", 7],
            "nowhere.pth",
            ConfigError,
            "not a multiple of NUM_HEADS",
        ),
    ],
)
def test_wrong_weights_and_keys(overrides, path, error, message):
    with pytest.raises(error, match=message):
        Predictor(config(*overrides), path)


def test_unreadable_images_do_not_stop_the_others(predictor, images, tmp_path):
    """Also not those of the same batch; batches may be left without any image."""
    broken = [tmp_path / f"broken{i}.png" for i in range(4)]
    for path in broken:
        path.write_bytes(b"")
    inputs = [images[0], broken[0], images[1], *broken[1:], images[2]]
    errors = []
    results = predictor.stream(
        inputs, on_error=lambda record, error: errors.append((record, error))
    )
    for result, path, alone in zip(results, images, predictor(images), strict=True):
        assert result["file_name"] == str(path)
        assert_same_detections(result["instances"], alone["instances"])
    assert [record["file_name"] for record, _ in errors] == [str(path) for path in broken]
    assert all(record["file_name"] in str(error) for record, error in errors)
