"""FlowMatchingClassifier and BackpropClassifier as models."""

import random

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.engine import load_config
from flowdet.engine.config import overlay_overrides
from flowdet.experiments.memory import SavedBytes
from flowdet.flow import block_local_losses
from flowdet.flowcls.classifier import BlockLosses
from tests.flowcls.tiny import CONFIGS, images, tiny_model

TOPOLOGIES = ["parallel", "sequential"]


def block_gradients(model, block):
    """Gradients of one block's loss, by parameter name, through the whole model."""
    model.zero_grad()
    batch = images()
    features = model.reader(model.backbone(model.images_of(batch)))
    labels = model.labels_of(batch)
    losses = block_local_losses(
        BlockLosses(model, labels),
        [block],
        [*features, model.embedding.targets(labels)],
        [*model.flow.parameters(), *model.embedding.parameters()],
    )
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("states", ["interpolated", "rollout"])
def test_a_block_learns_from_its_own_loss_alone(topology, states):
    model = tiny_model(TOPOLOGY=topology, TRAINING_STATES=states).train()
    for block in range(3):
        reached = block_gradients(model, block)
        owners = {name.split(".")[2] for name in reached if name.startswith("flow.blocks.")}
        assert owners == {str(block)}
        assert any(name.startswith("backbone.") for name in reached)


def test_a_sequential_block_reaches_its_own_stages_alone():
    model = tiny_model(TOPOLOGY="sequential").train()
    layers = {
        name.split("encoder_layer_")[1][0]
        for name, gradient in block_gradients(model, 0).items()
        if "encoder_layer_" in name and gradient.abs().sum() > 0
    }
    assert layers == {"0"}


def test_a_sequential_block_sees_its_own_stage():
    model = tiny_model("cifar10_flow_cnn+sequential").eval()
    features = model.reader(model.backbone(model.images_of(images())))
    assert [f.shape for f in features] == [(4, 4), (4, 6), (4, 8)]
    before = [model.logits(features, "single_step", block=k) for k in range(3)]
    features[1] = features[1] + 1
    after = [model.logits(features, "single_step", block=k) for k in range(3)]
    assert [torch.equal(a, b) for a, b in zip(before, after)] == [True, False, True]


@pytest.mark.parametrize("file", ["cifar10_flow_vit", "cifar10_flow_vit+paper"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients_equal_those_of_the_joint_graph(file, topology):
    """The whole model's gradients against the same losses summed in one ordinary graph."""
    model = tiny_model(file, TOPOLOGY=topology, TRAINING_STATES="interpolated").double().train()
    batch = images()
    torch.manual_seed(3)
    sum(model(batch).values()).backward()
    local = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(3)
    features = model.backbone(model.images_of(batch))
    labels = model.labels_of(batch)
    block_loss = BlockLosses(model, labels)
    inputs = [*model.reader(features), model.embedding.targets(labels)]
    total = sum(sum(block_loss(k, inputs).values()) for k in range(3))
    (total + model.probe.loss(features[model.last_stage], labels)).backward()
    joint = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert local.keys() == joint.keys()
    for name, gradient in joint.items():
        torch.testing.assert_close(local[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_the_paper_s_losses_by_hand():
    """Equations 14 to 19 for one block with fixed noise and time."""
    model = tiny_model("cifar10_flow_vit+paper", NUM_BLOCKS=1).eval()
    batch = images()
    labels = model.labels_of(batch)
    feature = model.reader(model.backbone(model.images_of(batch)))[0]
    torch.manual_seed(5)
    losses = BlockLosses(model, labels)(0, [feature, model.embedding.targets(labels)])
    torch.manual_seed(5)
    z_1 = model.embedding.classes.weight[labels]
    z_0 = torch.randn_like(z_1)
    t = torch.rand(2, 4)[0]
    z_t = (1 - t[:, None]) * z_0 + t[:, None] * z_1
    velocity = model.flow.blocks[0](z_t, model.flow.time_embedding(t), feature)
    estimate = z_t + (1 - t[:, None]) * velocity
    logits = model.embedding.projection(estimate)
    torch.testing.assert_close(losses["loss_flow"], F.mse_loss(velocity, z_1 - z_0))
    torch.testing.assert_close(losses["loss_class"], F.cross_entropy(logits, labels))


def test_the_weights_of_the_losses_are_factors():
    def losses(**keys):
        model = tiny_model(**keys).train()
        torch.manual_seed(3)
        random.seed(3)
        return model(images())

    plain = losses(FLOW_WEIGHT=1.0, CLASS_WEIGHT=1.0)
    weighted = losses(FLOW_WEIGHT=0.5, CLASS_WEIGHT=3.0)
    for name, factor in (("loss_flow", 0.5), ("loss_class", 3.0), ("loss_probe", 1.0)):
        torch.testing.assert_close(weighted[name], factor * plain[name])


def test_the_features_learn_at_the_start_alone():
    """With LEARN_AT_START the backbone's gradient is that of the losses at t = 0."""
    keys = {"TRAINING_STATES": "rollout", "NOISE_SCALE": 0.0}

    def backbone_gradients(**more):
        model = tiny_model(**keys, **{"ROLLOUT_STEPS": [], **more}).train()
        return [
            {n: g for n, g in block_gradients(model, k).items() if n.startswith("backbone.")}
            for k in range(3)
        ]

    both = backbone_gradients(LEARN_AT_START=True)
    start = backbone_gradients(LEARN_AT_START=False, ROLLOUT_STEPS=[1])
    walked = backbone_gradients(LEARN_AT_START=False)
    for k in range(3):
        torch.testing.assert_close(both[k], start[k])
    # the first block starts there in any case
    torch.testing.assert_close(walked[0], start[0])
    differ = [(walked[2][n] - start[2][n]).abs().max() > 1e-6 for n in start[2]]
    assert any(differ)


def test_the_probe_passes_no_gradient_on():
    model = tiny_model().train()
    batch = images()
    features = model.backbone(model.images_of(batch))
    model.probe.loss(features[model.last_stage], model.labels_of(batch)).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"probe.classifier.weight", "probe.classifier.bias"}


def test_a_batch_of_one_image_trains():
    losses = tiny_model().train()(images(1))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    "file", ["cifar10_flow_cnn", "cifar10_flow_vit+sequential_paper_vit", "cifar10_flow_vit+backprop"]
)
def test_two_batches_of_one_are_one_batch_of_two(file):
    model = tiny_model(file).eval()
    batch = images(2)
    together = torch.stack([x["logits"] for x in model(batch)])
    alone = torch.cat([model([x])[0]["logits"][None] for x in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_predictions_do_not_depend_on_labels():
    model = tiny_model().eval()
    batch = images()
    permuted = [{**x, "label": (x["label"] + 1) % 4} for x in batch]
    blind = [{"image": x["image"]} for x in batch]
    for other in (permuted, blind):
        for one, two in zip(model(batch), model(other)):
            assert torch.equal(one["logits"], two["logits"])


def test_every_mode_is_reported_in_one_pass():
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


def test_modes_that_must_agree_agree():
    model = tiny_model().eval()
    logits = dict(zip(model(images(1))[0]["modes"], model(images(1))[0]["logits"]))
    torch.testing.assert_close(logits["multi_step-1"], logits["single_step-0"])
    features = model.reader(model.backbone(model.images_of(images(1))))
    torch.testing.assert_close(
        logits["ensemble"], model.logits(features, "multi_step_ensemble", num_steps=1)[0]
    )


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


def test_alternate_trains_one_block_per_pass():
    model = tiny_model(SCHEDULE="alternate", ITERS_PER_EPOCH=2).train()
    learned = []
    for _ in range(6):
        model(images())
        learned.append(model.local.learning)
    assert learned == [[0], [0], [1], [1], [2], [2]]


@pytest.mark.parametrize("block", ["mlp", "light_mlp", "residual_mlp", "encoder"])
@pytest.mark.parametrize("features", ["pooled", "tokens"])
@pytest.mark.parametrize("file", ["digits_flow_vit", "digits_flow_vit+backprop"])
def test_blocks_and_features(block, features, file):
    if (block, features) == ("encoder", "pooled"):
        with pytest.raises(ValueError, match="FEATURES tokens"):
            tiny_model(file, BLOCK=block, FEATURES=features)
        return
    # chain always starts at t = 0, so that the start estimate learns in every iteration
    model = tiny_model(file, BLOCK=block, FEATURES=features, TRAINING_STATES="rollout").train()
    sum(model(images()).values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_the_baseline_has_the_parameters_of_the_flow_model():
    """Up to the time embedding, the estimate's input, the targets and the start."""
    extra = ("time_embedding", "input.estimate", "embedding.classes", "flow.start", "head.start")
    assert count("cifar10_flow_vit", skip=extra) == count("cifar10_flow_vit+backprop", skip=extra)


def count(file, skip=()):
    named = tiny_model(file).named_parameters()
    return sum(p.numel() for n, p in named if not any(s in n for s in skip))


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet_r"])
def test_for_fine_tuning_both_have_as_many_parameters(dataset):
    sizes = []
    for overlay in ([], overlay_overrides("cls/bases/backprop_encoder")):
        words = ["MODEL.WEIGHTS", "", "MODEL.FLOW_CLS.NUM_CLASSES", "10", *overlay]
        cfg = load_config(str(CONFIGS / f"{dataset}_flow_vit_b16.yaml"), words)
        # shapes without memory
        with torch.device("meta"):
            model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4) and sizes[0] > 1.2e8


def test_tied_classes_are_read_by_their_own_embedding():
    model = tiny_model(TIE_CLASSES=True, NUM_CLASSES=4)
    logits = model.embedding.logits(model.embedding.table())
    assert logits.argmax(dim=1).tolist() == [0, 1, 2, 3]
    sum(model.train()(images()).values()).backward()
    assert model.embedding.classes.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("learn", [True, False])
def test_targets_learn_only_if_asked(learn):
    model = tiny_model(LEARN_TARGET=learn).train()
    sum(model(images()).values()).backward()
    assert (model.embedding.classes.weight.grad is not None) == learn


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"TOPOLOGY": "round"}, "unknown topology"),
        ({"BLOCK": "rnn"}, "BLOCK 'rnn'"),
        ({"FEATURES": "all"}, "FEATURES 'all'"),
        ({"NUM_CLASSES": 0}, "NUM_CLASSES must be at least 1"),
        ({"IN_FEATURES": ["layer9"]}, "IN_FEATURES names"),
        ({"IN_FEATURES": ["layer1", "layer2"]}, "nothing would train the rest"),
        ({"BLOCK": "encoder", "FEATURES": "tokens", "NUM_HEADS": 5}, "NUM_HEADS = 5"),
        ({"TOPOLOGY": "sequential", "NUM_BLOCKS": 2}, "a stage for each block"),
        ({"INFERENCE_MODE": "guess"}, "unknown inference mode"),
        ({"SINGLE_STEP_BLOCK": 3}, "there is no block 3"),
        ({"EVAL_STEPS": [0]}, "at least 1"),
        ({"SCHEDULE": "never"}, "unknown schedule"),
        ({"TRAINING_STATES": "none"}, "unknown training states"),
    ],
)
def test_wrong_keys_say_so(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**keys)


def test_the_baseline_refuses_stages():
    with pytest.raises(ValueError, match="TOPOLOGY parallel"):
        tiny_model("digits_flow_vit+backprop", TOPOLOGY="sequential")


def test_wrong_batches_say_so():
    model = tiny_model().train()
    with pytest.raises(ValueError, match="image 7 has label 4"):
        model([{**images(1)[0], "label": 4, "image_id": 7}])
    with pytest.raises(ValueError, match="must have one size"):
        model([*images(1), *images(1, size=16)])


def test_noise_at_inference_is_seeded_by_the_key():
    model = tiny_model()
    assert torch.equal(model.initial_noise(2)[0], model.initial_noise(3)[2])
    assert not torch.equal(model.initial_noise(1), tiny_model(NOISE_SEED=1).initial_noise(1))
