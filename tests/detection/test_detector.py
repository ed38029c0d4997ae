import logging
import math
import random

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from flowdet.detection.block_losses import BlockLosses
from flowdet.detection.targets import gather_targets, ordered_assignment
from flowdet.flow import INFERENCE_MODES
from tests.detection.tiny import CONFIGS, batch, record, tiny_cfg, tiny_model

CONFIG_FILES = [
    path.name for path in sorted(CONFIGS.glob("*.yaml")) if not path.stem.endswith("base")
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
    assert losses.keys() - {"loss_flow"} == {"loss_cls", "loss_bbox", "loss_giou"}
    assert all(math.isfinite(loss.item()) for loss in losses.values())


def found(result):
    x = result["instances"]
    return torch.cat([x.pred_boxes.tensor, x.scores[:, None], x.pred_classes[:, None]], dim=1)


def assert_same_detections(results, expected, atol=1e-4):
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected):
        torch.testing.assert_close(found(result), found(wanted), rtol=0, atol=atol)


def without_gradient(model):
    """Names of the parameters that do not learn, in the second of two steps: the last layer of
    the box head's perceptron starts at zero, so what is before it learns from then on."""
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
        assert torch.isfinite(found(result)).all()


@pytest.mark.parametrize("states", KINDS)
@pytest.mark.parametrize("recipe", [{}, PAPER], ids=["measured", "paper"])
def test_every_kind_of_states_trains_every_recipe(recipe, states):
    model = tiny_model(**{**recipe, "TRAINING_STATES": states})
    assert_finite(train_step(model, batch())[0])
    assert without_gradient(model) == []


@pytest.mark.parametrize("coupling", ["ordered", "random", "optimal_transport"])
def test_couplings(coupling):
    losses, _ = train_step(tiny_model(**PAPER, COUPLING=coupling), batch())
    assert_finite(losses)


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
def test_a_batch_is_its_images_alone(mode, samples):
    model = tiny_model(INFERENCE_MODE=mode, BOX_SAMPLES=samples).eval()
    inputs = [record(size=size, seed=i) for i, size in enumerate([(64, 64), (40, 72), (64, 64)])]
    alone = [model([x])[0] for x in inputs]
    assert all(len(x["instances"]) for x in alone)
    assert_same_detections(model(inputs), alone)


def test_a_batch_is_its_images_alone_with_a_padding_backbone():
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
    # none is missing: a distributed training waits for all of them
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


def test_what_is_logged():
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
        assert_same_detections(model(inputs), expected, atol=0)


@pytest.mark.parametrize(
    "keys",
    [
        *({"TRAINING_STATES": kind} for kind in KINDS),
        {"TRAINING_STATES": "rollout", "ROLLOUT_STEPS": [2, 5], "LEARN_AT_START": True},
        {"BOX_SAMPLES": 2},
        PAPER,
        {"LEARN_TARGET": True},
    ],
    ids=[*KINDS, "chains_of_any_length", "box_samples", "paper", "learned_target"],
)
def test_block_local_gradients_are_those_of_the_joint_graph(keys):
    model = tiny_model(**keys)
    local_losses, local = train_step(model, batch())
    model.zero_grad(set_to_none=True)
    # as `losses` does, on one graph of all blocks
    seed_all(0)
    targets = model.prepare_targets(batch())
    tokens = model.encode(batch())
    embeddings = model.target_embedding(targets)
    z_0 = model.noise_scale * torch.randn(2, model.num_queries, embeddings.shape[-1])
    block_loss = BlockLosses(model, tokens, targets, z_0)
    joint = [block_loss(k, [tokens.tokens, embeddings]) for k in range(model.flow.num_blocks)]
    sum(sum(losses.values()) for losses in joint).backward()

    for name, loss in local_losses.items():
        torch.testing.assert_close(loss, sum(losses[name] for losses in joint))
    for name, gradient in gradients(model).items():
        assert (gradient is None) == (local[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(local[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "states, assignment, at_start",
    [
        *((kind, "own", False) for kind in KINDS),
        *(("rollout", "carried", x) for x in (False, True)),
    ],
)
def test_the_flow_goes_to_the_target_that_fits_the_state(states, assignment, at_start, monkeypatch):
    keys = {"MATCHING": assignment, "LEARN_AT_START": at_start}
    model = tiny_model(TRAINING_STATES=states, COUPLING="ordered", **keys)
    seen = []

    def flow_loss(prediction, state, z_1):
        seen.append((prediction.z1_hat, z_1))
        return prediction.z1_hat.sum()

    monkeypatch.setattr(model.flow, "flow_loss", flow_loss)
    train_step(model, batch())
    targets = model.prepare_targets(batch())
    embeddings = model.target_embedding(targets)
    blocks = model.flow.num_blocks
    assert len(seen) == (2 * blocks - 1 if at_start else blocks)
    for z1_hat, z_1 in seen:
        if states == "interpolated":
            # the state was made of it
            assigned = ordered_assignment(targets, model.num_queries)
        else:
            matched = {"own": z1_hat, "carried": seen[0][0]}[assignment]
            assigned = model.matcher(*model.heads(matched), targets)
        assert torch.equal(z_1, gather_targets(embeddings, assigned))
        # the targets are those of 3 objects and of background, in some order
        assert len(z_1.flatten(0, 1).unique(dim=0)) == 4


def test_what_is_learned_at_the_start_has_its_own_weight():
    model = tiny_model(LEARN_AT_START=True)
    assert model.start_weight == 0.25

    def losses_of_the_second(start, walk):
        model.start_weight, model.block_weights = start, [walk] * model.flow.num_blocks
        seed_all(0)
        make, (tokens, embeddings) = model.block_losses(
            model.encode(batch()), model.prepare_targets(batch())
        )
        return [make(k, [tokens, embeddings]) for k in range(2)][1]

    start, walk, both = (losses_of_the_second(*x) for x in ((1, 0), (0, 1), (0.25, 1)))
    for name, loss in both.items():
        assert start[name] > 0 and walk[name] > 0
        torch.testing.assert_close(loss, 0.25 * start[name] + walk[name])


def test_a_block_learns_from_its_own_loss_only():
    model = tiny_model(SCHEDULE="alternate", ITERS_PER_EPOCH=1)
    for k in range(3):
        assert int(model.local.iterations) == k
        _, grads = train_step(model, batch())
        for name, gradient in grads.items():
            if name.startswith("flow.blocks."):
                assert (gradient is not None) == name.startswith(f"flow.blocks.{k}."), name
            elif not name.startswith(("flow.", "heads.box_mlp.0")):
                assert gradient.abs().sum() > 0, name


def learning_blocks(model):
    _, grads = train_step(model, batch()[1:])
    trained = {
        name.split(".")[2] for name, g in grads.items() if g is not None and "blocks" in name
    }
    return sorted(int(k) for k in trained & set("0123456789"))


def test_alternate_trains_one_block_per_pass_and_resumes():
    keys = {"SCHEDULE": "alternate", "ITERS_PER_EPOCH": 2, "NUM_BLOCKS": 2}
    model = tiny_model(**keys)
    assert [learning_blocks(model) for _ in range(5)] == [[0], [0], [1], [1], [0]]
    resumed = tiny_model(seed=1, **keys)
    resumed.load_state_dict(model.state_dict())
    assert [learning_blocks(resumed) for _ in range(2)] == [[0], [1]]


def test_alternate_without_a_pass_length_says_so():
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
    assert_same_detections(model(batch()), expected, atol=0)
    model.noise_seed = 1
    assert not torch.equal(model.initial_noise(1), noise[:1])
    assert any(
        x["instances"].scores[0] != y["instances"].scores[0]
        for x, y in zip(model(batch()), expected)
    )


def test_trajectory_has_one_entry_per_step():
    model = tiny_model().eval()
    for num_steps in (1, 3, 5):
        model.num_steps = num_steps
        results = model.inference(batch(), trajectory=True)
        assert [len(x["trajectory"]) for x in results] == [num_steps] * 2
        assert_same_detections([{"instances": x["trajectory"][-1]} for x in results], results)
    assert "trajectory" not in model.inference(batch())[0]


def test_early_exit_ends_where_boxes_stand_still():
    """No box can move by more than the image, so two steps tell that all stand still."""
    keys = {"NUM_BLOCKS": 5, "SCORE_THRESHOLD": 0.0, "INFERENCE_MODE": "multi_step"}
    model, eager = tiny_model(**keys).eval(), tiny_model(**keys, EARLY_EXIT=1.0).eval()
    whole, short = (m.inference(batch(), trajectory=True) for m in (model, eager))
    assert [len(x["trajectory"]) for x in short] == [5] * 2
    second = [{"instances": x["trajectory"][1]} for x in whole]
    assert_same_detections(short, second)
    # none stands still to the last digit
    never = tiny_model(**keys, EARLY_EXIT=1e-12).eval().inference(batch())
    assert_same_detections(never, whole)


def test_detections_are_in_the_original_image():
    model = tiny_model().eval()
    small, large = model([record(seed=1), record(seed=1, height=128, width=320)])
    scale = torch.tensor([5.0, 2, 5, 2])
    torch.testing.assert_close(
        large["instances"].pred_boxes.tensor, small["instances"].pred_boxes.tensor * scale
    )
    assert large["instances"].image_size == (128, 320)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"IN_FEATURES": ["res3", "res9"]}, r"IN_FEATURES names \['res9'\].*it has \['res3'\]"),
        ({"ANCHORED_QUERIES": False, "PREDICTION": "velocity"}, "BOX_ANCHORED.*ANCHORED_QUERIES"),
        ({**PAPER, "SELF_CONDITIONING": True}, "SELF_CONDITIONING.*ANCHORED_QUERIES"),
        ({**PAPER, "PREDICTION": "target"}, "PREDICTION target.*ANCHORED_QUERIES"),
        ({"BOX_HEAD": "cubic"}, "BOX_HEAD 'cubic'"),
        ({"COUPLING": "loose"}, "coupling 'loose'"),
        ({"MATCHING": "loose"}, "MATCHING 'loose'"),
        ({**PAPER, "BOX_SAMPLES": 3, "ANCHORED_QUERIES": True}, "BOX_SAMPLES.*BOX_ANCHORED"),
        ({"IOU_AWARE_TARGETS": True, "BACKGROUND_WEIGHT": 0.0}, "IOU_AWARE_TARGETS needs"),
        ({"SCHEDULE": "sometimes"}, "schedule 'sometimes'"),
        ({"TRAINING_STATES": "dreamt"}, "training states 'dreamt'"),
        ({"EARLY_EXIT": -0.1}, "EARLY_EXIT"),
        ({"START_WEIGHT": 0.0}, "START_WEIGHT must be above 0, got 0.0"),
        ({"INFERENCE_MODE": "guess"}, "inference mode 'guess'"),
        ({"PREDICTION": "noise"}, "prediction 'noise'"),
        ({"NUM_STEPS": -1}, "at least 1, got -1"),
        ({"SINGLE_STEP_BLOCK": 3}, "no block 3: blocks are 0 to 2"),
        ({"NUM_BLOCKS": 0}, "NUM_BLOCKS must be at least 1"),
        ({"NUM_CLASSES": 0}, "NUM_CLASSES"),
        ({"NUM_QUERIES": 0}, "NUM_QUERIES"),
        ({"HIDDEN_DIM": 30, "NUM_HEADS": 3}, "HIDDEN_DIM must be a multiple of 4"),
        ({"NUM_HEADS": 5}, "HIDDEN_DIM = 32 is not a multiple of NUM_HEADS = 5"),
        ({"SCORE_THRESHOLD": 2.0}, "SCORE_THRESHOLD"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_bad_configs_say_what_is_wrong(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**keys)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keys", [{"TRAINING_STATES": kind} for kind in KINDS] + [PAPER])
def test_autocast_loses_no_gradient(keys, dtype):
    model = tiny_model(**keys)
    _, expected = train_step(model, batch())
    model.zero_grad(set_to_none=True)
    seed_all(0)
    with torch.autocast("cpu", dtype):
        losses = model(batch())
    sum(losses.values()).backward()
    for name, gradient in gradients(model).items():
        assert (gradient is None) == (expected[name] is None), name
        assert gradient is None or torch.isfinite(gradient).all(), name
