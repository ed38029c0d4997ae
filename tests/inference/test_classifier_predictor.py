"""ClassPredictor: preprocessing, images of any sizes, wrong weights and configs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from flowdet.data.classification.datasets import register_image_folder
from flowdet.data.classification.loaders import build_test_loader
from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from flowdet.engine.hooks import average_of
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.predictor import Predictor
from tests.inference.comparison import assert_same_probabilities

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = [
    *("MODEL.DEVICE", "cpu", "TEST.BATCH_SIZE", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("MODEL.VIT.HIDDEN_DIM", "16", "MODEL.VIT.NUM_LAYERS", "2", "MODEL.VIT.NUM_HEADS", "2"),
    *("MODEL.FLOW_CLS.HIDDEN_DIM", "16", "MODEL.FLOW_CLS.BLOCK_DIM", "16"),
    *("MODEL.FLOW_CLS.NUM_BLOCKS", "2"),
]
NO_DATASET = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]


def config(*overrides, name="digits_flow_vit"):
    return load_config(str(CONFIGS / "cls" / f"{name}.yaml"), [*TINY, *overrides])


def untrained(cfg):
    """A model with random weights, large enough that its outputs differ between images."""
    torch.manual_seed(0)
    model = build_model(resolve_config(cfg, training=False)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    FlowDetCheckpointer(untrained(config()), str(folder)).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def predictor(weights):
    return ClassPredictor(config(), weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several sizes, one of them gray and one with an EXIF orientation."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    (folder / "some").mkdir()
    for i, shape in enumerate([(32, 32, 3), (40, 130, 3), (9, 8)]):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "some" / f"image{i}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "some" / "image3.jpg", exif=exif)
    return folder


@pytest.fixture
def images(folder):
    return sorted((folder / "some").iterdir())


def record(path):
    return {"file_name": str(path), "image_id": path.stem}


def test_every_image_gets_probabilities(predictor, images):
    results = predictor(iter(images))
    assert [x["file_name"] for x in results] == [str(x) for x in images]
    assert [x["image_id"] for x in results] == ["image0", "image1", "image2", "image3"]
    probabilities = torch.stack([x["probabilities"] for x in results])
    assert probabilities.shape == (4, 10)
    assert_same_probabilities(probabilities.sum(dim=1), torch.ones(4))
    assert probabilities.std(dim=0).max() > 1e-3


def test_single_images_equal_batches(predictor, images):
    for path, result in zip(images, predictor(images), strict=True):
        (alone,) = predictor([path])
        assert_same_probabilities(alone["probabilities"], result["probabilities"])


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_preprocessing_equals_that_of_evaluation(weights, folder, images, channels):
    register_image_folder("predictor_images", folder)
    cfg = config("INPUT.FORMAT", channels)
    model = untrained(cfg)
    batches = list(build_test_loader(cfg, "predictor_images"))
    predictor = ClassPredictor(cfg, weights)
    pixels = predictor.preprocess([record(path) for path in images])
    assert torch.equal(pixels, torch.stack([x["image"] for batch in batches for x in batch]))
    evaluated = [x for batch in batches for x in model(batch)]
    for output, result in zip(evaluated, predictor(images), strict=True):
        assert_same_probabilities(output["logits"][0].softmax(dim=0), result["probabilities"])


@pytest.mark.parametrize("mode", ["ensemble", "single_step", "multi_step"])
def test_the_configured_mode_is_used(weights, images, mode):
    cfg = config("MODEL.FLOW_CLS.INFERENCE_MODE", mode, "MODEL.FLOW_CLS.SINGLE_STEP_BLOCK", 1)
    predictor = ClassPredictor(cfg, weights)
    (result,) = predictor(images[:1])
    (output,) = untrained(cfg)([{"image": predictor.preprocess([record(images[0])])[0]}])
    name = {"single_step": "single_step-1", "multi_step": "multi_step-2"}.get(mode, mode)
    logits = output["logits"][output["modes"].index(name)]
    assert_same_probabilities(logits.softmax(dim=0), result["probabilities"])


def test_top_classes(predictor, images):
    (result,) = predictor(images[:1])
    best = predictor.top(result, 3)
    assert [p for _, p in best] == sorted(result["probabilities"].tolist(), reverse=True)[:3]
    assert best[0][0] == str(int(result["probabilities"].argmax()))
    assert len(predictor.top(result, 99)) == 10


def test_text_and_json_row(predictor):
    result = {"file_name": "a/b.png", "image_id": "b", "probabilities": torch.zeros(10)}
    result["probabilities"][7], result["probabilities"][1] = 0.988, 0.012
    assert predictor.text(result, 2) == "a/b.png\n  98.8 %  7\n   1.2 %  1"
    assert predictor.json_row(result, 1) == {
        "file_name": "a/b.png",
        "image_id": "b",
        "top": [{"class": "7", "probability": 0.988}],
    }


def test_dataset_dicts(predictor, images):
    (result,) = predictor([{"file_name": str(images[0]), "image_id": 7, "label": 3}])
    assert result["image_id"] == 7
    with pytest.raises(ValueError, match="file_name.*image_id"):
        predictor([{"image_id": 7}])


def test_config_of_a_run_needs_no_dataset(weights, images, tmp_path):
    names = [f"kind {i}" for i in range(10)]
    gone = ["DATASETS.TRAIN", "('gone_train',)", "DATASETS.TEST", "()", "DATASETS.DOWNLOAD", "True"]
    with pytest.raises(ValueError, match="unknown dataset 'gone_train'"):
        ClassPredictor(config(*gone), weights)
    run = ["MODEL.CLASS_NAMES", str(names), "MODEL.FLOW_CLS.NUM_CLASSES", "10"]
    (tmp_path / "config.yaml").write_text(config(*gone, *run).dump())
    predictor = ClassPredictor(load_config(str(tmp_path / "config.yaml")), weights)
    assert predictor.class_names == names
    with pytest.raises(ValueError, match="NUM_CLASSES is 7, but MODEL.CLASS_NAMES has 10 names"):
        ClassPredictor(config(*gone, *run[:-1], "7"), weights)


def test_class_names_cause_no_download(weights, monkeypatch, tmp_path):
    register_image_folder("unmade", tmp_path / "unmade")
    cfg = config("DATASETS.TRAIN", "('unmade',)", "DATASETS.TEST", "()", "DATASETS.DOWNLOAD", True)
    monkeypatch.setattr("flowdet.engine.resolve.download", lambda names: pytest.fail(str(names)))
    with pytest.raises(FileNotFoundError, match="the config.yaml that the training wrote"):
        ClassPredictor(cfg, weights)


def test_class_names_without_a_dataset_are_numbers(weights, images):
    cfg = config(*NO_DATASET, "MODEL.FLOW_CLS.NUM_CLASSES", 10)
    assert ClassPredictor(cfg, weights).class_names == [str(i) for i in range(10)]


def test_averaged_weights_are_used(tmp_path, weights):
    model = untrained(config())
    average = average_of(model, 0.5)
    average.n_averaged += 1
    average.module.probe.classifier.bias.fill_(3.0)
    FlowDetCheckpointer(model, str(tmp_path), ema=average).save("model")
    path = str(tmp_path / "model.pth")
    averaged = ClassPredictor(config("SOLVER.EMA_DECAY", 0.5), path).model
    assert (averaged.probe.classifier.bias == 3).all() and not averaged.training
    assert (ClassPredictor(config(), path).model.probe.classifier.bias != 3).all()
    # a checkpoint without averaged weights
    assert not ClassPredictor(config("SOLVER.EMA_DECAY", 0.5), weights).averaged


def test_error_names_the_unreadable_image(predictor, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[1].read_bytes()[:60])
    with pytest.raises(OSError, match="broken.png"):
        predictor([images[0], broken])


def test_nan_logits_are_an_error(weights, images):
    predictor = ClassPredictor(config(), weights)
    with torch.no_grad():
        next(predictor.model.reader.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="image0.png are not finite"):
        predictor(images)


def test_weights_of_the_backbone_alone_are_refused(tmp_path, weights):
    state = torch.load(weights)["model"]
    part = {name: value for name, value in state.items() if name.startswith("backbone.")}
    torch.save({"model": part}, tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"backbone.pth lacks .* \(in embedding, flow"):
        ClassPredictor(config(), str(tmp_path / "backbone.pth"))


def test_weights_of_other_classes_are_refused(weights):
    cfg = config(*NO_DATASET, "MODEL.FLOW_CLS.NUM_CLASSES", 7, "MODEL.REINIT_CLASSES", True)
    with pytest.raises(ValueError, match="does not fit the model.*number of classes"):
        ClassPredictor(cfg, weights)


@pytest.mark.parametrize(
    ("overrides", "path", "error", "message"),
    [
        ([], None, ValueError, "MODEL.WEIGHTS is empty"),
        ([], "nowhere.pth", FileNotFoundError, "nowhere.pth"),
        (["TEST.BATCH_SIZE", 0], "nowhere.pth", ValueError, "TEST.BATCH_SIZE"),
    ],
)
def test_wrong_weights_and_batch_sizes(overrides, path, error, message):
    with pytest.raises(error, match=message):
        ClassPredictor(config(*overrides), path)


def test_models_of_the_other_task_are_refused(weights):
    detector = load_config(str(CONFIGS / "digits_flow.yaml"))
    with pytest.raises(ValueError, match="runs classifiers, but the .* is a FlowMatchingDetector"):
        ClassPredictor(detector, weights)
    with pytest.raises(ValueError, match="runs detectors, but the .* is a FlowMatchingClassifier"):
        Predictor(config(), weights)


def test_unreadable_images_do_not_stop_the_others(predictor, images, tmp_path):
    broken = [tmp_path / f"broken{i}.png" for i in range(3)]
    for path in broken:
        path.write_bytes(b"")
    inputs = [broken[0], images[0], *broken[1:], images[1]]
    errors = []
    results = list(predictor.stream(inputs, on_error=lambda *error: errors.append(error)))
    assert [result["file_name"] for result in results] == [str(images[0]), str(images[1])]
    for result, expected in zip(results, predictor(images[:2])):
        assert_same_probabilities(result["probabilities"], expected["probabilities"])
    assert [record["file_name"] for record, _ in errors] == [str(path) for path in broken]
