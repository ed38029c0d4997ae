import pytest
import torch
from torch import nn

from flowdet.experiments.memory import (
    SavedBytes,
    measure_step,
    memory_figure,
    memory_rows,
    slope_rows,
    with_method,
)
from flowdet.experiments.method_keys import MEMORY_METHODS
from flowdet.experiments.training_steps import synthetic_batch
from tests.detection.tiny import batch, tiny_cfg, tiny_model

BLOCKS = [2, 3, 6]


def small_cfg(**keys):
    cfg = tiny_cfg(**keys)
    cfg.INPUT.FIXED_SIZE = [64, 64]
    return cfg


@pytest.fixture(scope="module")
def rows():
    return list(memory_rows(small_cfg(), list(MEMORY_METHODS), BLOCKS, [2]))


def bytes_of_one_block():
    """The bytes that one layer of the baseline keeps: block, heads and losses."""
    model = tiny_model(file="digits_backprop.yaml", NUM_BLOCKS=2)
    images = synthetic_batch(small_cfg(), 2)
    targets = model.prepare_targets(images)
    with torch.no_grad():
        tokens = model.encode(images)
    tokens = tokens.with_tokens(tokens.tokens.requires_grad_())
    queries = model.layers(tokens)[0].detach().requires_grad_()
    normalizer = model.criterion.normalizer(targets, model.num_queries)

    def loss_of(layer):
        logits, boxes = model.heads(layer)
        assigned = model.matcher(logits, boxes, targets)
        return model.criterion(logits, boxes, targets, assigned, normalizer)[0]

    kept, peaks = [], []
    with SavedBytes(model).counting() as saved:
        # the difference of two layers: both share the image tokens and the queries
        for block in model.blocks:
            position = model.query_position(queries)
            no_time = torch.zeros(2, queries.shape[-1])
            kept.append(loss_of(queries + block(queries, no_time, tokens, None, position)))
            peaks.append(saved.peak)
    return peaks[1] - peaks[0]


def slopes(rows):
    return {row["method"]: row["mean"] for row in slope_rows(rows)}


def test_activations_of_flow_do_not_grow_with_the_blocks(rows):
    one_block = bytes_of_one_block()
    slope = slopes(rows)
    assert abs(slope["flow_joint"]) < 0.01 * one_block
    assert abs(slope["flow_alternate"]) < 0.01 * one_block


def test_activations_of_backprop_grow_by_one_block_per_block(rows):
    one_block = bytes_of_one_block()
    assert slopes(rows)["backprop"] == pytest.approx(one_block, rel=0.01)
    kept = {r["num_blocks"]: r["mean"] for r in rows if is_activation(r, "backprop")}
    # linear: every block costs the same
    assert kept[3] - kept[2] == pytest.approx((kept[6] - kept[3]) / 3, rel=1e-3)


def test_activations_of_checkpointing_are_between_flow_and_backprop(rows):
    slope = slopes(rows)
    assert slope["flow_joint"] < 0.01 * slope["backprop"]
    assert 0 < slope["backprop_checkpointed"] < 0.5 * slope["backprop"]
    # the recomputed tensors of one block come on top of the inputs that are kept
    model = tiny_model(file="digits_backprop.yaml", CHECKPOINT_BLOCKS=True)
    with SavedBytes(model).counting() as saved:
        losses = model(batch())
        forward = saved.peak
        sum(losses.values()).backward()
    assert saved.peak > forward


def is_activation(row, method):
    return row["metric"] == "activation_bytes" and row["method"] == method


def test_a_storage_counts_once_and_until_its_last_use():
    layer = nn.Linear(4, 4, bias=False)
    x = torch.ones(2, 4, requires_grad=True)
    with SavedBytes(layer).counting() as saved:
        # x is saved by both products and counts once, the weight never
        first, second = layer(x), layer(x)
        assert saved.live == 2 * 4 * 4
        first.sum().backward()
        assert saved.live == 2 * 4 * 4
        second.sum().backward()
        assert saved.live == 0 and saved.peak == 2 * 4 * 4


def test_state_of_parameters_and_optimizer():
    cfg = tiny_cfg(NUM_BLOCKS=1)
    model = tiny_model(NUM_BLOCKS=1)
    memory = measure_step(cfg, 1)
    assert memory.peak is None
    tensors = [*model.parameters(), *model.buffers()]
    assert memory.parameter == sum(x.numel() * x.element_size() for x in tensors)
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    # AdamW: two moments per parameter, and a step count per tensor
    assert 2 * trained <= memory.optimizer < 2.05 * trained


def test_alternate_schedule_has_the_optimizer_state_of_all_blocks(rows):
    state = {
        (row["method"], row["num_blocks"]): row["mean"]
        for row in rows
        if row["metric"] == "optimizer_bytes"
    }
    for count in BLOCKS:
        assert state["flow_alternate", count] == state["flow_joint", count] > 0


def test_methods_do_not_depend_on_the_config():
    for file in ("digits_flow.yaml", "digits_backprop.yaml"):
        cfg = tiny_cfg(file, CHECKPOINT_BLOCKS=True, SCHEDULE="alternate")
        flow, backprop = (with_method(cfg, name, 2) for name in ("flow_joint", "backprop"))
        assert flow.MODEL.META_ARCHITECTURE == "FlowMatchingDetector"
        assert flow.MODEL.FLOW_DET.SCHEDULE == "joint"
        assert backprop.MODEL.META_ARCHITECTURE == "BackpropDetector"
        assert not backprop.MODEL.FLOW_DET.CHECKPOINT_BLOCKS


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown method 'magic'.*flow_joint"):
        with_method(tiny_cfg(), "magic", 4)
    with pytest.raises(ValueError, match="T must be at least 1, got 0"):
        list(memory_rows(tiny_cfg(), ["backprop"], [4, 0], [1]))
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        list(memory_rows(tiny_cfg(), ["backprop"], [4], [0]))


def test_figure_has_a_line_per_method(rows):
    (axes,) = memory_figure(rows).axes
    assert [line.get_label().split(":")[0] for line in axes.lines] == list(MEMORY_METHODS)
    assert list(axes.lines[0].get_xdata()) == BLOCKS
