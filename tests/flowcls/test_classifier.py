"""FlowMatchingClassifier and BackpropClassifier as models."""

import logging
import random

import pytest
import torch
import torch.nn.functional as F

from flowdet.events import warn_of_untrained_blocks
from flowdet.experiments.memory import SavedBytes
from flowdet.flow import InferencePlan, block_local_losses
from tests.flowcls.tiny import (
    assert_batch_has_no_effect,
    assert_labels_have_no_effect,
    images,
    tiny_model,
)

TOPOLOGIES = ["parallel", "sequential"]


def block_gradients(model, block):
    """Gradients of one block's loss, by parameter name, through the whole model."""
    model.zero_grad()
    batch = images()
    features = model.reader(model.backbone(model.images_of(batch)))
    block_losses, inputs = model.block_losses(features, model.labels_of(batch))
    parameters = [*model.flow.parameters(), *model.embedding.parameters()]
    losses = block_local_losses(block_losses, [block], inputs, parameters)
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("states", ["interpolated", "rollout"])
def test_loss_of_a_block_trains_no_other_block(topology, states):
    model = tiny_model(TOPOLOGY=topology, TRAINING_STATES=states).train()
    for block in range(3):
        gradients = {n: g for n, g in block_gradients(model, block).items() if g.abs().sum() > 0}
        trained = {name.split(".")[2] for name in gradients if name.startswith("flow.blocks.")}
        assert trained == {str(block)}
        assert any(name.startswith("backbone.") for name in gradients)


def test_sequential_block_trains_the_stages_up_to_its_own():
    model = tiny_model(TOPOLOGY="sequential").train()
    layers = {
        name.split("encoder_layer_")[1][0]
        for name, gradient in block_gradients(model, 0).items()
        if "encoder_layer_" in name and gradient.abs().sum() > 0
    }
    assert layers == {"0"}


def test_sequential_block_reads_its_own_stage():
    model = tiny_model("cifar10_flow_cnn+sequential").eval()
    features = model.reader(model.backbone(model.images_of(images())))
    assert [f.shape for f in features] == [(4, 4), (4, 6), (4, 8)]
    plans = [InferencePlan("single_step", block=k) for k in range(3)]
    before = [model.logits(features, plan) for plan in plans]
    features[1] = features[1] + 1
    after = [model.logits(features, plan) for plan in plans]
    assert [torch.equal(a, b) for a, b in zip(before, after)] == [True, False, True]


@pytest.mark.parametrize("file", ["cifar10_flow_vit", "cifar10_flow_vit+paper"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients_equal_those_of_the_joint_graph(file, topology):
    """The gradients of the whole model equal those of the same losses in one ordinary graph."""
    model = tiny_model(file, TOPOLOGY=topology, TRAINING_STATES="interpolated").double().train()
    batch = images()
    torch.manual_seed(3)
    sum(model(batch).values()).backward()
    local = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(3)
    features = model.backbone(model.images_of(batch))
    labels = model.labels_of(batch)
    block_losses, inputs = model.block_losses(model.reader(features), labels)
    total = sum(sum(block_losses(k, inputs).values()) for k in range(3))
    (total + model.probe.loss(features[model.last_stage], labels)).backward()
    joint = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert local.keys() == joint.keys()
    for name, gradient in joint.items():
        torch.testing.assert_close(local[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_the_paper_s_losses_by_hand():
    """Equations 14 to 19 for one block and fixed noise and time."""
    model = tiny_model("cifar10_flow_vit+paper", NUM_BLOCKS=1).eval()
    batch = images()
    labels = model.labels_of(batch)
    (feature,) = model.reader(model.backbone(model.images_of(batch)))
    block_losses, inputs = model.block_losses([feature], labels)
    torch.manual_seed(5)
    losses = block_losses(0, inputs)
    torch.manual_seed(5)
    z_1 = model.embedding.classes.weight[labels]
    z_0 = torch.randn_like(z_1)
    t = torch.rand(4)
    z_t = (1 - t[:, None]) * z_0 + t[:, None] * z_1
    velocity = model.flow.blocks[0](z_t, model.flow.time_embedding(t), feature)
    estimate = z_t + (1 - t[:, None]) * velocity
    logits = model.embedding.projection(estimate)
    expected = F.mse_loss(velocity, z_1 - z_0), F.cross_entropy(logits, labels)
    assert losses["loss_flow"].item() == pytest.approx(expected[0].item(), rel=1e-4)
    assert losses["loss_class"].item() == pytest.approx(expected[1].item(), rel=1e-4)


def test_the_weights_of_the_losses_are_factors():
    def losses(**keys):
        model = tiny_model(**keys).train()
        torch.manual_seed(3)
        random.seed(3)
        return model(images())

    plain = losses(FLOW_WEIGHT=1.0, CLASS_WEIGHT=1.0)
    weighted = losses(FLOW_WEIGHT=0.5, CLASS_WEIGHT=3.0)
    for name, factor in (("loss_flow", 0.5), ("loss_class", 3.0), ("loss_probe", 1.0)):
        assert weighted[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-4)


def test_without_states_train_features_only_the_losses_at_the_start_train_them():
    """With LEARN_AT_START the backbone's gradient is then that of the losses at t = 0."""
    keys = {"TRAINING_STATES": "rollout", "NOISE_SCALE": 0.0}

    def backbone_gradients(**more):
        model = tiny_model(**keys | more).train()
        return [
            {n: g for n, g in block_gradients(model, k).items() if n.startswith("backbone.")}
            for k in range(3)
        ]

    both = backbone_gradients(LEARN_AT_START=True, STATES_TRAIN_FEATURES=False)
    start = backbone_gradients(LEARN_AT_START=False, ROLLOUT_STEPS=[1])
    rollout = backbone_gradients(LEARN_AT_START=False)
    trained = backbone_gradients(LEARN_AT_START=True, STATES_TRAIN_FEATURES=True)
    for k in range(3):
        torch.testing.assert_close(both[k], start[k], rtol=1e-4, atol=1e-6)
    # the first block starts at t = 0 in any case
    torch.testing.assert_close(rollout[0], start[0], rtol=1e-4, atol=1e-6)
    for other in (rollout, trained):
        assert any((other[2][n] - start[2][n]).abs().max() > 1e-4 for n in start[2])


@pytest.mark.parametrize(
    "file",
    ["cifar10_flow_cnn", "cifar10_flow_vit+sequential_paper_vit", "cifar10_flow_vit+backprop"],
)
def test_results_do_not_depend_on_the_batch(file):
    model = tiny_model(file).eval()
    assert_batch_has_no_effect(model)


def test_predictions_do_not_depend_on_labels():
    model = tiny_model().eval()
    assert_labels_have_no_effect(model)


def test_one_call_returns_the_logits_of_every_mode():
    model = tiny_model().eval()
    modes = model(images(1))[0]["modes"]
    assert modes[0] == "multi_step-3" and modes[-1] == "probe"
    assert set(modes) == {
        *("ensemble", "probe"),
        *(f"single_step-{k}" for k in range(3)),
        *(f"multi_step-{n}" for n in (1, 2, 3, 6)),
        *(f"multi_step_ensemble-{n}" for n in (2, 3, 6)),
    }
    only = model.inference(images(1), all_modes=False)[0]
    assert only["modes"] == ["multi_step-3", "probe"] and only["logits"].shape == (2, 4)


def test_modes_that_are_the_same_computation_agree():
    model = tiny_model().eval()
    (result,) = model(images(1))
    probabilities = dict(zip(result["modes"], result["logits"].softmax(-1)))

    def assert_same(one, two):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)

    assert_same(probabilities["multi_step-1"], probabilities["single_step-0"])
    features = model.reader(model.backbone(model.images_of(images(1))))
    one_step = model.logits(features, InferencePlan("multi_step_ensemble", num_steps=1))
    assert_same(probabilities["ensemble"], one_step[0].softmax(-1))
    difference = probabilities["ensemble"] - probabilities["single_step-0"]
    assert difference.abs().max() > 1e-2


def test_the_configured_mode_comes_first():
    model = tiny_model(INFERENCE_MODE="multi_step", NUM_STEPS=5).eval()
    assert model(images(1))[0]["modes"][0] == "multi_step-5"
    model = tiny_model(INFERENCE_MODE="single_step", SINGLE_STEP_BLOCK=1).eval()
    assert model(images(1))[0]["modes"][0] == "single_step-1"


def test_saved_activations_do_not_grow_with_the_blocks():
    def peak(count):
        model = tiny_model(NUM_BLOCKS=count, TRAINING_STATES="rollout").train()
        with SavedBytes(model).counting() as saved:
            sum(model(images()).values()).backward()
        return saved.peak

    assert peak(2) == peak(8) > 0


def test_alternate_trains_one_block_per_epoch():
    model = tiny_model(SCHEDULE="alternate", ITERS_PER_EPOCH=2).train()
    trained = []
    for _ in range(6):
        model(images())
        trained.append(model.local.active_blocks)
    assert trained == [[0], [0], [1], [1], [2], [2]]


@pytest.mark.parametrize("block", ["mlp", "light_mlp", "residual_mlp", "encoder"])
@pytest.mark.parametrize("features", ["pooled", "tokens"])
@pytest.mark.parametrize("file", ["digits_flow_vit", "digits_flow_vit+backprop"])
def test_every_kind_of_block_trains_all_parameters(block, features, file):
    if (block, features) == ("encoder", "pooled"):
        with pytest.raises(ValueError, match="FEATURES tokens"):
            tiny_model(file, BLOCK=block, FEATURES=features)
        return
    # a rollout starts at t = 0, so that the start estimate is trained in every iteration
    model = tiny_model(file, BLOCK=block, FEATURES=features, TRAINING_STATES="rollout").train()
    sum(model(images()).values()).backward()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in parameters.items() if p.grad is None]
    assert all(parameter.grad.isfinite().all() for parameter in parameters.values())


def test_tied_logits_are_highest_for_the_own_class():
    model = tiny_model(TIE_CLASSES=True, NUM_CLASSES=4)
    logits = model.embedding.logits(model.embedding.table())
    assert logits.argmax(dim=1).tolist() == [0, 1, 2, 3]
    sum(model.train()(images()).values()).backward()
    assert model.embedding.classes.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("learn", [True, False])
def test_targets_are_trained_only_with_learn_target(learn):
    model = tiny_model(LEARN_TARGET=learn).train()
    sum(model(images()).values()).backward()
    assert (model.embedding.classes.weight.grad is not None) == learn


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"TOPOLOGY": "round"}, "MODEL.FLOW_CLS.TOPOLOGY is 'round', but must be one of"),
        ({"BLOCK": "rnn"}, "BLOCK is 'rnn'"),
        ({"FEATURES": "all"}, "FEATURES is 'all'"),
        ({"NUM_CLASSES": 0}, "NUM_CLASSES must be at least 1"),
        ({"IN_FEATURES": ["layer9"]}, "IN_FEATURES names"),
        (
            {"IN_FEATURES": ["layer1", "layer2"]},
            "nothing would train the last stage of the backbone, 'layer3'",
        ),
        ({"BLOCK": "encoder", "FEATURES": "tokens", "NUM_HEADS": 5}, "multiple of .*NUM_HEADS = 5"),
        ({"TOPOLOGY": "sequential", "NUM_BLOCKS": 2}, "needs one stage per block"),
        ({"INFERENCE_MODE": "guess"}, "INFERENCE_MODE is 'guess', but must be a registered name"),
        ({"SINGLE_STEP_BLOCK": 3}, "there is no block 3"),
        ({"EVAL_STEPS": [0]}, "at least 1"),
        ({"SCHEDULE": "never"}, "unknown SCHEDULE 'never'"),
        ({"TRAINING_STATES": "none"}, "unknown training states"),
    ],
)
def test_wrong_keys_are_named(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**keys)


def test_wrong_labels_and_sizes_are_refused():
    model = tiny_model().train()
    with pytest.raises(ValueError, match="image 7 has label 4"):
        model([{**images(1)[0], "label": 4, "image_id": 7}])
    with pytest.raises(ValueError, match="must have one size"):
        model([*images(1), *images(1, size=16)])


def test_noise_at_inference_is_the_same_for_all_images_and_depends_on_the_seed():
    model = tiny_model()
    assert torch.equal(model.initial_noise(2)[0], model.initial_noise(3)[2])
    assert not torch.equal(model.initial_noise(1), tiny_model(NOISE_SEED=1).initial_noise(1))


@pytest.fixture
def warnings_of(caplog):
    """The warnings about untrained blocks of two inferences with a model of these keys."""
    warn_of_untrained_blocks.cache_clear()

    def run(**keys):
        model = tiny_model(**keys).eval()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "flowdet.events"):
            for _ in range(2):
                model(images(1))
        return [record.getMessage() for record in caplog.records]

    yield run
    warn_of_untrained_blocks.cache_clear()


@pytest.mark.parametrize(
    ("mode", "block", "blocks"),
    [
        ("ensemble", 0, "blocks 1, 2 "),
        ("multi_step_ensemble", 0, "blocks 1, 2 "),
        ("single_step", -1, "block 2 "),
    ],
)
def test_mode_with_blocks_that_were_not_trained_at_the_start_warns_once(
    warnings_of, mode, block, blocks
):
    (message,) = warnings_of(INFERENCE_MODE=mode, SINGLE_STEP_BLOCK=block, LEARN_AT_START=False)
    assert f"inference mode {mode}" in message and f"evaluates {blocks}at t = 0" in message
    assert "MODEL.FLOW_CLS.INFERENCE_MODE multi_step" in message
    assert "MODEL.FLOW_CLS.LEARN_AT_START True" in message


@pytest.mark.parametrize(
    "keys",
    [
        {"INFERENCE_MODE": "multi_step", "LEARN_AT_START": False},
        {"INFERENCE_MODE": "single_step", "LEARN_AT_START": False},
        # the default: LEARN_AT_START
        {"INFERENCE_MODE": "ensemble"},
        {"INFERENCE_MODE": "single_step", "SINGLE_STEP_BLOCK": -1},
        {
            "INFERENCE_MODE": "ensemble",
            "LEARN_AT_START": False,
            "TRAINING_STATES": "interpolated",
        },
    ],
    ids=str,
)
def test_mode_with_trained_blocks_does_not_warn(warnings_of, keys):
    assert warnings_of(**keys) == []
