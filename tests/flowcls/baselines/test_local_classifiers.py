"""What all classifiers whose layers learn from their own loss have in common."""

import pytest
import torch

from flowdet.config.errors import ConfigError
from flowdet.experiments.memory import SavedBytes
from flowdet.flow import block_local_losses
from flowdet.flowcls.baselines.local_classifier import (
    evaluation_mode,
    grid_means,
    without_batch_norm_updates,
)
from tests.flowcls.tiny import (
    assert_batch_has_no_effect,
    assert_labels_have_no_effect,
    images,
    tiny_model,
)

METHODS = ("ff", "symba", "collab", "sff", "cff", "cff_margin")
FILES = [f"baselines/digits_{method}_{net}" for method in METHODS for net in ("cnn", "vit")]
# also those without losses of layers
ALL_FILES = [*FILES, "baselines/digits_softhebb_cnn"]
LAYERS = {"cnn": ["stage1", "stage2", "stage3"], "vit": ["layer1", "layer2", "layer3"]}


def model_of(file, *overrides):
    return tiny_model(file, "MODEL.SFF.SAMPLES", 3, "MODEL.SFF.INFERENCE_SAMPLES", 2, *overrides)


def layer_of(name):
    """Name of the layer that a parameter of the backbone belongs to."""
    if "stages." in name:
        return f"stage{int(name.split('stages.')[1][0]) + 1}"
    if "encoder_layer_" in name:
        return f"layer{int(name.split('encoder_layer_')[1][0]) + 1}"
    # the embedding of the patches is part of the first layer
    return "layer1"


@pytest.mark.parametrize("file", FILES)
def test_loss_of_a_layer_trains_no_other_layer(file):
    model = model_of(file).train()
    # two images of each class: the contrastive loss compares them
    batch = images(num_classes=2)
    pixels, labels = model.images_of(batch), model.labels_of(batch)
    inputs, loss = model.layer_losses(pixels, labels, torch.zeros(4, 4))
    for index, expected in enumerate(LAYERS[file[-3:]]):
        # without detaching the output of a layer: only `run_layer` stops the gradient
        x = inputs
        for k in range(index + 1):
            x = model.run_layer(k, x)
        model.zero_grad()
        sum(loss(index, x).values()).backward()
        named = model.named_parameters()
        trained = {n for n, p in named if p.grad is not None and p.grad.abs().sum() > 0}
        assert {layer_of(name) for name in trained} == {expected}
        assert all(name.startswith("backbone.") for name in trained)


@pytest.mark.parametrize("file", FILES)
def test_gradients_are_those_of_the_layers_own_losses_and_of_the_read_out(file):
    model = model_of(file, "MODEL.FORWARD_FORWARD.HARD_NEGATIVES", False).double().train()
    batch = images(num_classes=2)
    pixels, labels = model.images_of(batch).double(), model.labels_of(batch)
    torch.manual_seed(3)
    losses = model.image_losses(pixels, labels)
    sum(losses.values()).backward()
    local = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in local.values())
    model.zero_grad()
    torch.manual_seed(3)
    logits = model.readout_logits(pixels)
    x, loss = model.layer_losses(pixels, labels, logits.detach())
    total = torch.nn.functional.cross_entropy(logits.float(), labels)
    for index in range(3):
        x = model.run_layer(index, x)
        total = total + sum(loss(index, x).values())
    total.backward()
    # running statistics differ by the second pass, and change the read-out's features
    for name, p in model.named_parameters():
        if name.startswith("backbone."):
            torch.testing.assert_close(local[name], p.grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("file", ALL_FILES)
def test_read_out_passes_no_gradient_to_the_layers(file):
    model = model_of(file).train()
    model.readout_logits(model.images_of(images())).square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"readout.classifier.weight", "readout.classifier.bias"}
    assert model.backbone.training


@pytest.mark.parametrize("file", [file for file in ALL_FILES if file.endswith("cnn")])
def test_read_out_gets_the_features_of_inference_also_in_training(file):
    """Its pass through the layers neither uses nor changes the statistics of this batch."""
    model = model_of(file).train()
    pixels = model.images_of(images())
    means = {n: b.clone() for n, b in model.backbone.named_buffers() if "running" in n}
    norms_in_training, seen = [], []
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda m, *_: norms_in_training.append(m.training))
    model.readout.register_forward_pre_hook(lambda m, args: seen.append(m.training))
    model.readout_logits(pixels)
    assert norms_in_training and not any(norms_in_training) and seen == [True]
    after = dict(model.backbone.named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in means.items())


@pytest.mark.parametrize("file", ALL_FILES)
def test_read_out_gets_the_layers_that_the_method_states(file):
    """Forward-Forward: all layers but the first; the others: the last one."""
    model = model_of(file)
    shapes = [(2, 4, 8, 8), (2, 6, 8, 8), (2, 8, 8, 8)] if "cnn" in file else [(2, 16, 16)] * 3
    outputs = dict(zip(model.layer_names, map(torch.zeros, shapes), strict=True))
    before = model.readout_features(outputs)
    used = []
    for index, (name, x) in enumerate(outputs.items()):
        after = model.readout_features({**outputs, name: x + 1})
        if not torch.equal(after, before):
            used.append(index)
    forward_forward = any(f"digits_{method}_" in file for method in ("ff", "symba", "collab"))
    assert used == ([1, 2] if forward_forward else [2])
    assert before.shape[1] == model.readout.classifier.in_features


@pytest.mark.parametrize("file", ALL_FILES)
def test_predictions_and_features_do_not_depend_on_labels(file):
    model = model_of(file).eval()
    assert_labels_have_no_effect(model)


@pytest.mark.parametrize("file", ALL_FILES)
def test_results_do_not_depend_on_the_batch(file):
    model = model_of(file).eval()
    assert_batch_has_no_effect(model)


@pytest.mark.parametrize("file", ALL_FILES)
def test_layer_features_are_the_means_of_every_layer(file):
    model = model_of(file).eval()
    features = model.layer_features(images())
    net = file[-3:]
    assert list(features) == LAYERS[net]
    widths = [4, 6, 8] if net == "cnn" else [16, 16, 16]
    assert [tuple(x.shape) for x in features.values()] == [(4, width) for width in widths]
    assert not any(x.requires_grad for x in features.values())
    with pytest.raises(ValueError, match="call model.eval"):
        model.train().layer_features(images())


@pytest.mark.parametrize(
    "file", [f"baselines/digits_{method}_vit" for method in ("ff", "sff", "cff")]
)
def test_saved_activations_do_not_grow_with_the_layers(file):
    def peak(layers):
        model = model_of(file, "MODEL.VIT.NUM_LAYERS", layers).train()
        pixels, labels = model.images_of(images()), model.labels_of(images())
        with SavedBytes(model).counting() as saved:
            sum(model.image_losses(pixels, labels).values()).backward()
        return saved.peak

    # the read-out of Forward-Forward gets more layers: 16 cells of 16 channels for each image
    assert 0 < peak(6) <= 1.2 * peak(3)


@pytest.mark.parametrize("file", FILES)
def test_training_lowers_the_losses_of_a_batch(file):
    model = model_of(file, "MODEL.FORWARD_FORWARD.HARD_NEGATIVES", False).train()
    batch = images(8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    totals = []
    for _ in range(15):
        torch.manual_seed(0)
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append({name: loss.item() for name, loss in losses.items()})
    layers = [sum(x for n, x in t.items() if n != "loss_readout") for t in totals]
    assert layers[-1] < layers[0]
    assert totals[-1]["loss_readout"] < totals[0]["loss_readout"]


def test_grid_means_of_maps_and_tokens():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert grid_means(maps, 2).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    tokens = torch.arange(8.0).view(1, 4, 2)
    assert grid_means(tokens, 1).tolist() == [[3.0, 4.0]]
    # channel by channel, as for maps
    assert grid_means(tokens, 2).tolist() == [[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]]


@pytest.mark.parametrize(
    "file, key, most, size",
    [
        ("ff_cnn", "LOCAL_LEARNING.READOUT_GRID", 4, "4 x 4 positions"),
        ("cff_vit", "LOCAL_LEARNING.READOUT_GRID", 4, "17 tokens"),
        ("noprop_ct_cnn", "NOPROP.FEATURE_GRID", 4, "4 x 4 positions"),
        ("noprop_fm_vit", "NOPROP.FEATURE_GRID", 4, "17 tokens"),
    ],
)
def test_grid_finer_than_the_output_is_refused(file, key, most, size):
    file, key = f"baselines/digits_{file}", f"MODEL.{key}"
    sum(tiny_model(file, key, most).train()(images()).values())
    message = f"{key} is 5, but must be at most {most}, .* only {size}; write, .* {key} {most}, or"
    for training in (True, False):
        with pytest.raises(ConfigError, match=message):
            tiny_model(file, key, 5).train(training)(images())


def test_grid_is_bounded_by_the_shorter_side():
    assert grid_means(torch.zeros(1, 2, 3, 5), 3).shape == (1, 18)
    with pytest.raises(
        ConfigError, match="A.B is 4, but must be at most 3, .* only 3 x 5 positions"
    ):
        grid_means(torch.zeros(1, 2, 3, 5), 4, "A.B")


def test_evaluation_mode_restores_the_mode():
    for training in (True, False):
        module = torch.nn.BatchNorm1d(2).train(training)
        with evaluation_mode(module):
            assert not module.training
        assert module.training == training


def test_batch_norm_keeps_its_statistics_but_normalizes_the_batch():
    norm = torch.nn.BatchNorm1d(2).train()
    with without_batch_norm_updates(norm):
        y = norm(5 + torch.randn(8, 2))
    assert y.mean().abs() < 1e-4
    assert norm.running_mean.tolist() == [0, 0] and norm.momentum == 0.1


def test_backbone_without_layers_is_refused():
    with pytest.raises(ValueError, match="BACKBONE.NAME build_small_resnet_backbone cannot be"):
        tiny_model(
            "baselines/digits_ff_cnn",
            *("MODEL.BACKBONE.NAME", "build_small_resnet_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res3"]),
        )


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="NUM_CLASSES must be at least 2"):
        tiny_model("baselines/digits_ff_cnn", NUM_CLASSES=1)


def test_block_local_losses_need_no_shared_features():
    weight = torch.nn.Parameter(torch.tensor(2.0))
    losses = block_local_losses(lambda k, _: {"loss": (k + 1) * weight}, [0, 1], [], [weight])
    losses["loss"].backward()
    assert losses["loss"].item() == 6 and weight.grad.item() == 3
