"""FlowMatchingDetector: training, gradients, inference, errors."""

import logging
import math
import random
from dataclasses import replace

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from flowdet import list_configs
from flowdet.detection.targets import gather_targets, ordered_assignment
from flowdet.flow import INFERENCE_MODES
from tests.detection.tiny import batch, record, tiny_cfg, tiny_model, with_plan

CONFIG_FILES = [
    f"{name}.yaml" for name in list_configs() if not name.startswith(("cls/", "peers/"))
]
PAPER = {
    "BOX_HEAD": "linear",
    "PREDICTION": "velocity",
    "ANCHORED_QUERIES": False,
    "SELF_CONDITIONING": False,
    "BOX_ANCHORED_ATTENTION": False,
    "BOX_SAMPLES": 0,
    "TRAINING_STATES": "interpolated",
    "LEARN_TARGET": True,
}
KINDS = ("interpolated", "rollout")


def seed_all(seed):
    torch.manual_seed(seed)
    random.seed(seed)


def train_step(model, inputs, seed=0):
    """Losses and gradients (None where there is none) of one training step, by name."""
    model.train().zero_grad(set_to_none=True)
    seed_all(seed)
    losses = model(inputs)
    sum(losses.values()).backward()
    return losses, gradients(model)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def assert_finite(losses):
    further = {"loss_flow", "loss_rpn_cls", "loss_rpn_loc"}
    assert losses.keys() - further == {"loss_cls", "loss_bbox", "loss_giou"}
    assert all(math.isfinite(loss.item()) for loss in losses.values())


def assert_same_detections(results, expected, exact=False):
    """Boxes within 0.01 pixel and scores within 1e-4, or equal to the bit."""
    assert len(results) == len(expected)
    for one, other in zip((x["instances"] for x in results), (x["instances"] for x in expected)):
        assert one.pred_classes.tolist() == other.pred_classes.tolist()
        boxes = one.pred_boxes.tensor, other.pred_boxes.tensor
        torch.testing.assert_close(*boxes, rtol=0, atol=0 if exact else 0.01)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=0 if exact else 1e-4)


def without_gradient(model):
    """Names of the parameters without gradient in the second of two steps. (The last layer of the
    box head's perceptron starts at zero, so the layer before it has a gradient from then on.)"""
    _, first = train_step(model, batch())
    with torch.no_grad():
        for name, gradient in first.items():
            model.get_parameter(name).sub_(gradient, alpha=0.1)
    _, second = train_step(model, batch())
    return [name for name, g in second.items() if not g.abs().sum() > 0]


@pytest.mark.parametrize("file", CONFIG_FILES)
def test_every_config_trains_and_infers(file):
    torch.manual_seed(0)
    cfg = tiny_cfg(file)
    model = build_model(cfg)
    assert_finite(train_step(model, batch())[0])
    assert without_gradient(model) == []
    for result in model.eval()(batch()):
        instances = result["instances"]
        assert len(instances) and torch.isfinite(instances.scores).all()
        assert torch.isfinite(instances.pred_boxes.tensor).all()


@pytest.mark.parametrize("states", KINDS)
@pytest.mark.parametrize("recipe", [{}, PAPER], ids=["recommended", "paper"])
def test_every_kind_of_states_trains_every_recipe(recipe, states):
    model = tiny_model(**{**recipe, "TRAINING_STATES": states})
    assert_finite(train_step(model, batch())[0])
    assert without_gradient(model) == []


@pytest.mark.parametrize("coupling", ["ordered", "random", "optimal_transport"])
def test_couplings(coupling, monkeypatch):
    """The target of every query in interpolated states."""
    model = tiny_model(**PAPER, COUPLING=coupling)
    noise, targets = [], []

    def flow_loss(prediction, state, z_1, kind):
        noise.append(state.z_0)
        targets.append(z_1)
        return prediction.z1_hat.sum()

    monkeypatch.setattr("flowdet.detection.block_losses.flow_loss", flow_loss)
    train_step(model, batch())
    padded = model.prepare_targets(batch())
    ordered = gather_targets(model.target_embedding(padded), ordered_assignment(padded, 6))
    # every block has the same permutation of the ordered targets
    assert all(torch.equal(z_1, targets[0]) for z_1 in targets)
    for z_1, reference in zip(targets[0], ordered):
        assert torch.equal(z_1.sort(dim=0).values, reference.sort(dim=0).values)
    assert torch.equal(targets[0], ordered) == (coupling == "ordered")
    distance = [(noise[0] - z_1).square().sum() for z_1 in (targets[0], ordered)]
    if coupling == "optimal_transport":
        assert distance[0] < distance[1]


@pytest.mark.parametrize("num_classes", [1, 3, 4, 20, 127, 128])
def test_any_number_of_classes(num_classes):
    model = tiny_model(NUM_CLASSES=num_classes, NUM_BLOCKS=1)
    inputs = [record([(num_classes - 1, (4, 4, 30, 40))])]
    losses, _ = train_step(model, inputs)
    assert_finite(losses)
    classes = model.eval()(inputs)[0]["instances"].pred_classes
    assert len(classes) and classes.max() < num_classes


@pytest.mark.parametrize("mode", INFERENCE_MODES)
@pytest.mark.parametrize("samples", [0, 3])
def test_results_do_not_depend_on_the_batch(mode, samples):
    model = tiny_model(INFERENCE_MODE=mode, BOX_SAMPLES=samples).eval()
    inputs = [record(size=size, seed=i) for i, size in enumerate([(64, 64), (40, 72), (64, 64)])]
    alone = [model([x])[0] for x in inputs]
    assert all(len(x["instances"]) for x in alone)
    assert_same_detections(model(inputs), alone)


def test_results_do_not_depend_on_the_batch_with_a_padding_backbone():
    torch.manual_seed(0)
    levels = {"IN_FEATURES": ["p4", "p5"], "FEATURE_CACHE_GIB": 0.0}
    cfg = tiny_cfg("voc_flow_r18_frozen.yaml", **levels)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    model = build_model(cfg).eval()
    assert model.backbone.size_divisibility == 32
    inputs = [record(size=size, seed=i) for i, size in enumerate([(40, 40), (64, 96)])]
    assert_same_detections(model(inputs), [model([x])[0] for x in inputs])


def test_images_of_different_sizes_train_together():
    objects = [(0, (4, 4, 30, 36))]
    inputs = [record(objects, (64, 48), seed=1), record(objects, (40, 72), seed=2)]
    losses, grads = train_step(tiny_model(), inputs)
    assert_finite(losses)
    assert all(torch.isfinite(g).all() for g in grads.values())


@pytest.mark.parametrize("states", KINDS)
def test_images_without_objects_train(states):
    model = tiny_model(TRAINING_STATES=states)
    full, empty = batch()[0], record(seed=5)
    losses, grads = train_step(model, [full, empty])
    assert_finite(losses)
    # the same model, another empty image
    _, others = train_step(model, [full, record(seed=6)])
    assert not torch.allclose(grads["heads.classes.weight"], others["heads.classes.weight"])


@pytest.mark.parametrize("states", KINDS)
def test_a_batch_without_any_object_trains(states):
    model = tiny_model(TRAINING_STATES=states)
    losses, grads = train_step(model, [record(), record(seed=1)])
    assert_finite(losses)
    assert losses["loss_bbox"] == 0 and losses["loss_giou"] == 0
    assert losses["loss_cls"] > 0 and losses["loss_flow"] > 0
    # zero, not None: DistributedDataParallel waits for all gradients
    assert [name for name, g in grads.items() if g is None] == []


def test_more_objects_than_queries(caplog):
    model = tiny_model(NUM_QUERIES=2)
    objects = [(i % 3, (2 * i, 2 * i, 20 + 5 * i, 24 + 5 * i)) for i in range(5)]
    inputs = [record(seed=7), record(objects, seed=8)]
    with EventStorage() as storage, caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_finite(train_step(model, inputs)[0])
        assert storage.latest()["objects_dropped"][0] == 6
        train_step(model, batch()[1:])
        assert storage.latest()["objects_dropped"][0] == 6
    messages = [r.message for r in caplog.records if "NUM_QUERIES" in r.message]
    assert len(messages) == 1
    assert "image image8 has 3 objects more" in messages[0]


def test_statistics_of_every_block_are_logged():
    with EventStorage() as storage:
        train_step(tiny_model(), batch())
        logged = storage.latest()
    for k in range(3):
        for name in ("cls", "bbox", "giou", "flow", "matched_iou", "class_accuracy"):
            assert math.isfinite(logged[f"block{k}/{name}"][0])


def test_ground_truth_never_reaches_inference():
    model = tiny_model().eval()
    blind = [{k: v for k, v in x.items() if k != "instances"} for x in batch()]
    expected = model(blind)
    assert all(len(x["instances"]) for x in expected)
    swapped = [{**x, "instances": y["instances"]} for x, y in zip(batch(), batch()[::-1])]
    for inputs in (batch(), swapped):
        assert_same_detections(model(inputs), expected, exact=True)


@pytest.mark.parametrize(
    "keys",
    [
        *({"TRAINING_STATES": kind} for kind in KINDS),
        {"TRAINING_STATES": "rollout", "ROLLOUT_STEPS": [2, 5], "LEARN_AT_START": True},
        {"BOX_SAMPLES": 2},
        PAPER,
        {"LEARN_TARGET": True},
    ],
    ids=[*KINDS, "rollouts_of_other_lengths", "box_samples", "paper", "learned_target"],
)
def test_block_local_gradients_are_those_of_the_joint_graph(keys):
    model = tiny_model(**keys)
    local_losses, local = train_step(model, batch())
    model.zero_grad(set_to_none=True)
    # the same on one graph of all blocks
    seed_all(0)
    targets = model.prepare_targets(batch())
    block_loss, inputs = model.block_losses(model.encode(batch()), targets)
    joint = [block_loss(k, inputs) for k in range(model.flow.num_blocks)]
    sum(sum(losses.values()) for losses in joint).backward()

    for name, loss in local_losses.items():
        torch.testing.assert_close(loss, sum(losses[name] for losses in joint))
    for name, gradient in gradients(model).items():
        assert (gradient is None) == (local[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(local[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "states, matching, at_start",
    [
        *((kind, "per_block", False) for kind in KINDS),
        *(("rollout", "shared", at_start) for at_start in (False, True)),
    ],
)
def test_the_flow_loss_uses_the_target_that_fits_the_state(states, matching, at_start, monkeypatch):
    keys = {"MATCHING": matching, "LEARN_AT_START": at_start}
    model = tiny_model(TRAINING_STATES=states, COUPLING="ordered", **keys)
    calls = []

    def flow_loss(prediction, state, z_1, kind):
        calls.append((prediction.z1_hat, z_1))
        return prediction.z1_hat.sum()

    monkeypatch.setattr("flowdet.detection.block_losses.flow_loss", flow_loss)
    train_step(model, batch())
    targets = model.prepare_targets(batch())
    embeddings = model.target_embedding(targets)
    blocks = model.flow.num_blocks
    assert len(calls) == (2 * blocks - 1 if at_start else blocks)
    for z1_hat, z_1 in calls:
        if states == "interpolated":
            # the state was interpolated with this target
            assigned = ordered_assignment(targets, model.num_queries)
        else:
            matched = {"per_block": z1_hat, "shared": calls[0][0]}[matching]
            assigned = model.matcher(*model.heads(matched), targets)
        assert torch.equal(z_1, gather_targets(embeddings, assigned))
        # the targets of 3 objects and of background, in some order
        assert len(z_1.flatten(0, 1).unique(dim=0)) == 4


def test_losses_at_the_start_have_their_own_weight():
    def losses_of_the_second_block(start, last):
        keys = {"START_WEIGHT": start} if start else {"LEARN_AT_START": False}
        model = tiny_model(**{"LEARN_AT_START": True, **keys})
        seed_all(0)
        block_loss, inputs = model.block_losses(
            model.encode(batch()), model.prepare_targets(batch())
        )
        block_loss.block_weights = [last] * 3
        return [block_loss(k, inputs) for k in range(2)][1]

    start, last, both = (losses_of_the_second_block(*x) for x in ((1, 0), (None, 1), (0.25, 1)))
    for name, loss in both.items():
        assert start[name] > 0 and last[name] > 0
        torch.testing.assert_close(loss, 0.25 * start[name] + last[name])


def test_a_block_gets_gradients_of_its_own_loss_only():
    model = tiny_model(SCHEDULE="alternate", ITERS_PER_EPOCH=1)
    for k in range(3):
        assert int(model.local.iterations) == k
        _, grads = train_step(model, batch())
        for name, gradient in grads.items():
            if name.startswith("flow.blocks."):
                assert (gradient is not None) == name.startswith(f"flow.blocks.{k}."), name
            elif not name.startswith(("flow.", "heads.box_mlp.0")):
                assert gradient.abs().sum() > 0, name


def trained_blocks(model):
    _, grads = train_step(model, batch()[1:])
    trained = {
        name.split(".")[2] for name, g in grads.items() if g is not None and "blocks" in name
    }
    return sorted(int(k) for k in trained & set("0123456789"))


def test_alternate_trains_one_block_per_epoch_and_resumes():
    keys = {"SCHEDULE": "alternate", "ITERS_PER_EPOCH": 2, "NUM_BLOCKS": 2}
    model = tiny_model(**keys)
    assert [trained_blocks(model) for _ in range(5)] == [[0], [0], [1], [1], [0]]
    resumed = tiny_model(seed=1, **keys)
    resumed.load_state_dict(model.state_dict())
    assert [trained_blocks(resumed) for _ in range(2)] == [[0], [1]]


def test_alternate_needs_the_length_of_an_epoch():
    model = tiny_model(SCHEDULE="alternate", ITERS_PER_EPOCH=0)
    model.eval()(batch())
    with pytest.raises(ValueError, match="ITERS_PER_EPOCH"):
        model.train()(batch())


def test_noise_comes_from_its_seed():
    model = tiny_model().eval()
    noise = model.initial_noise(3)
    assert torch.equal(noise[0], noise[2])
    torch.manual_seed(123)
    assert torch.equal(model.initial_noise(1), noise[:1])
    assert noise[0].std().item() == pytest.approx(model.noise_scale, rel=0.3)
    expected = model(batch())
    assert_same_detections(model(batch()), expected, exact=True)
    model.settings = replace(model.settings, noise_seed=1)
    assert not torch.equal(model.initial_noise(1), noise[:1])
    assert any(
        x["instances"].scores[0] != y["instances"].scores[0]
        for x, y in zip(model(batch()), expected)
    )


def test_trajectory_has_one_entry_per_step():
    model = tiny_model().eval()
    for num_steps in (1, 3, 5):
        results = with_plan(model, num_steps=num_steps).inference(batch(), trajectory=True)
        assert [len(x["trajectory"]) for x in results] == [num_steps] * 2
        assert_same_detections([{"instances": x["trajectory"][-1]} for x in results], results)
    assert "trajectory" not in model.inference(batch())[0]


def test_early_exit_stops_when_boxes_have_converged():
    """No box moves by more than the whole image: with a tolerance of 1 two steps are enough."""
    keys = {"NUM_BLOCKS": 5, "SCORE_THRESHOLD": 0.0, "INFERENCE_MODE": "multi_step"}
    model, eager = tiny_model(**keys).eval(), tiny_model(**keys, EARLY_EXIT=1.0).eval()
    whole, short = (m.inference(batch(), trajectory=True) for m in (model, eager))
    assert [len(x["trajectory"]) for x in short] == [5] * 2
    second = [{"instances": x["trajectory"][1]} for x in whole]
    assert_same_detections(short, second)
    # boxes never repeat to the last digit
    never = tiny_model(**keys, EARLY_EXIT=1e-12).eval().inference(batch())
    assert_same_detections(never, whole)


def test_detections_are_in_the_original_image():
    model = tiny_model().eval()
    small, large = model([record(seed=1), record(seed=1, height=128, width=320)])
    scale = torch.tensor([5.0, 2, 5, 2])
    torch.testing.assert_close(
        large["instances"].pred_boxes.tensor,
        small["instances"].pred_boxes.tensor * scale,
        rtol=0,
        atol=0.01,
    )
    assert large["instances"].image_size == (128, 320)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"IN_FEATURES": ["res3", "res9"]}, r"IN_FEATURES names \['res9'\].*it has \['res3'\]"),
        ({"ANCHORED_QUERIES": False, "PREDICTION": "velocity"}, "BOX_ANCHORED.*ANCHORED_QUERIES"),
        ({**PAPER, "SELF_CONDITIONING": True}, "SELF_CONDITIONING.*ANCHORED_QUERIES"),
        ({**PAPER, "PREDICTION": "target"}, "PREDICTION target.*ANCHORED_QUERIES"),
        ({"BOX_HEAD": "cubic"}, "BOX_HEAD is 'cubic'"),
        ({"COUPLING": "loose"}, "COUPLING 'loose'"),
        ({"MATCHING": "loose"}, "MATCHING 'loose'"),
        ({**PAPER, "BOX_SAMPLES": 3, "ANCHORED_QUERIES": True}, "BOX_SAMPLES.*BOX_ANCHORED"),
        (
            {"IOU_AWARE_TARGETS": True, "BACKGROUND_WEIGHT_PER_IMAGE": 0.0},
            "IOU_AWARE_TARGETS needs",
        ),
        ({"SCHEDULE": "sometimes"}, "SCHEDULE 'sometimes'"),
        ({"TRAINING_STATES": "dreamt"}, "training states 'dreamt'"),
        ({"EARLY_EXIT": -0.1}, "EARLY_EXIT is -0.1, but must be from 0 to 1"),
        ({"BACKGROUND_WEIGHT_PER_IMAGE": -1.0}, "BACKGROUND_WEIGHT_PER_IMAGE must not be negative"),
        ({"FIRST_BLOCK_WEIGHT": 1.5}, "FIRST_BLOCK_WEIGHT must be above 0 and at most 1, got 1.5"),
        ({"START_WEIGHT": 0.0}, "START_WEIGHT must be above 0, got 0.0"),
        ({"INFERENCE_MODE": "guess"}, "INFERENCE_MODE is 'guess', but must be a registered name"),
        ({"PREDICTION": "noise"}, "PREDICTION is 'noise'"),
        ({"NUM_STEPS": -1}, "NUM_STEPS is -1, but must be at least 0"),
        ({"SINGLE_STEP_BLOCK": 3}, "no block 3.*blocks are 0 to 2"),
        ({"NUM_BLOCKS": 0}, "NUM_BLOCKS is 0, but must be at least 1"),
        ({"NUM_CLASSES": 0}, "NUM_CLASSES"),
        ({"NUM_QUERIES": 0}, "NUM_QUERIES"),
        ({"HIDDEN_DIM": 30, "NUM_HEADS": 3, "NECK_NORM": ""}, "HIDDEN_DIM must be a multiple of 4"),
        ({"NUM_HEADS": 5}, "HIDDEN_DIM = 32 is not a multiple of NUM_HEADS = 5"),
        ({"SCORE_THRESHOLD": 2.0}, "SCORE_THRESHOLD"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_bad_configs_say_what_is_wrong(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**keys)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.4), (torch.float16, 0.1)])
@pytest.mark.parametrize("keys", [{"TRAINING_STATES": kind} for kind in KINDS] + [PAPER])
def test_autocast_keeps_the_gradients(keys, dtype, tolerance):
    """Half precision may round them, but leaves none out: weights that autocast casts without
    gradient in a rollout must get theirs in the training step."""
    model = tiny_model(**keys)
    # apart from the matching, which rounding can change
    model.matcher.forward = lambda logits, boxes, targets: ordered_assignment(targets, 6)
    _, expected = train_step(model, batch())
    model.zero_grad(set_to_none=True)
    seed_all(0)
    with torch.autocast("cpu", dtype):
        losses = model(batch())
    sum(losses.values()).backward()
    for name, gradient in gradients(model).items():
        reference = expected[name]
        assert (gradient is None) == (reference is None), name
        if gradient is not None:
            difference = (gradient - reference).norm()
            assert difference <= tolerance * reference.norm() + 1e-3, (name, difference)
