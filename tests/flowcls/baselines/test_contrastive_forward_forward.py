"""Contrastive Forward-Forward: the contrastive loss with and without margin, and second views."""

import math

import pytest
import torch

from flowdet.data.classification.loaders import build_train_loader
from flowdet.flowcls.baselines.contrastive_forward_forward import contrastive_loss
from tests.flowcls.tiny import images, tiny_cfg, tiny_model

# three directions in a plane, at 0, 60 and 90 degrees, of different lengths
FEATURES = torch.tensor([[2.0, 0.0], [0.5, 0.75**0.5], [0.0, 3.0]])
# cosines of the angles
S01, S02, S12 = 0.5, 0.0, 0.75**0.5


def minus_log_share(first, *others, temperature=0.5):
    """-log of the softmax probability of the first similarity."""
    return -math.log(
        math.exp(first / temperature) / sum(math.exp(s / temperature) for s in (first, *others))
    )


def test_loss_by_hand():
    # only samples 0 and 1 have a positive sample
    loss = contrastive_loss(FEATURES, torch.tensor([1, 1, 0]), 0.5)
    expected = (minus_log_share(S01, S02) + minus_log_share(S01, S12)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_loss_is_the_mean_over_the_positive_samples():
    loss = contrastive_loss(FEATURES, torch.tensor([2, 2, 2]), 0.5)
    expected = sum(
        (minus_log_share(a, b) + minus_log_share(b, a)) / 2
        for a, b in ((S01, S02), (S01, S12), (S02, S12))
    )
    assert loss.item() == pytest.approx(expected / 3, rel=1e-4)


def test_margin_by_hand():
    # 0.5 + 0.3 stays below 1
    loss = contrastive_loss(FEATURES, torch.tensor([1, 1, 0]), 0.5, 0.3)
    expected = (minus_log_share(S01 + 0.3, S02) + minus_log_share(S01 + 0.3, S12)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    # 0.5 + 0.6 is limited to 1
    loss = contrastive_loss(FEATURES, torch.tensor([1, 1, 0]), 0.5, 0.6)
    expected = (minus_log_share(1, S02) + minus_log_share(1, S12)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_pair_within_the_margin_passes_no_gradient():
    def gradient(margin):
        features = FEATURES[:2].clone().requires_grad_()
        # a third sample of another class that is similar to none
        others = torch.tensor([[-1.0, -1.0]])
        loss = contrastive_loss(torch.cat([features, others]), torch.tensor([1, 1, 0]), 0.5, margin)
        loss.backward()
        return features.grad

    def of_the_negatives():
        features = FEATURES[:2].clone().requires_grad_()
        z = torch.nn.functional.normalize(features, dim=1)
        negative = torch.exp((z @ torch.tensor([-1.0, -1.0]) * 0.5**0.5) / 0.5)
        (-torch.log(math.exp(2) / (math.exp(2) + negative))).mean().backward()
        return features.grad

    torch.testing.assert_close(gradient(0.6), of_the_negatives(), rtol=1e-4, atol=1e-6)
    assert (gradient(0.3) - of_the_negatives()).abs().max() > 1e-2


@pytest.mark.parametrize("labels", [[0, 1, 2], [0]])
def test_samples_without_a_positive_sample_have_no_loss(labels):
    features = FEATURES[: len(labels)].clone().requires_grad_()
    loss = contrastive_loss(features, torch.tensor(labels), 0.15)
    loss.backward()
    assert loss.item() == 0 and not features.grad.any()


def test_loss_does_not_depend_on_the_length_of_features():
    torch.manual_seed(0)
    features, labels = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 2, 2])
    lengths = torch.rand(6, 1) + 0.5
    expected = contrastive_loss(features, labels, 0.15, 0.1).item()
    assert contrastive_loss(lengths * features, labels, 0.15, 0.1).item() == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize(
    ("file", "margins"),
    [("cff_cnn", [0, 0, 0]), ("cff_margin_cnn", [0.4, 0.25, 0.1])]
    + [("cff_margin_vit", [0.4, 0.25, 0.1])],
)
def test_every_layer_has_its_margin(file, margins):
    model = tiny_model(f"baselines/digits_{file}")
    assert model.margins == pytest.approx(margins, abs=1e-6)
    # two tokens with these averages, or a map whose cells have these values
    y = FEATURES[:, None] * torch.tensor([0.5, 1.5])[:, None]
    if file.endswith("cnn"):
        y = torch.zeros(3, 1, 4, 4)
        y[:, 0, 2, :2] = FEATURES
    labels = torch.tensor([1, 1, 0])
    _, loss = model.layer_losses(torch.zeros(3, 3, 32, 32), labels, torch.zeros(3, 4))
    for index, margin in enumerate(margins):
        expected = contrastive_loss(FEATURES, labels, 0.15, margin).item()
        assert loss(index, y)["loss_contrast"].item() == pytest.approx(expected, rel=1e-4)


def test_one_layer_has_the_margin_of_the_first():
    keys = ("MODEL.CNN.CHANNELS", [4], "MODEL.CFF.MARGIN", 0.4)
    assert tiny_model("baselines/digits_cff_cnn", *keys).margins == pytest.approx([0.4])


def test_second_views_are_further_samples():
    model = tiny_model("baselines/digits_cff_vit").train()
    one, two = images(8)[:4], images(8)[4:]
    batch = [{**a, "image2": b["image"]} for a, b in zip(one, two)]
    expected = model([*one, *two])
    losses = model(batch)
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in expected.items()}
    with_one_view = model(one)
    # four classes in four images: no image has a positive sample
    assert with_one_view["loss_contrast"].item() == 0 < losses["loss_contrast"].item()
    results = model.eval()(batch)
    assert len(results) == 4
    torch.testing.assert_close(results[0]["logits"], model(one)[0]["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny_imagenet"])
def test_configs_with_augmentation_have_two_views(dataset):
    for method in ("cff", "cff_margin"):
        assert tiny_cfg(f"baselines/{dataset}_{method}_vit").INPUT.SECOND_VIEW
        assert not tiny_cfg(f"baselines/digits_{method}_vit").INPUT.SECOND_VIEW


def test_training_with_second_views_of_the_loader():
    cfg = tiny_cfg("baselines/digits_cff_cnn", "INPUT.SECOND_VIEW", True, "SEED", 1)
    cfg.INPUT.RANDOM_ROTATION = 10.0
    cfg.SOLVER.IMS_PER_BATCH = 8
    batch = next(iter(build_train_loader(cfg)))
    assert any(not torch.equal(x["image"], x["image2"]) for x in batch)
    model = tiny_model("baselines/digits_cff_cnn", NUM_CLASSES=10).train()
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(x.isfinite() for x in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TEMPERATURE", 0.0, "TEMPERATURE is 0.0, but must be above 0"),
        ("MARGIN", -0.1, "MARGIN is -0.1, but must be from 0 to 2"),
        ("MARGIN", 2.5, "MARGIN is 2.5, but must be from 0 to 2"),
        ("LAST_MARGIN", 1.5, "LAST_MARGIN is 1.5, but must be from 0 to 1"),
    ],
)
def test_wrong_keys_are_named(key, value, message):
    with pytest.raises(ValueError, match=f"MODEL.CFF.{message}"):
        tiny_model("baselines/digits_cff_cnn", f"MODEL.CFF.{key}", value)
