"""What is computed once per image and block changes no result.

The reference is the block as the paper writes it: torch's own attention module, called in every
step and for every perturbation with the image tokens themselves.
"""

import pytest
import torch
from detectron2.modeling import build_model

from flowdet.detection import FlowMatchingDetector
from flowdet.detection.boxes import paired_iou, to_corners
from flowdet.detection.stability import BoxStability
from flowdet.detection.tokens import sample_tokens
from flowdet.detection.transformer_block import QueryPosition, TransformerFlowBlock
from tests.detection.box_transport.tiny import box_cfg
from tests.detection.tiny import batch, record, tiny_cfg
from tests.inference.comparison import assert_same_detections

# two images of one size, and one that is padded to a multiple of the stride
INPUTS = [*batch(), record([(1, (5, 5, 30, 20))], size=(50, 70), seed=3)]


def add(x, code):
    return x if code is None else x + code


def plain_forward(block, z_t, time_embedding, tokens, estimate=None, position=None):
    """`TransformerFlowBlock.forward`, step by step."""
    position = position or QueryPosition()
    h = block.input(z_t, time_embedding, estimate)
    x = block.norms[0](h)
    query = add(x, position.own)
    h = h + block.self_attention(query, query, x, need_weights=False, attn_mask=position.mask)[0]
    query, key = add(block.norms[1](h), position.cross), add(tokens.tokens, tokens.position)
    padding = {"key_padding_mask": tokens.padding, "need_weights": False}
    h = h + block.cross_attention(query, key, tokens.tokens, **padding)[0]
    if block.point_reader is not None:
        # the projection after the sampling
        sampled = sample_tokens(tokens.tokens, tokens.grids, position.points)
        h = h + block.point_reader.merge(block.point_reader.read(sampled).relu().flatten(-2))
    h = h + block.feedforward(block.norms[2](h))
    return block.output(block.norms[3](h))


def plain_stability(stability, refinement, decode_boxes):
    """`BoxStability.forward` with one run for each perturbation."""
    before, boxes = refinement.last_input, to_corners(decode_boxes(refinement.z_1))
    std = before.std(dim=(1, 2), keepdim=True)
    overlaps = []
    for noise in stability.noise:
        z = refinement.rerun_last_step((before + std * noise)[:, None])[:, 0]
        overlaps.append(paired_iou(to_corners(decode_boxes(z)), boxes))
    return torch.stack(overlaps).mean(dim=0)


@pytest.fixture
def use_plain_path(monkeypatch):
    def use(one_by_one=True):
        monkeypatch.delattr(TransformerFlowBlock, "prepare")
        monkeypatch.setattr(TransformerFlowBlock, "forward", plain_forward)
        if one_by_one:
            monkeypatch.setattr(BoxStability, "forward", plain_stability)

    return use


STABLE = {"STABILITY_SAMPLES": 3}
MODELS = {
    "multi_step": STABLE | {"NUM_STEPS": 5},
    "single_step": {"INFERENCE_MODE": "single_step"},
    "ensemble": STABLE | {"INFERENCE_MODE": "ensemble"},
    "multi_step_ensemble": {"INFERENCE_MODE": "multi_step_ensemble", "NUM_STEPS": 2},
    "early exit": STABLE | {"EARLY_EXIT": 0.02, "NUM_BLOCKS": 8},
    "paper": {"file": "paper/digits_flow.yaml"},
    "backprop": STABLE | {"file": "digits_backprop.yaml"},
}


def build(name):
    torch.manual_seed(0)
    return build_model(box_cfg(**STABLE) if name == "box transport" else tiny_cfg(**MODELS[name]))


@pytest.mark.parametrize("name", [*MODELS, "box transport"])
def test_detections_are_those_of_the_plain_path(name, use_plain_path):
    model = build(name).eval()
    found = model(INPUTS)
    use_plain_path()
    for result, expected in zip(found, model(INPUTS), strict=True):
        assert len(expected["instances"])
        assert_same_detections(result["instances"], expected["instances"])


@pytest.mark.parametrize("name", ["multi_step", "early exit", "backprop", "box transport"])
def test_padding_is_ignored_as_in_the_plain_path(name, use_plain_path, monkeypatch):
    model = build(name).eval()
    # like an FPN: larger than the stride of the tokens, so that some are padding only
    monkeypatch.setattr(type(model.backbone), "size_divisibility", 64)
    inputs = INPUTS[2:]
    assert model.encode(inputs).padding.any()
    found = model(inputs)
    use_plain_path()
    for result, expected in zip(found, model(inputs), strict=True):
        assert_same_detections(result["instances"], expected["instances"])


@pytest.mark.parametrize("name", ["multi_step", "early exit", "backprop", "box transport"])
def test_box_stability_with_a_block_that_prepares_nothing(name, use_plain_path):
    """A block of a user gets the tokens of every row of the states."""
    model = build(name).eval()
    found = model(INPUTS)
    use_plain_path(one_by_one=False)
    for result, expected in zip(found, model(INPUTS), strict=True):
        assert_same_detections(result["instances"], expected["instances"])


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"DENOISING_QUERIES": 2},
        {"LEARN_AT_START": True, "DENOISING_QUERIES": 2},
        {"LEARN_AT_START": True, "STATES_TRAIN_FEATURES": False},
        {"file": "digits_backprop.yaml"},
    ],
)
def test_gradients_are_those_of_the_plain_path(keys, use_plain_path):
    def gradients():
        model.zero_grad()
        torch.manual_seed(1)
        sum(model(INPUTS).values()).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    torch.manual_seed(0)
    model = build_model(tiny_cfg(DROPOUT=0.0, **keys)).train()
    found = gradients()
    use_plain_path()
    expected = gradients()
    assert found.keys() == expected.keys() and any("cross_attention" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("mode", ["multi_step", "multi_step_ensemble"])
def test_tokens_are_projected_once_per_block(mode, monkeypatch):
    calls, prepare = [], TransformerFlowBlock.prepare
    monkeypatch.setattr(
        TransformerFlowBlock,
        "prepare",
        lambda block, tokens: calls.append(block) or prepare(block, tokens),
    )
    torch.manual_seed(0)
    model = build_model(tiny_cfg(**STABLE, INFERENCE_MODE=mode, NUM_STEPS=7)).eval()
    assert isinstance(model, FlowMatchingDetector)
    model(batch())
    assert calls == list(model.flow.blocks)


def test_box_transport_projects_tokens_once_per_block(monkeypatch):
    calls, prepare = [], TransformerFlowBlock.prepare
    monkeypatch.setattr(
        TransformerFlowBlock,
        "prepare",
        lambda block, tokens: calls.append(block) or prepare(block, tokens),
    )
    model = build("box transport").eval()
    assert model.sampling.num_steps > 1
    model(batch())
    assert calls == list(model.blocks)


@pytest.mark.parametrize(("states_train_features", "per_block"), [(True, 1), (False, 2)])
def test_samples_of_a_training_step_share_the_tokens(states_train_features, per_block, monkeypatch):
    """With `LEARN_AT_START`, blocks after the first have two samples."""
    calls, prepare = [], TransformerFlowBlock.prepare
    monkeypatch.setattr(
        TransformerFlowBlock,
        "prepare",
        lambda block, tokens: calls.append(block) or prepare(block, tokens),
    )
    keys = {"LEARN_AT_START": True, "STATES_TRAIN_FEATURES": states_train_features}
    model = build_model(tiny_cfg(**keys)).train()
    model(INPUTS)
    assert [calls.count(block) for block in model.flow.blocks] == [1, per_block, per_block]
