"""Top-k accuracy, compared with counts by hand."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.evaluation.classification import ClassificationEvaluator, count_correct


@pytest.fixture
def dataset():
    name = "evaluator_test"
    records = [{"image_id": f"i{k}", "label": k, "image": None} for k in range(3)]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        thing_classes=[str(c) for c in range(12)], evaluator_type="classification"
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_correct_predictions_by_hand():
    # two modes, 12 classes; the label is class 0
    best = torch.arange(12.0, 0, -1)
    sixth = best.clone()
    sixth[0] = 6.5
    logits = torch.stack([best, sixth])[None]
    assert count_correct(logits, torch.tensor([0])).tolist() == [[1, 1, 1], [0, 0, 1]]


def test_equal_logits_are_never_correct():
    assert count_correct(torch.zeros(1, 1, 12), torch.tensor([3])).tolist() == [[0, 0, 0]]


def test_three_classes_are_always_among_the_first_five():
    assert count_correct(torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor([2])).tolist() == [
        [0, 1, 1]
    ]


def outputs(*rows):
    """The outputs of a classifier with two inference modes; a row of logits [2, 12] per image."""
    return [{"logits": torch.tensor(row), "modes": ["ensemble", "probe"]} for row in rows]


def logits_of(*classes):
    """A row of logits with the largest one at `classes[i]`, per mode."""
    return [torch.eye(12)[c].mul(5).add(torch.arange(12) / 100).tolist() for c in classes]


def test_accuracy_by_mode(dataset):
    evaluator = ClassificationEvaluator(dataset)
    evaluator.reset()
    evaluator.process([{"image_id": "i2"}], outputs(logits_of(2, 0)))
    evaluator.process(
        [{"image_id": "i0"}, {"image_id": "i1"}], outputs(logits_of(0, 0), logits_of(5, 3))
    )
    results = evaluator.evaluate()["classification"]
    assert results["top1"] == results["top1-ensemble"] == pytest.approx(200 / 3)
    assert results["top1-probe"] == pytest.approx(100 / 3)
    assert results["top10-ensemble"] == pytest.approx(200 / 3)


def test_missing_images_and_nan_logits_are_errors(dataset):
    evaluator = ClassificationEvaluator(dataset)
    with pytest.raises(ValueError, match="logits of image i1 are not finite"):
        evaluator.process([{"image_id": "i1"}], outputs([[float("nan")] * 12] * 2))
    evaluator.process([{"image_id": "i0"}], outputs(logits_of(0, 0)))
    with pytest.raises(ValueError, match="1 of 3 images"):
        evaluator.evaluate()
