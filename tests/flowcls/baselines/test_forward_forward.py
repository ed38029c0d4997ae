"""Forward-Forward, SymBa and layer collaboration: labels in images, goodness and losses."""

import math

import pytest
import torch

from flowdet.config import PixelSettings
from flowdet.flowcls.baselines.forward_forward import goodness, unit_length, wrong_labels
from flowdet.flowcls.baselines.label_overlay import LabelOverlay
from tests.flowcls.tiny import images, tiny_model

PIXELS = PixelSettings([100.0, 100.0, 100.0], [50.0, 50.0, 50.0], "RGB")
# of black and white
BLACK, WHITE = -2.0, 3.1


def softplus(x):
    return math.log(1 + math.exp(x))


def test_label_in_the_first_pixels():
    overlay = LabelOverlay("pixels", 4, 0.5, 2, PIXELS)
    pixels = torch.zeros(2, 3, 3, 3)
    out = overlay(pixels, torch.tensor([0, 3]))
    for channel in range(3):
        first = torch.tensor([[WHITE, BLACK, BLACK], [BLACK, 0, 0], [0, 0, 0]])
        second = torch.tensor([[BLACK, BLACK, BLACK], [WHITE, 0, 0], [0, 0, 0]])
        torch.testing.assert_close(out[0, channel], first, rtol=0, atol=1e-4)
        torch.testing.assert_close(out[1, channel], second, rtol=0, atol=1e-4)
    gray = BLACK + (WHITE - BLACK) / 4
    neutral = overlay(pixels).flatten(2)
    torch.testing.assert_close(neutral[..., :4], torch.full((2, 3, 4), gray), rtol=0, atol=1e-4)
    assert (neutral[..., 4:] == 0).all() and (pixels == 0).all()


def test_pattern_is_blended_and_repeats():
    torch.manual_seed(0)
    overlay = LabelOverlay("pattern", 3, 0.25, 2, PIXELS)
    overlay.patterns[1] = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(3, 2, 2)
    out = overlay(torch.full((1, 3, 3, 5), 1.0), torch.tensor([1]))
    high, low = 0.75 + 0.25 * WHITE, 0.75 + 0.25 * BLACK
    expected = torch.full((3, 5), low)
    expected[::2, ::2] = high
    torch.testing.assert_close(out[0], expected.expand(3, 3, 5), rtol=0, atol=1e-4)
    labels = [overlay(torch.zeros(1, 3, 4, 4), torch.tensor([k])) for k in range(3)]
    neutral = overlay(torch.zeros(1, 3, 4, 4))
    torch.testing.assert_close(neutral, sum(labels) / 3, rtol=0, atol=1e-4)


def test_image_without_room_for_the_labels_is_refused():
    overlay = LabelOverlay("pixels", 10, 0.5, 2, PIXELS)
    with pytest.raises(ValueError, match="3 x 3 pixels have no room for the labels of 10 classes"):
        overlay(torch.zeros(1, 3, 3, 3))


def test_wrong_labels_are_never_the_own_and_follow_the_read_out():
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(250)
    logits = torch.full((1000, 4), -30.0)
    logits[:, 2] = 0
    for hard in (True, False):
        drawn = wrong_labels(labels, logits, hard)
        assert (drawn != labels).all()
    hard, uniform = (wrong_labels(labels, logits, hard) for hard in (True, False))
    # the read-out prefers class 2, except where it is the own one
    assert (hard[labels != 2] == 2).all()
    assert set(uniform[labels != 2].tolist()) == {0, 1, 2, 3}


def test_goodness_and_length():
    y = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert goodness(y).tolist() == [12.5, 0.0]
    normalized = unit_length(y[:, :, None, None])
    assert goodness(normalized).tolist() == pytest.approx([1.0, 0.0], abs=1e-4)
    ratio = normalized[0, 0, 0, 0] / normalized[0, 1, 0, 0]
    assert ratio.item() == pytest.approx(0.75, rel=1e-4)


# two positive and two negative samples with 2 units, and their goodness
OUTPUTS = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
GOODNESS = [2.0, 1.0, 0.5, 4.0]


def keyed_model(file, **keys):
    words = [x for k, v in keys.items() for x in (f"MODEL.FORWARD_FORWARD.{k}", v)]
    return tiny_model(file, *words)


def test_forward_forward_loss_by_hand():
    model = keyed_model("baselines/digits_ff_vit", THRESHOLD=1.5, SCALE=2.0)
    p = [softplus(-2 * (g - 1.5)) for g in GOODNESS[:2]]
    n = [softplus(2 * (g - 1.5)) for g in GOODNESS[2:]]
    loss = model.layer_loss(1, OUTPUTS)["loss_goodness"]
    assert loss.item() == pytest.approx((sum(p) + sum(n)) / 2, rel=1e-4)


def test_symba_loss_by_hand():
    model = keyed_model("baselines/digits_symba_vit", SYMBA_ALPHA=3.0)
    expected = (softplus(-3 * (2.0 - 0.5)) + softplus(-3 * (1.0 - 4.0))) / 2
    assert model.layer_loss(0, OUTPUTS)["loss_goodness"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("collaboration", "index", "others", "layers"),
    [("all", 1, [0.3 + 0.7, 0.1 + 0.2, 0.5 + 0.6, 0.4 + 0.9], 3), ("previous", 0, [0] * 4, 1)]
    + [("previous", 1, [0.3, 0.1, 0.5, 0.4], 2)],
)
def test_collaborative_loss_by_hand(collaboration, index, others, layers):
    keys = {"THRESHOLD": 1.0, "SCALE": 1.0, "COLLABORATION": collaboration}
    model = keyed_model("baselines/digits_collab_vit", **keys)
    rows = [[0.3, 0.1, 0.5, 0.4], GOODNESS, [0.7, 0.2, 0.6, 0.9]]
    own = torch.tensor(GOODNESS, requires_grad=True)
    fixed = torch.tensor(rows)
    totals = [g + other - layers for g, other in zip(GOODNESS, others, strict=True)]
    expected = (softplus(-totals[0]) + softplus(-totals[1])) / 2
    expected += (softplus(totals[2]) + softplus(totals[3])) / 2
    loss = model.collaborative_loss(index, own, fixed)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert (own.grad != 0).all()


def test_collaboration_uses_the_goodness_of_this_batch():
    model = keyed_model("baselines/digits_collab_cnn", THRESHOLD=1.0, SCALE=1.0).train()
    batch = images()
    before = {n: b.clone() for n, b in model.backbone.named_buffers() if "running" in n}
    torch.manual_seed(0)
    samples, loss = model.layer_losses(
        model.images_of(batch), model.labels_of(batch), torch.zeros(4, 4)
    )
    after = dict(model.backbone.named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())
    outputs = model.run_layers(samples)
    rows = torch.stack([goodness(y) for y in outputs])
    expected = model.contrast(*rows.sum(dim=0).chunk(2), layers=3)
    for index, y in enumerate(outputs):
        actual = loss(index, y)["loss_goodness"]
        assert actual.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("method", ["ff", "symba", "collab"])
def test_loss_is_small_for_a_high_goodness_of_images_with_their_own_label(method):
    model = tiny_model(f"baselines/digits_{method}_cnn").train()
    pixels, labels = model.images_of(images()), model.labels_of(images())
    torch.manual_seed(0)
    samples, loss = model.layer_losses(pixels, labels, torch.zeros(4, 4))
    written = [model.overlay(pixels, torch.full((4,), k)) for k in range(4)]
    # every image is twice among the samples: once with its own label, once with another
    found = [
        [k for k in range(4) if torch.equal(sample, written[k][i % 4])]
        for i, sample in enumerate(samples)
    ]
    own = torch.tensor([label == [i % 4] for i, label in enumerate(found)])
    assert all(len(label) == 1 for label in found) and own.sum() == 4
    good, bad = (loss(1, 3.0 * y[:, None].float())["loss_goodness"] for y in (own, ~own))
    assert good < 0.7 * bad


@pytest.mark.parametrize("hard", [True, False])
def test_hard_negatives_have_the_label_that_the_read_out_prefers(hard):
    model = keyed_model("baselines/digits_ff_cnn", HARD_NEGATIVES=hard)
    labels, logits = torch.tensor([0, 1, 3] * 8), torch.tensor([0.0, 0.0, 50.0, 0.0]).expand(24, 4)
    pixels = torch.zeros(24, 3, 8, 8)
    torch.manual_seed(0)
    _, negative = model.samples(pixels, labels, logits).chunk(2)
    preferred = model.overlay(pixels, torch.full((24,), 2))
    same = (negative == preferred).flatten(1).all(dim=1)
    assert same.all() if hard else 0 < same.sum() < 24


@pytest.mark.parametrize("net", ["cnn", "vit"])
@pytest.mark.parametrize("method", ["ff", "symba", "collab"])
def test_length_of_an_output_has_no_effect_on_the_next_layer(method, net):
    model = tiny_model(f"baselines/digits_{method}_{net}").eval()
    pixels = model.images_of(images(2))
    lengths = torch.tensor([0.25, 4.0])
    with torch.no_grad():
        first = model.run_layer(0, pixels)
        scaled = lengths.view(-1, *[1] * (first.dim() - 1)) * first
        expected = model.run_layer(1, first)
        torch.testing.assert_close(model.run_layer(1, scaled), expected, rtol=1e-4, atol=1e-4)
        # images are not normalized
        other = model.run_layer(0, 4 * pixels)
    assert (other - first).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["ff", "collab"])
@pytest.mark.parametrize("training", [True, False])
def test_read_out_gets_images_with_the_neutral_code(method, training, monkeypatch):
    model = keyed_model(f"baselines/digits_{method}_cnn", LABEL="pixels").train(training)
    pixels = model.images_of(images(2))
    seen, run = [], model.backbone.stage

    def stage(index, x):
        if index == 0:
            seen.append(x)
        return run(index, x)

    monkeypatch.setattr(model.backbone, "stage", stage)
    model.readout_logits(pixels)
    model.eval().layer_features(images(2))
    # the first 4 pixels have a quarter of the way from black to white
    black, white = model.overlay.black, model.overlay.white
    for x in seen:
        code, rest = x.flatten(2).split([4, 32 * 32 - 4], dim=2)
        gray = (0.75 * black + 0.25 * white).flatten(1).expand_as(code)
        torch.testing.assert_close(code, gray, rtol=0, atol=1e-4)
        assert torch.equal(rest, pixels.flatten(2)[..., 4:])
    assert len(seen) == 2


@pytest.mark.parametrize(("method", "layers"), [("ff", [1, 2]), ("collab", [0, 1, 2])])
def test_label_goodness_is_the_sum_over_the_layers(method, layers):
    """The first layer counts only if the losses of the others contain its goodness."""
    model = tiny_model(f"baselines/digits_{method}_cnn").eval()
    pixels = model.images_of(images(2))
    with torch.no_grad():
        total = model.label_goodness(pixels)
        outputs = model.run_layers(model.overlay(pixels, torch.tensor([3, 3])))
    expected = sum(goodness(outputs[k]) for k in layers)
    torch.testing.assert_close(total[:, 3], expected, rtol=0, atol=1e-4)
    assert total.shape == (2, 4) and (total[:, 3] - total[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("first", ["goodness", "readout"])
def test_configured_inference_mode_comes_first(first):
    model = keyed_model("baselines/digits_ff_cnn", INFERENCE=first).eval()
    (result,) = model(images(1))
    assert result["modes"] == [first, "readout" if first == "goodness" else "goodness"]
    (only,) = model.inference(images(1), all_modes=False)
    assert only["modes"] == [first]
    torch.testing.assert_close(only["logits"][0], result["logits"][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LABEL", "corner", "LABEL is 'corner', but must be one of pixels, pattern"),
        ("INFERENCE", "guess", "INFERENCE is 'guess', but must be one of goodness, readout"),
        ("COLLABORATION", "some", "COLLABORATION is 'some', but must be one of all, previous"),
        ("THRESHOLD", 0.0, "THRESHOLD is 0.0, but must be above 0"),
        ("SCALE", -1.0, "SCALE is -1.0, but must be above 0"),
        ("PATTERN_STRENGTH", 1.0, "PATTERN_STRENGTH is 1.0, but must be above 0 and below 1"),
        ("PATTERN_SIZE", 0, "PATTERN_SIZE is 0, but must be at least 1"),
        ("SYMBA_ALPHA", 0.0, "SYMBA_ALPHA is 0.0, but must be above 0"),
    ],
)
def test_wrong_keys_are_named(key, value, message):
    with pytest.raises(ValueError, match=f"MODEL.FORWARD_FORWARD.{message}"):
        keyed_model("baselines/digits_ff_cnn", **{key: value})


def test_patterns_are_saved_and_depend_on_the_classes():
    model = tiny_model("baselines/digits_symba_cnn")
    assert "overlay.patterns" in model.state_dict()
    assert "overlay.patterns".startswith(model.class_tensors)
