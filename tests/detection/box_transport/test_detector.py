"""BoxTransportDetector: training, batched sampling, ensembles, errors."""

from dataclasses import replace

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from flowdet.detection.box_transport.sampling import noise_source
from flowdet.flow import PreparedFeatures
from flowdet.visualization.box_trajectory import box_trajectory
from tests.detection.box_transport.tiny import BOX_PATHS, tiny_box_model
from tests.detection.test_detector import (
    assert_finite,
    assert_same_detections,
    train_step,
    without_gradient,
)
from tests.detection.tiny import batch, record, tiny_cfg

EVERY_PATH = pytest.mark.parametrize("path", BOX_PATHS)


@pytest.fixture(params=BOX_PATHS)
def model(request):
    return tiny_box_model(request.param)


def with_sampling(model, **settings):
    """Changes the sampling settings of a model in evaluation mode, and returns it."""
    model.sampling = replace(model.sampling, **settings)
    return model.eval()


def crowded(count=9, size=(64, 64), seed=3):
    """An image with more objects than the model has queries."""
    objects = [(i % 3, (2 * i, 3, 2 * i + 20 + i, 40)) for i in range(count)]
    return record(objects, size, seed)


def three_images():
    return [record(seed=seed) for seed in (1, 2, 3)]


def test_losses_reach_every_parameter(model):
    losses, _ = train_step(model, batch())
    assert_finite(losses)
    assert without_gradient(model) == []


def test_every_layer_has_losses_and_statistics(model):
    with EventStorage() as storage:
        losses, _ = train_step(model, batch())
        logged = storage.latest()
    for name in ("cls", "bbox", "giou"):
        layers = [logged[f"block{k}/{name}"][0] for k in range(3)]
        assert sum(layers) == pytest.approx(losses[f"loss_{name}"].item(), rel=1e-4)


def test_the_losses_of_the_first_blocks_are_weighted():
    def by_block(weight):
        with EventStorage() as storage:
            train_step(tiny_box_model(FIRST_BLOCK_WEIGHT=weight), batch())
            return [storage.latest()[f"block{k}/bbox"][0] for k in range(3)]

    for factor, value, full in zip([0.25, 0.5, 1], by_block(0.25), by_block(1.0), strict=True):
        assert value == pytest.approx(factor * full, rel=1e-4) and full > 0


@EVERY_PATH
def test_training_states_have_standard_normal_noise_and_own_times(path, monkeypatch):
    model = tiny_box_model(path, NUM_QUERIES=200)
    made = []
    state = model.path.state

    def record_state(noise, boxes, t):
        made.append((noise, t))
        return state(noise, boxes, t)

    monkeypatch.setattr(model.path, "state", record_state)
    train_step(model, batch())
    ((noise, t),) = made
    assert noise.mean().item() == pytest.approx(0, abs=0.1)
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    assert len(set(t.tolist())) == len(t) == 2


def test_images_without_objects_train(model):
    losses, _ = train_step(model, [record(seed=1), record(seed=2)])
    assert_finite(losses)
    assert losses["loss_bbox"] == 0 and losses["loss_cls"] > 0
    assert_finite(train_step(model, [record(seed=1), batch()[0]])[0])


def test_the_largest_objects_are_kept_if_there_are_more_than_boxes(model):
    inputs = [crowded(), record(seed=2)]
    targets = model.prepare_targets(inputs)
    assert targets.counts == [6, 0] and targets.dropped == [(0, 3)]
    assert_finite(train_step(model, inputs)[0])


def test_images_of_different_sizes_train_together(model):
    inputs = [
        record([(0, (4, 4, 30, 40))], (64, 64), 1),
        record([(1, (2, 2, 30, 30))], (40, 72), 2),
    ]
    assert_finite(train_step(model, inputs)[0])


def test_a_few_steps_of_training_lower_the_loss(model):
    """With the same noise and times, so that the losses can be compared."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    first = sum(train_step(model, batch())[0].values())
    for _ in range(5):
        optimizer.step()
        last = sum(train_step(model, batch())[0].values())
    assert last < 0.95 * first


def test_boxes_between_layers_pass_no_gradient(model):
    """The second block reads the image at a box that is constant for the first block."""
    tokens = model.encode(batch())
    boxes = torch.rand(2, 6, 4)
    layers = model.layers(boxes, torch.full((2,), 0.5), PreparedFeatures(tokens))
    positions = []
    model.query_position.register_forward_pre_hook(lambda _, inputs: positions.append(*inputs))
    model.layers(boxes, torch.full((2,), 0.5), PreparedFeatures(tokens))
    assert len(positions) == 3 and not any(x.requires_grad for x in positions)
    expected = model.heads.boxes(layers[1])
    torch.testing.assert_close(positions[1], expected, atol=1e-5, rtol=0)
    # the embeddings do: the last layer trains the first block
    layers[-1].sum().backward()
    assert model.blocks[0].input.state.weight.grad.abs().sum() > 0


def test_a_query_starts_at_the_embedding_of_its_box():
    model = tiny_box_model(BOX_HEAD="linear")
    boxes = torch.rand(2, 6, 4) * 0.9 + 0.05
    start, *_ = model.layers(boxes, torch.zeros(2), PreparedFeatures(model.encode(batch())))
    torch.testing.assert_close(model.heads.boxes(start), boxes, atol=1e-4, rtol=0)


def test_permuted_queries_give_permuted_results(model):
    model.eval()
    tokens, order = PreparedFeatures(model.encode(batch())), torch.tensor([3, 0, 5, 1, 4, 2])
    boxes = torch.rand(2, 6, 4)
    step, permuted = (model.predict(x, 0.25, tokens) for x in (boxes, boxes[:, order]))
    torch.testing.assert_close(permuted.pred_boxes, step.pred_boxes[:, order], atol=1e-4, rtol=0)
    torch.testing.assert_close(permuted.scores, step.scores[:, order], atol=1e-4, rtol=0)


def test_a_step_has_the_scores_of_the_classes_and_reruns_its_last_block(model):
    model.eval()
    # the background has the highest probability
    model.heads.classes.bias.data[-1] += 5
    step = model.predict(torch.rand(2, 6, 4), 0.25, PreparedFeatures(model.encode(batch())))
    z = step.refinement.z_1
    scores = model.heads(z)[0].softmax(-1)[..., :3].max(-1).values
    torch.testing.assert_close(step.scores, scores, atol=1e-4, rtol=0)
    again = step.refinement.rerun_last_step(step.refinement.last_input[:, None])[:, 0]
    torch.testing.assert_close(again, z, atol=1e-4, rtol=0)


def test_the_decoder_uses_the_time(model):
    tokens, boxes = model.encode(batch()), torch.rand(2, 6, 4)
    early, late = (
        model.layers(boxes, torch.full((2,), t), PreparedFeatures(tokens))[-1] for t in (0.1, 0.9)
    )
    assert (early - late).abs().max() > 1e-3


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("ensemble", [False, True])
@EVERY_PATH
def test_results_do_not_depend_on_the_batch(path, ensemble, samples):
    model = tiny_box_model(path, STABILITY_SAMPLES=samples)
    with_sampling(model, num_steps=4, ensemble_steps=ensemble)
    inputs = [*three_images(), record(size=(48, 80), seed=4)]
    singles = [model([x])[0] for x in inputs]
    assert all(len(x["instances"]) for x in singles)
    assert_same_detections(model(inputs), singles)


def test_results_are_repeated_and_follow_from_the_seed(model):
    with_sampling(model, num_steps=3)
    expected = model(batch())
    torch.manual_seed(99)
    assert_same_detections(model(batch()), expected, exact=True)
    others = with_sampling(model, noise_seed=1)(batch())
    assert any(
        one["instances"].scores.tolist() != other["instances"].scores.tolist()
        for one, other in zip(others, expected, strict=True)
    )


def test_ground_truth_never_reaches_inference(model):
    model.eval()
    blind = [{k: v for k, v in x.items() if k != "instances"} for x in batch()]
    assert_same_detections(model(batch()), model(blind), exact=True)


def test_renewal_replaces_exactly_the_boxes_with_low_scores(model):
    with_sampling(model, num_steps=2, renewal_threshold=0.0)
    tokens = model.encode(batch())
    kept = model.sample(tokens)
    assert torch.equal(kept[0].boxes[0], kept[0].boxes[1])
    threshold = kept[0].scores.flatten().sort().values[5:7].mean().item()
    with_sampling(model, renewal_threshold=threshold)
    first, second = model.sample(tokens)
    assert torch.equal(first.boxes, kept[0].boxes)
    low = first.scores < threshold
    assert 0 < low.sum() < low.numel()
    assert torch.equal(second.boxes[~low], kept[1].boxes[~low])
    assert (second.boxes[low] != kept[1].boxes[low]).any(dim=-1).all()
    # a renewed box is the same in every image
    both = low.all(dim=0)
    assert torch.equal(second.boxes[0, both], second.boxes[1, both])


def test_renewed_boxes_are_random_boxes_at_the_time_of_the_next_step(model):
    with_sampling(model, num_steps=4, renewal_threshold=1.0)
    steps = model.sample(model.encode(batch()[:1]))
    draw = noise_source(model.sampling.noise_seed, 1, model.num_queries, model.device)
    draw()
    for step, t in zip(steps[1:], (0.25, 0.5, 0.75), strict=True):
        draw()  # the noise of the step
        noise, boxes = draw(), model.scale.clamped(draw())
        state = model.path.state(noise, boxes, torch.tensor([t]))
        torch.testing.assert_close(step.boxes, model.scale.normalized(state), atol=1e-6, rtol=0)


def test_flow_steps_move_the_boxes_on_straight_lines():
    model = with_sampling(tiny_box_model("flow"), num_steps=4, renewal_threshold=0.0)
    target = torch.full((1, 6, 4), 0.4)
    predict = model.predict
    model.predict = lambda *args: predict(*args)._replace(pred_boxes=target)
    steps = model.sample(model.encode(batch()[:1]))
    noise = model.scale.scaled(steps[0].boxes)
    for k, step in enumerate(steps):
        expected = torch.lerp(noise, model.scale.scaled(target), k / 4)
        # noise outside of the image is clamped
        inside = noise.abs() < model.scale.limit
        actual = model.scale.scaled(step.boxes)
        torch.testing.assert_close(actual[inside], expected[inside], atol=1e-5, rtol=0)


def test_an_ensemble_has_the_detections_of_all_steps():
    model = with_sampling(tiny_box_model(NMS_THRESHOLD=1.0), num_steps=3, ensemble_steps=True)
    inputs = batch()[:1]
    (result,) = model.inference(inputs)
    model.postprocess.max_detections = 1000
    ensemble = model.inference(inputs)[0]["instances"]
    alone = [
        model.detections(step.refinement.z_1, inputs)[0]
        for step in model.sample(model.encode(inputs))
    ]
    assert len(ensemble) == sum(map(len, alone))
    scores = torch.cat([x.scores for x in alone]).sort(descending=True).values
    torch.testing.assert_close(ensemble.scores, scores, atol=1e-4, rtol=0)
    # the queries of the last step come first
    last = ensemble[ensemble.pred_queries < 6]
    torch.testing.assert_close(last.scores, alone[-1].scores, atol=1e-4, rtol=0)
    assert len(result["instances"]) == 20


def test_one_step_is_the_same_with_and_without_ensemble(model):
    with_sampling(model, num_steps=1, ensemble_steps=True)
    expected = model(batch())
    assert_same_detections(with_sampling(model, ensemble_steps=False)(batch()), expected)


@EVERY_PATH
def test_box_stability_multiplies_the_scores_of_every_step(path):
    model = tiny_box_model(path, STABILITY_SAMPLES=2, NMS_THRESHOLD=1.0)
    with_sampling(model, num_steps=2, ensemble_steps=True)
    model.postprocess.max_detections = 1000
    inputs = batch()[:1]
    detections = model.inference(inputs)[0]["instances"]
    steps = [x.refinement for x in model.sample(model.encode(inputs))][::-1]
    factors = torch.cat([model.stability_factors(x)[0] for x in steps])
    assert 0 <= factors.min() and factors.max() < 1
    logits = torch.cat([model.heads(x.z_1)[0][0] for x in steps])
    scores = logits.softmax(-1) * factors[:, None]
    expected = scores[detections.pred_queries, detections.pred_classes]
    torch.testing.assert_close(detections.scores, expected, atol=1e-4, rtol=0)


@EVERY_PATH
def test_the_number_of_boxes_can_be_changed_after_training(path):
    model = tiny_box_model(path)
    many = tiny_box_model(path, seed=1, NUM_QUERIES=30, STABILITY_SAMPLES=1)
    many.load_state_dict(model.state_dict())
    step, *_ = many.eval().sample(many.encode(batch()))
    assert step.pred_boxes.shape == (2, 30, 4)


def test_the_trajectory_has_the_detections_of_every_step(model):
    with_sampling(model, num_steps=3, ensemble_steps=False)
    results = model.inference(batch(), trajectory=True)
    assert [len(x["trajectory"]) for x in results] == [3, 3]
    assert model.trajectory_times == pytest.approx([1 / 3, 2 / 3, 1])
    for result in results:
        assert result["trajectory"][-1] is result["instances"]
    tokens = model.encode(batch())
    for step, sampled in enumerate(model.sample(tokens)[:-1]):
        expected = model.detections(sampled.refinement.z_1, batch())
        actual = [{"instances": x["trajectory"][step]} for x in results]
        assert_same_detections(actual, [{"instances": x} for x in expected])


def test_box_trajectories_start_at_the_noise_and_end_in_the_detections(model):
    with_sampling(model, num_steps=2, ensemble_steps=True)
    inputs = [batch()[0], record(size=(48, 64), seed=7, height=96, width=128)]
    for result in model.inference(inputs, analyses=[box_trajectory(5)]):
        trajectory, detections = result["box_trajectory"], result["instances"]
        assert trajectory.boxes.shape == (5, 6, 4)
        assert (trajectory.objectness[0] == 0).all() and (trajectory.objectness[-1] > 0).all()
        last = detections[detections.pred_queries < 6]
        assert len(last)
        torch.testing.assert_close(
            trajectory.boxes[-1, last.pred_queries], last.pred_boxes.tensor, atol=0.01, rtol=0
        )


@pytest.mark.parametrize("path", ["diffusion", "flow"])
def test_the_frozen_config_caches_the_features_of_its_backbone(path):
    cached, plain = (
        build_model(tiny_cfg(f"peers/voc_box_{path}_r18_frozen.yaml", FEATURE_CACHE_GIB=size))
        for size in (0.1, 0.0)
    )
    plain.load_state_dict(cached.state_dict())
    for _ in range(2):
        losses, expected = (train_step(x, batch())[0] for x in (cached, plain))
        for name, loss in losses.items():
            # the cache rounds to half precision
            assert loss.item() == pytest.approx(expected[name].item(), rel=0.05)
    assert len(cached.feature_cache.store) == 2


@EVERY_PATH
def test_training_with_autocast(path):
    model = tiny_box_model(path)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch())
    sum(losses.values()).backward()
    assert_finite(losses)
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"MODEL.BOX_TRANSPORT.PATH": "straight"}, "BOX_TRANSPORT.PATH 'straight'"),
        ({"MODEL.BOX_TRANSPORT.SIGNAL_SCALE": 0.0}, "SIGNAL_SCALE must be above 0, got 0.0"),
        ({"MODEL.BOX_TRANSPORT.NUM_STEPS": 0}, "NUM_STEPS must be at least 1, got 0"),
        ({"MODEL.BOX_TRANSPORT.NUM_STEPS": 2000}, "NUM_STEPS is 2000, .* NUM_TIMESTEPS = 1000"),
        ({"MODEL.BOX_TRANSPORT.BOX_RENEWAL": 1.5}, r"BOX_RENEWAL must be in \[0, 1\], got 1.5"),
        ({"MODEL.BOX_TRANSPORT.DDIM_ETA": -0.5}, r"DDIM_ETA must be in \[0, 1\], got -0.5"),
        (
            {"MODEL.FLOW_DET.BOX_ANCHORED_ATTENTION": False, "MODEL.FLOW_DET.BOX_SAMPLES": 0},
            "BOX_ANCHORED_ATTENTION is False, but the queries of a BoxTransportDetector are boxes",
        ),
        (
            {"MODEL.FLOW_DET.ANCHORED_QUERIES": False},
            "ANCHORED_QUERIES is False, but the queries of a BoxTransportDetector are boxes",
        ),
    ],
    ids=str,
)
def test_bad_configs_say_what_is_wrong(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_box_model(keys=keys)
