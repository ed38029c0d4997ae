"""Features of every layer for the analysis of representations."""

import pytest
import torch

from flowdet.flow import InferencePlan
from tests.flowcls.tiny import images, tiny_model

STAGES = [f"stage{k}" for k in (1, 2, 3)]
LAYERS = [f"layer{k}" for k in (1, 2, 3)]
BLOCKS = [f"block{k}" for k in range(3)]


@pytest.mark.parametrize("file", ["cifar10_flow_cnn", "cifar10_flow_cnn+backprop"])
def test_stages_of_the_cnn_and_blocks(file):
    features = tiny_model(file).eval().layer_features(images())
    assert list(features) == STAGES + BLOCKS
    assert [x.shape[1] for x in features.values()] == [4, 6, 8, 16, 16, 16]
    assert all(len(x) == 4 and not x.requires_grad for x in features.values())


def test_stages_are_averaged_over_positions():
    model = tiny_model("cifar10_flow_cnn").eval()
    features = model.layer_features(images())
    maps = model.backbone(model.images_of(images()))
    for name in STAGES:
        torch.testing.assert_close(features[name], maps[name].mean(dim=(2, 3)), rtol=0, atol=1e-4)


def test_blocks_of_the_flow_model_are_the_estimates_of_single_steps():
    model = tiny_model().eval()
    batch = images()
    features = model.layer_features(batch)
    assert list(features) == LAYERS + BLOCKS
    read = model.reader(model.backbone(model.images_of(batch)))
    for k, name in enumerate(BLOCKS):
        logits = model.logits(read, InferencePlan("single_step", block=k))
        actual = model.embedding.logits(features[name])
        torch.testing.assert_close(actual, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "keys", [{}, {"BLOCK": "encoder", "FEATURES": "tokens"}], ids=["mlp", "encoder"]
)
def test_last_block_of_the_baseline_decides_its_logits(keys):
    model = tiny_model("digits_flow_vit+backprop", **keys).eval()
    batch = images()
    features = model.layer_features(batch)
    assert list(features) == LAYERS + BLOCKS
    read = model.reader(model.backbone(model.images_of(batch)))
    last = model.head.block_outputs(read[0])[-1]
    output = model.head.output(last[:, 0]) if keys else last
    expected = model.logits_by_mode(read, True)["head"]
    torch.testing.assert_close(model.projection(output), expected, rtol=0, atol=1e-4)
    assert features["block2"].shape == (4, 16)


def test_labels_are_not_used_and_training_mode_is_refused():
    model = tiny_model().eval()
    batch = images()
    blind = [{"image": x["image"]} for x in batch]
    for one, two in zip(
        model.layer_features(batch).values(), model.layer_features(blind).values(), strict=True
    ):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="call model.eval"):
        model.train().layer_features(batch)
