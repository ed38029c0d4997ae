"""SoftHebb: competition, updates, and when the layers learn."""

import math

import pytest
import torch
from torch import nn

from flowdet.engine import build_optimizer
from flowdet.flowcls.baselines.soft_hebb import (
    HebbianSettings,
    HebbianStage,
    competition,
    hebbian_update,
    triangle,
)
from tests.flowcls.tiny import images, tiny_cfg, tiny_model

FILE = "baselines/digits_softhebb_cnn"
LN2 = math.log(2)


def keyed_model(learning_iters=10, **keys):
    words = [x for k, v in keys.items() for x in (f"MODEL.SOFT_HEBB.{k}", v)]
    fraction = ("MODEL.SOFT_HEBB.LEARNING_FRACTION", learning_iters / 10, "SOLVER.MAX_ITER", 10)
    return tiny_model(FILE, *fraction, *words)


def stage_of(weight, rate=0.1, power=1.0):
    """A stage with a 1x1 kernel, without batch norm and pooling."""
    weight = torch.tensor(weight)
    settings = HebbianSettings(1, rate, 0.5, LN2, power, 25.0)
    stage = HebbianStage(weight.shape[1], weight.shape[0], settings, nn.Identity())
    stage.norm = nn.Identity()
    stage.weight.data = weight[:, :, None, None]
    return stage


def weights(model):
    return [stage.weight.clone() for stage in model.backbone.stages]


def assert_changed(model, before, expected):
    """Checks for every stage whether its weights differ from those before."""
    changed = [not torch.equal(x, y) for x, y in zip(before, weights(model), strict=True)]
    assert changed == expected


def test_competition_by_hand():
    """The softmax of powers of 2; only the largest weighted input has a positive activation."""
    u = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 1.0]]).view(2, 3, 1, 1)
    expected = torch.tensor([[-2 / 7, 4 / 7, -1 / 7], [8 / 12, -2 / 12, -2 / 12]])
    torch.testing.assert_close(competition(u, LN2).flatten(1), expected, rtol=0, atol=1e-4)


def test_step_by_hand():
    stage = stage_of([[5.0, 0.0], [0.0, 2.0]])
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    # u = (5, 4), y = (2/3, -1/3): the first channel wins
    # dw_1 = 2/3 ((1, 2) - 5 (5, 0)) = (-16, 4/3), dw_2 = -1/3 ((1, 2) - 4 (0, 2)) = (-1/3, 2)
    # divided by 16; rates 0.1 |5 - 1|^0.5 = 0.2 and 0.1 |2 - 1|^0.5 = 0.1
    output = stage.learn(x, decay=1.0)
    expected = torch.tensor([[5 - 0.2, 0.2 / 12], [-0.1 / 48, 2 + 0.1 / 8]])
    torch.testing.assert_close(stage.weight[..., 0, 0], expected, rtol=0, atol=1e-4)
    # of the weights before the step: the mean of u is 4.5
    assert output.flatten().tolist() == pytest.approx([0.5, 0.0], abs=1e-4)


def test_decay_multiplies_the_step():
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    steps = []
    for decay in (1.0, 0.25):
        stage = stage_of([[5.0, 0.0], [0.0, 2.0]])
        before = stage.weight.clone()
        stage.learn(x, decay)
        steps.append(stage.weight - before)
    torch.testing.assert_close(0.25 * steps[0], steps[1], rtol=0, atol=1e-5)


def test_update_is_the_sum_over_patches():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 6, 5), torch.randn(4, 3, 3, 3)
    u = torch.conv2d(x, weight)
    y = competition(u, 0.7)
    expected = torch.zeros_like(weight)
    for image in range(2):
        for row in range(4):
            for column in range(3):
                patch = x[image, :, row : row + 3, column : column + 3]
                for k in range(4):
                    residual = patch - u[image, k, row, column] * weight[k]
                    expected[k] += y[image, k, row, column] * residual
    torch.testing.assert_close(hebbian_update(x, u, y, weight), expected, rtol=0, atol=1e-3)


def test_triangle_by_hand():
    u = torch.tensor([5.0, 1.0, 0.0]).view(1, 3, 1, 1)
    for power, expected in ((1.0, [3.0, 0.0, 0.0]), (2.0, [9.0, 0.0, 0.0])):
        assert triangle(u, power).flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_channel_of_norm_1_does_not_learn():
    stage = stage_of([[0.6, 0.8], [0.0, 2.0]])
    before = stage.weight.clone()
    stage.learn(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)), 1.0)
    moved = (stage.weight - before).flatten(1).norm(dim=1)
    # |1 - 1|^0.5 in float32
    assert moved[0] < 1e-4 and moved[1] > 1e-2


def test_winner_learns_the_direction_of_its_patches():
    """Two clusters of patches: each channel converges to one, with the norm 1."""
    torch.manual_seed(0)
    stage = stage_of([[3.0, 1.0], [1.0, 3.0]], rate=0.02)
    centers = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    for _ in range(500):
        x = centers.repeat(8, 1) + 0.1 * torch.randn(16, 2)
        stage.learn(x.view(16, 2, 1, 1), 1.0)
    # the other cluster pushes a little to the other side
    similarity = torch.cosine_similarity(stage.weight[..., 0, 0], centers)
    assert similarity.min() > 0.95
    torch.testing.assert_close(stage.norms(), torch.ones(2), rtol=0, atol=0.1)


def test_layer_learns_only_from_its_own_input():
    """An update depends on no later layer, and changes the weights of no other layer."""
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = keyed_model().train()
    x = pixels
    for index, stage in enumerate(model.backbone.stages):
        before = weights(model)
        x = stage.learn(x, 1.0)
        assert not x.requires_grad
        assert_changed(model, before, [k == index for k in range(3)])
    expected = weights(model)
    other = keyed_model().train()
    other.backbone.stages[2].weight.data.mul_(-3)
    other.readout.classifier.weight.data.mul_(-3)
    other.learn(pixels)
    assert_changed(other, expected, [False, False, True])


def test_read_out_trains_no_layer():
    model = keyed_model().train()
    sum(model(images()).values()).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"readout.classifier.weight", "readout.classifier.bias"}


def test_layers_learn_without_labels():
    results = []
    for shift in (0, 1):
        model = keyed_model().train()
        model([{**x, "label": (x["label"] + shift) % 4} for x in images()])
        results.append(weights(model))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_optimizer_does_not_change_the_layers():
    model = keyed_model().train()
    optimizer = build_optimizer(tiny_cfg(FILE, "SOLVER.WEIGHT_DECAY", 0.5), model)
    sum(model(images()).values()).backward()
    before, readout = weights(model), model.readout.classifier.weight.clone()
    optimizer.step()
    assert_changed(model, before, [False] * 3)
    assert not torch.equal(readout, model.readout.classifier.weight)


def test_layers_are_fixed_after_their_part_of_the_training():
    model = keyed_model(learning_iters=2).train()
    batch = images()
    for learns in (True, True, False, False):
        before = weights(model)
        statistics = [stage.norm.running_mean.clone() for stage in model.backbone.stages]
        model(batch)
        assert_changed(model, before, [learns] * 3)
        for stage, mean in zip(model.backbone.stages, statistics, strict=True):
            assert torch.equal(stage.norm.running_mean, mean) != learns
    assert int(model.state_dict()["iterations"]) == 4


def test_learning_rate_decays_linearly():
    """The third of four steps has half of the learning rate."""
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model, other = keyed_model(learning_iters=4).train(), keyed_model().train()
    model.iterations += 2
    model.learn(pixels)
    x = pixels
    for stage in other.backbone.stages:
        x = stage.learn(x, 0.5)
    assert_changed(model, weights(other), [False] * 3)


def test_without_a_learning_part_the_layers_stay_random():
    model = keyed_model(learning_iters=0).train()
    before = weights(model)
    model(images())
    assert_changed(model, before, [False] * 3)


def test_processes_sum_their_updates(monkeypatch):
    """Two processes with half of a batch each do the step of one process with all of it."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 3, 3)
    whole, first = (stage_of([[5.0, 0.0], [0.0, 2.0]]) for _ in range(2))
    patches = first.patches(x[2:])
    u = torch.conv2d(patches, first.weight)
    second = hebbian_update(patches, u, competition(u, LN2), first.weight)
    whole.learn(x, 1.0)
    module = "flowdet.flowcls.baselines.soft_hebb"
    monkeypatch.setattr(f"{module}.comm.get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda update: update.add_(second))
    first.learn(x[:2], 1.0)
    torch.testing.assert_close(first.weight, whole.weight, rtol=0, atol=1e-4)


def test_stages_have_the_keys_of_their_layer():
    model = keyed_model(KERNEL_SIZES=[5, 3], POWERS=[0.7, 1.4, 1.1], LEARNING_RATES=[0.2])
    stages = model.backbone.stages
    assert [stage.weight.shape[-1] for stage in stages] == [5, 3, 3]
    assert [stage.settings.power for stage in stages] == [0.7, 1.4, 1.1]
    assert [stage.settings.learning_rate for stage in stages] == [0.2] * 3


def test_pooling_by_hand():
    """The maximum of overlapping 4x4 windows; in the last stage the mean of 2x2 windows."""
    stages = keyed_model(POWERS=[1.0]).backbone.stages
    maximum, mean = [[4.0, 4.0], [4.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]
    for stage, channels, expected in zip(stages, (4, 6, 8), (maximum, maximum, mean), strict=True):
        u = torch.zeros(1, channels, 4, 4)
        # minus the mean over the channels, it is 4; it lies in all four 4x4 windows
        u[0, 0, 1, 1] = 4 * channels / (channels - 1)
        output = stage.output(u)[0]
        torch.testing.assert_close(output[0], torch.tensor(expected), rtol=0, atol=1e-4)
        assert not output[1:].any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_read_out_has_the_dropout_of_the_key(dropout):
    model = keyed_model(DROPOUT=dropout).train()
    pixels = model.images_of(images())
    one, two = model.readout_logits(pixels), model.readout_logits(pixels)
    assert torch.equal(one, two) == (dropout == 0)


def test_initial_norm():
    torch.manual_seed(0)
    stage = HebbianStage(32, 64, HebbianSettings(3, 0.1, 0.5, 1.0, 1.0, 7.0), nn.Identity())
    assert stage.norms().mean().item() == pytest.approx(7.0, rel=0.02)


def test_vit_is_refused():
    with pytest.raises(ValueError, match="convolutions only: set MODEL.BACKBONE.NAME build_cnn"):
        tiny_model("baselines/digits_ff_vit", "MODEL.META_ARCHITECTURE", "SoftHebbClassifier")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("KERNEL_SIZES", [4], r"KERNEL_SIZES is \[4\], but must be a list .* odd and above 0"),
        ("LEARNING_RATES", [], r"LEARNING_RATES is \[\], but must be a list of at least one"),
        ("LEARNING_RATES", [-1.0], r"LEARNING_RATES is \[-1.0\], but must be a list"),
        ("INVERSE_TEMPERATURES", [0.0], r"INVERSE_TEMPERATURES is \[0.0\], but must be a list"),
        ("POWERS", [0.0], r"POWERS is \[0.0\], but must be a list"),
        ("INITIAL_NORM", 0.0, "INITIAL_NORM is 0.0, but must be above 0"),
        ("RATE_POWER", -0.5, "RATE_POWER is -0.5, but must be at least 0"),
        ("LEARNING_FRACTION", 1.5, "LEARNING_FRACTION is 1.5, but must be from 0 to 1"),
        ("DROPOUT", 1.0, "DROPOUT is 1.0, but must be from 0 to below 1"),
    ],
)
def test_wrong_keys_are_named(key, value, message):
    with pytest.raises(ValueError, match=f"MODEL.SOFT_HEBB.{message}"):
        tiny_model(FILE, f"MODEL.SOFT_HEBB.{key}", value)
