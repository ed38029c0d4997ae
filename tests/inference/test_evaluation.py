"""flowdet.evaluate: metrics and errors of a trained model."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import flowdet
from flowdet.data.detection.builtin import register_voc
from flowdet.engine import evaluate as evaluate_config
from tests.inference.runs import CLASSIFIER, run_folder

OBJECTS = [((5, 5, 40, 40), "0", 0), ((20, 20, 60, 44), "7", 0), ((1, 1, 9, 9), "3", 1)]


@pytest.fixture
def digits(voc_folder):
    folder = voc_folder({f"i{i}": OBJECTS for i in range(3)})
    register_voc("some", folder, "train", [str(i) for i in range(10)])
    return "some"


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    # box stability is on in most configs, but not in those of the digits
    words = ["MODEL.FLOW_DET.STABILITY_SAMPLES", "1", "MODEL.FLOW_DET.SCORE_THRESHOLD", "0.0"]
    return run_folder(tmp_path_factory.mktemp("run"), "digits_flow.yaml", words)


def test_detector(detector, digits):
    model = flowdet.load(detector)
    result = flowdet.evaluate(model, digits)
    assert result.dataset == "some" and result.errors.dataset == "some"
    cfg = model.predictor.cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (digits,)
    expected = evaluate_config(cfg, model.predictor.model)["bbox"]
    assert result.metrics == pytest.approx(expected, nan_ok=True)
    assert result.errors.ap50 == pytest.approx(result.metrics["AP50"], abs=1e-6)
    assert (result.errors.images, result.errors.objects) == (3, 6)
    before, after = result.errors.calibration.values()
    # stability is at most 1, so scores were higher before
    mean = [sum(b.confidence * b.count for b in x.bins) for x in (before, after)]
    assert mean[0] > mean[1] > 0


def test_path_and_options(detector, digits):
    result = flowdet.evaluate(detector, digits, score_threshold=0.99)
    assert result.errors.detections == 0 and result.metrics["AP50"] == 0


def test_classifier(tmp_path):
    records = DatasetCatalog.get("sklearn_digits_test")[:20]
    DatasetCatalog.register("few", lambda: records)
    classes = MetadataCatalog.get("sklearn_digits_test").thing_classes
    MetadataCatalog.get("few").set(thing_classes=classes, evaluator_type="classification")
    run = run_folder(tmp_path, "cls/digits_flow_vit.yaml", CLASSIFIER)
    result = flowdet.evaluate(run, "few")
    assert result.errors is None and 0 <= result.metrics["top1"] <= 100


def test_errors_of_the_arguments(detector, digits, voc_dataset, tmp_path):
    with pytest.raises(ValueError, match="is a folder.* --eval-only --data"):
        flowdet.evaluate(detector, str(tmp_path))
    with pytest.raises(ValueError, match="dataset 'somee' is not registered; similar names: some"):
        flowdet.evaluate(detector, "somee")
    with pytest.raises(ValueError, match="'pets' has the classes cat, dog, owl, but the model has"):
        flowdet.evaluate(detector, voc_dataset({"a": []}))
    with pytest.raises(ValueError, match="steps: give options to flowdet.load"):
        flowdet.evaluate(flowdet.load(detector), digits, steps=2)
