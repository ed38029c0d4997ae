"""Stochastic Forward-Forward: effective dimensions, noise and energy."""

import pytest
import torch
from detectron2.modeling import build_model

from flowdet.flowcls.baselines.stochastic_forward_forward import (
    effective_dimensions,
    participation_ratio,
)
from tests.flowcls.tiny import images, tiny_cfg, tiny_model

FILE = "baselines/digits_sff_cnn"


@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [([1.0, 1.0, 1.0], 3.0), ([5.0, 0.0, 0.0], 1.0), ([3.0, 1.0], 1.6), ([0.0, 0.0], 0.0)],
)
def test_participation_ratio_by_hand(eigenvalues, expected):
    torch.manual_seed(0)
    rotation = torch.nn.init.orthogonal_(torch.empty(len(eigenvalues), len(eigenvalues)))
    covariance = rotation @ torch.diag(torch.tensor(eigenvalues)) @ rotation.T
    assert participation_ratio(covariance).item() == pytest.approx(expected, abs=1e-4)


def test_effective_dimensions_by_hand():
    """Two images with 2 copies at one position, with 2 channels."""
    first = [[1.0, 0.0], [1.0, 0.0]]
    second = [[0.0, 1.0], [2.0, 1.0]]
    copies = torch.tensor([first, second]).transpose(0, 1)[:, :, None]
    compression, diversity = effective_dimensions(copies)
    # C_1 = [[2, 0], [0, 0]]; C_2 = [[4, 2], [2, 2]] has tr^2 / tr(C^2) = 36 / 28
    assert compression.item() == pytest.approx((1 + 36 / 28) / 2, rel=1e-4)
    # the means (1, 0) and (1, 1): C = [[2, 1], [1, 1]], 9 / 7
    assert diversity.item() == pytest.approx(9 / 7, rel=1e-4)


def test_loss_by_hand():
    words = {"SAMPLES": 2, "COMPRESSION_WEIGHT": 0.5, "DIVERSITY_WEIGHT": 0.25}
    keys = [x for k, v in words.items() for x in (f"MODEL.SFF.{k}", v)]
    model = tiny_model(FILE, *keys, "MODEL.SFF.PROJECTION_DIMS", [2])
    # copy by copy; 4 channels at 1 x 1 positions, of which the projection keeps 2
    y = torch.zeros(4, 4, 1, 1)
    y[:, :2, 0, 0] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    model.projection0 = torch.eye(4)[:, :2]
    losses = model.layer_loss(0, y)
    compression = losses["loss_compression"].item()
    assert compression == pytest.approx(0.5 * (1 + 36 / 28) / 2, rel=1e-4)
    assert losses["loss_diversity"].item() == pytest.approx(-0.25 * 9 / 7, rel=1e-4)


def test_copies_of_one_image_are_compressed_and_the_images_are_spread():
    """Image b has values in color channel b only: its copies lie on a line, the images do not."""
    weights = ("MODEL.SFF.COMPRESSION_WEIGHT", 1.0, "MODEL.SFF.DIVERSITY_WEIGHT", 1.0)
    model = tiny_model(FILE, "MODEL.SFF.SAMPLES", 4, *weights).train()
    pixels = torch.eye(3)[:, :, None, None].expand(3, 3, 32, 32)
    model.projection0 = torch.eye(3)
    torch.manual_seed(0)
    inputs, loss = model.layer_losses(pixels, torch.zeros(3).long(), torch.zeros(3, 4))
    losses = loss(0, inputs.mean(dim=(2, 3), keepdim=True))
    assert losses["loss_compression"].item() == pytest.approx(1, rel=1e-4)
    # the share of the pixels that the noise keeps differs a little
    assert losses["loss_diversity"].item() == pytest.approx(-3, rel=0.02)


def test_projections_are_orthogonal_and_no_wider_than_the_layers():
    model = tiny_model(FILE, "MODEL.SFF.PROJECTION_DIMS", [30, 3])
    # layers of 4, 6 and 8 channels; the last dimension is that of all further layers
    shapes = [tuple(getattr(model, f"projection{k}").shape) for k in range(3)]
    assert shapes == [(4, 4), (6, 3), (8, 3)]
    for k in range(3):
        matrix = getattr(model, f"projection{k}")
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(matrix.shape[1]), rtol=0, atol=1e-4)
    assert "projection1" in model.state_dict()


def test_noise_is_new_in_training_and_fixed_at_inference():
    model = tiny_model(FILE, "MODEL.SFF.SAMPLES", 3, "MODEL.SFF.INFERENCE_SAMPLES", 5)
    pixels = model.images_of(images(2))
    model.train()
    torch.manual_seed(0)
    one, two = model.noisy_copies(pixels), model.noisy_copies(pixels)
    assert one.shape[0] == 6 and not torch.equal(one, two)
    model.eval()
    one, two = model.noisy_copies(pixels), model.noisy_copies(pixels)
    assert one.shape[0] == 10 and torch.equal(one, two)
    deviations = one.unflatten(0, (5, 2)) - pixels.mean(dim=(2, 3), keepdim=True)
    # a value is dropped in both images or in none; the others are scaled by 1 / (1 - 0.2)
    kept = deviations != 0
    assert torch.equal(kept[:, 0], kept[:, 1]) and 0.7 < kept.float().mean() < 0.9
    scaled = (pixels - pixels.mean(dim=(2, 3), keepdim=True)) / 0.8
    torch.testing.assert_close(
        deviations[kept], scaled.expand_as(deviations)[kept], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("training", [True, False])
def test_dropped_values_become_the_mean_of_their_channel(training):
    """So the noise is the same whatever the normalization, and an even channel has none."""
    model = tiny_model(FILE, "MODEL.SFF.SAMPLES", 4, "MODEL.SFF.INFERENCE_SAMPLES", 4)
    model.train(training)
    even = torch.full((1, 3, 32, 32), -2.0)
    torch.testing.assert_close(model.noisy_copies(even), even.repeat(4, 1, 1, 1))
    image = even.clone()
    image[..., :8] = 2.0
    image[:, 2] = 5.0
    torch.manual_seed(0)
    first, second, third = model.noisy_copies(image).unbind(dim=1)
    # the mean is -1: dropped -1, kept -1 + (-2 + 1) / 0.8 and -1 + (2 + 1) / 0.8
    for channel in (first, second):
        values = torch.tensor([-2.25, -1.0, 2.75])
        torch.testing.assert_close(channel.unique(), values, rtol=0, atol=1e-4)
    # each channel has its own noise
    assert not torch.equal(first, second)
    torch.testing.assert_close(third, torch.full_like(third, 5.0))


def test_energy_is_the_mean_of_the_squared_outputs():
    model = tiny_model(FILE, "MODEL.SFF.INFERENCE_SAMPLES", 2).eval()
    pixels = model.images_of(images(3))
    with torch.no_grad():
        energy = model.readout_logits(pixels)
        outputs = [
            model.readout(model.readout_features(model.layer_outputs(x)))
            for x in model.noisy_copies(pixels).chunk(2)
        ]
    expected = (outputs[0].square() + outputs[1].square()) / 2
    torch.testing.assert_close(energy, expected, rtol=1e-4, atol=1e-4)


def test_the_energy_starts_at_one_with_a_gradient_for_every_class():
    """Random outputs around 0 would have energies without sign, and almost no gradient."""
    # not tiny_model, which perturbs the weights
    model = build_model(tiny_cfg(FILE)).train()
    energy = model.readout_logits(model.images_of(images(4)))
    torch.testing.assert_close(energy, torch.ones_like(energy))
    torch.nn.functional.cross_entropy(energy, torch.zeros(4).long()).backward()
    # 2 o_c (p_c - y_c) with o_c = 1 and p_c = 1 / 4
    expected = torch.tensor([-1.5, 0.5, 0.5, 0.5])
    torch.testing.assert_close(model.readout.classifier.bias.grad, expected)


def test_images_of_another_size_than_the_config_get_the_noise_too():
    model = tiny_model(FILE, "MODEL.SFF.INFERENCE_SAMPLES", 2).eval()
    pixels = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    one, two = model.noisy_copies(pixels), model.noisy_copies(pixels)
    assert one.shape == (4, 3, 24, 40) and torch.equal(one, two)
    assert not torch.equal(one[:2], one[2:])


def test_without_inference_samples_there_is_no_noise():
    model = tiny_model(FILE, "MODEL.SFF.INFERENCE_SAMPLES", 0).eval()
    pixels = model.images_of(images(2))
    assert torch.equal(model.noisy_copies(pixels), pixels)
    assert model.readout_logits(pixels).shape == (2, 4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SAMPLES", 1, "SAMPLES is 1, but must be at least 2"),
        ("INFERENCE_SAMPLES", -1, "INFERENCE_SAMPLES is -1, but must be at least 0"),
        ("NOISE", 1.0, "NOISE is 1.0, but must be above 0 and below 1"),
        ("COMPRESSION_WEIGHT", -1.0, "COMPRESSION_WEIGHT is -1.0, but must be at least 0"),
        ("DIVERSITY_WEIGHT", -1.0, "DIVERSITY_WEIGHT is -1.0, but must be at least 0"),
        ("PROJECTION_DIMS", [], r"PROJECTION_DIMS is \[\], but must be a list of at least one"),
        ("PROJECTION_DIMS", [0], r"PROJECTION_DIMS is \[0\], but must be a list"),
    ],
)
def test_wrong_keys_are_named(key, value, message):
    with pytest.raises(ValueError, match=f"MODEL.SFF.{message}"):
        tiny_model(FILE, f"MODEL.SFF.{key}", value)
