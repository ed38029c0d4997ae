import pytest
import torch
from torch import nn

from flowdet.engine import resolve_config
from flowdet.engine.config import with_keys
from flowdet.experiments.gradients import (
    GradientStatistics,
    block_variances,
    variance_figure,
    variance_rows,
)
from flowdet.experiments.method_keys import GRADIENT_METHODS as METHODS
from tests.detection.tiny import tiny_cfg


def test_variance_by_hand():
    blocks = [nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)]
    gradients = [([1.0, 5.0], None), ([3.0, 5.0], [4.0])]

    def backward(number):
        for block, gradient in zip(blocks, gradients[number]):
            block.weight.grad = None if gradient is None else torch.tensor([gradient])

    # the parameters of the first block have variances 2 and 0, that of the second, whose first
    # gradient is missing, 8
    assert block_variances(blocks, backward, 2) == pytest.approx([1.0, 8.0])


def test_one_batch_has_no_variance():
    with pytest.raises(ValueError, match="at least 2 batches, got 1"):
        block_variances([], lambda number: None, 1)


@pytest.fixture
def cfg(voc_dataset):
    objects = {f"img{i}": [((1, 2 + i, 20, 30), "dog", 0)] for i in range(6)}
    name = voc_dataset(objects, name="gradient_pets")
    cfg = tiny_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.INPUT.FIXED_SIZE = [32, 32]
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = 2, 0, 3
    return resolve_config(cfg)


def test_all_methods_are_measured_on_the_same_batches(cfg):
    flow = GradientStatistics(cfg, 2)
    backprop = GradientStatistics(with_keys(cfg, METHODS["backprop"]), 2)
    assert len(flow.batches) == len(backprop.batches) == 2
    for batch, other in zip(flow.batches, backprop.batches):
        assert [x["image_id"] for x in batch] == [x["image_id"] for x in other]
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(batch, other))


def test_measuring_variances_does_not_change_the_model(cfg):
    flow = GradientStatistics(cfg, 2)
    before = {name: x.clone() for name, x in flow.model.state_dict().items()}
    first = flow.variances()
    assert flow.variances() == first
    for name, x in flow.model.state_dict().items():
        assert torch.equal(x, before[name]), name
    flow.train_until(1)
    assert flow.variances() != first


def test_rows_and_figure(cfg):
    variants = [(name, with_keys(cfg, METHODS[name])) for name in METHODS]
    rows = list(variance_rows(variants, 2, [1, 0]))
    ratios = [row for row in rows if row["metric"].endswith("first_to_last")]
    assert [(row["method"], row["iterations"]) for row in ratios] == [
        (name, iteration) for name in METHODS for iteration in (0, 1)
    ]
    assert len(rows) == len(ratios) * (1 + cfg.MODEL.FLOW_DET.NUM_BLOCKS)
    assert all(row["mean"] > 0 for row in rows)
    (axes,) = variance_figure(rows).axes
    assert len(axes.lines) == len(ratios)
