"""Denoising queries: perturbed boxes, assignment, moved estimates, losses, gradients."""

from dataclasses import replace

import pytest
import torch
from detectron2.utils.events import EventStorage

from flowdet.detection.boxes import paired_iou, to_corners
from flowdet.detection.criterion import LossNormalizer
from flowdet.detection.denoising import (
    DenoisingSettings,
    assign_by_iou,
    perturbed_boxes,
)
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.targets import Targets
from tests.detection.tiny import batch, tiny_model

FILES = ("digits_flow.yaml", "digits_backprop.yaml")


def two_images() -> Targets:
    """One image with two objects, and one image without objects."""
    boxes = torch.tensor([[[0.3, 0.3, 0.2, 0.4], [0.7, 0.6, 0.3, 0.2]], [[0.0] * 4] * 2])
    return Targets(torch.tensor([[1, 2], [0, 0]]), boxes, [2, 0], [])


def denoising_model(file="digits_flow.yaml", **keys):
    return tiny_model(file=file, DENOISING_QUERIES=6, **keys)


def train(model, seed=0):
    torch.manual_seed(seed)
    model.train().zero_grad(set_to_none=True)
    with EventStorage() as storage:
        losses = model(batch())
        sum(losses.values()).backward()
        return losses, {name: value for name, (value, _) in storage.latest().items()}


@pytest.mark.parametrize("noise", [0.1, 0.6, 2.0])
def test_perturbed_boxes_lie_in_the_image_and_have_an_area(noise):
    torch.manual_seed(0)
    boxes = perturbed_boxes(two_images(), 500, noise)
    corners = to_corners(boxes)
    assert boxes.shape == (2, 500, 4)
    assert corners[..., 2:].gt(corners[..., :2]).all()
    # a box at the border is at least 1 % of the image wide, so it may end 0.5 % outside
    assert corners.min() >= -0.00501 and corners.max() <= 1.00501


def test_little_noise_gives_the_boxes_of_all_objects_and_more_noise_lowers_their_iou():
    torch.manual_seed(0)
    targets = two_images()
    corners = to_corners(targets.boxes[0])

    def best_iou(noise):
        drawn = to_corners(perturbed_boxes(targets, 400, noise)[0])
        return torch.stack([paired_iou(drawn, box.expand(400, 4)) for box in corners])

    exact = best_iou(1e-6)
    assert torch.allclose(exact.amax(dim=0), torch.ones(400), atol=1e-3)
    # every object is drawn about equally often
    assert 150 < exact[0].gt(0.9).sum() < 250
    means = [best_iou(noise).amax(dim=0).mean() for noise in (0.1, 0.5, 1.5)]
    assert means[0] > 0.85 > means[1] > means[2]


def test_assignment_is_the_object_with_the_largest_iou_or_background():
    targets = two_images()
    near_first, near_second = [0.31, 0.3, 0.2, 0.4], [0.7, 0.6, 0.3, 0.25]
    boxes = torch.tensor([[near_first, near_second, [0.1, 0.9, 0.1, 0.1]]] * 2)
    assert assign_by_iou(boxes, targets, 0.5).tolist() == [[0, 1, -1], [-1, -1, -1]]
    # the IoU of the second box is 0.8
    assert assign_by_iou(boxes, targets, 0.85).tolist()[0] == [0, -1, -1]


@pytest.mark.parametrize("box_head, tolerance", [("linear", 1e-5), ("mlp", 0.02)])
def test_moved_embeddings_decode_to_the_boxes(box_head, tolerance):
    torch.manual_seed(0)
    heads = DetectionHeads(32, 3, box_head)
    if heads.box_mlp is not None:
        # a trained head: the MLP contributes
        torch.nn.init.normal_(heads.box_mlp[-2].weight, std=0.1)
    z, boxes = torch.randn(2, 50, 32), torch.rand(2, 50, 4) * 0.8 + 0.1
    moved = heads.move(z, boxes)
    assert (heads.boxes(moved) - boxes).abs().max() < tolerance
    # nothing moves if the boxes are right already
    assert torch.allclose(heads.move(z, heads.boxes(z)), z, atol=1e-4)


def test_denoising_queries_extend_the_state_along_the_path():
    model = denoising_model(BOX_HEAD="linear")
    targets = model.prepare_targets(batch())
    tokens = model.encode(batch())
    state = model.flow.initial_state(model.initial_noise(len(targets.counts)))
    later = model.flow.advance(state, state.estimate + 0.1, 0.0, 0.5)
    torch.manual_seed(0)
    extended, assigned = model.denoising.extend(later, targets)
    count = model.num_queries
    assert extended.z.shape[1] == extended.estimate.shape[1] == count + 6
    assert torch.equal(extended.z[:, :count], later.z)
    torch.manual_seed(0)
    donors, moved, _ = model.denoising.queries(later.estimate, targets)
    assert torch.equal(extended.estimate[:, count:], moved)
    for b, row in enumerate(donors):
        change = moved[b] - later.estimate[b, row]
        assert torch.allclose(extended.z[b, count:], later.z[b, row] + 0.5 * change, atol=1e-5)
    assert assigned.shape == (len(targets.counts), 6)
    # the blocks accept the state
    assert model.flow.predict(0, extended, tokens).z1_hat.shape == extended.z.shape


@pytest.mark.parametrize("file", FILES)
def test_the_first_queries_do_not_see_denoising_queries(file):
    """The predictions for the M queries are those without denoising queries."""
    model = denoising_model(file).eval()
    tokens, targets = model.encode(batch()), model.prepare_targets(batch())
    count = model.num_queries
    with torch.no_grad():
        if file == FILES[1]:
            z = model._start(tokens)
            more = torch.cat([z, model.denoising.queries(z, targets).estimate], dim=1)
            pairs = zip(model.layers(tokens), model.layers(tokens, more))
        else:
            state = model.flow.initial_state(model.initial_noise(len(targets.counts)))
            more, _ = model.denoising.extend(state, targets)
            predict = model.flow.predict
            pairs = [(predict(0, s, tokens).z1_hat for s in (state, more))]
        for plain, extended in pairs:
            assert torch.allclose(plain, extended[:, :count], atol=1e-4)


@pytest.mark.parametrize("file", FILES)
def test_training_with_denoising_queries(file):
    model = denoising_model(file)
    losses, logged = train(model)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert any("denoising_matched_iou" in name for name in logged)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "box_mlp" not in name:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("file", FILES)
def test_their_losses_are_added_with_their_weight_and_change_no_other_loss(file):
    plain, _ = train(tiny_model(file=file))
    once, twice = (train(denoising_model(file, DENOISING_WEIGHT=w))[0] for w in (1.0, 2.0))
    for name in ("loss_cls", "loss_bbox", "loss_giou"):
        further = twice[name] - once[name]
        assert further > 0
        assert torch.isclose(once[name] - further, plain[name], rtol=1e-3), name


def test_the_losses_of_denoising_queries_stay_local():
    """A loss of block k passes no gradient to another block."""
    model = denoising_model()
    tokens, targets = model.encode(batch()), model.prepare_targets(batch())
    torch.manual_seed(0)
    block_losses, inputs = model.block_losses(tokens, targets)
    with EventStorage():
        for k in range(model.flow.num_blocks):
            model.zero_grad(set_to_none=True)
            sum(block_losses(k, [x.detach() for x in inputs]).values()).backward()
            for j, block in enumerate(model.flow.blocks):
                trained = any(p.grad is not None and p.grad.any() for p in block.parameters())
                assert trained == (j == k)


def test_denoising_queries_pass_no_gradient_to_the_estimates():
    model = denoising_model()
    targets = model.prepare_targets(batch())
    start = model.flow.initial_state(model.initial_noise(len(targets.counts)))
    estimate = start.estimate.detach().clone().requires_grad_()
    later = replace(start, z=start.z.detach(), estimate=estimate, t=torch.full_like(start.t, 0.5))
    extended, _ = model.denoising.extend(later, targets)
    assert not model.denoising.queries(estimate, targets).estimate.requires_grad
    assert not extended.z.requires_grad
    # only the ordinary queries have their own estimates
    (gradient,) = torch.autograd.grad(extended.estimate.sum(), estimate)
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_their_losses_are_divided_by_their_number_and_weighted():
    model = denoising_model(DENOISING_WEIGHT=0.5)
    targets = model.prepare_targets(batch())
    logits, boxes = torch.randn(len(targets.counts), 6, 4), torch.rand(len(targets.counts), 6, 4)
    assigned = torch.tensor([0, -1, 0, -1, -1, -1]).expand(len(targets.counts), 6)
    losses, _ = model.denoising.losses(logits, boxes, targets, assigned)
    one = torch.tensor(1.0)
    sums, _ = model.criterion(logits, boxes, targets, assigned, LossNormalizer(one, one))
    assert losses.keys() == sums.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, 0.5 * sums[name] / assigned.numel())


def test_images_without_objects_have_only_background():
    targets = Targets(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, 4), [0, 0], [])
    model = denoising_model()
    state = model.flow.initial_state(model.initial_noise(2))
    torch.manual_seed(0)
    extended, assigned = model.denoising.extend(state, targets)
    assert assigned.eq(-1).all() and extended.estimate.isfinite().all()


@pytest.mark.parametrize(
    "values, key",
    [
        ({"count": -1}, "DENOISING_QUERIES"),
        ({"noise": 0.0}, "DENOISING_NOISE"),
        ({"min_iou": 0.0}, "DENOISING_MIN_IOU"),
        ({"min_iou": 1.5}, "DENOISING_MIN_IOU"),
        ({"weight": 0.0}, "DENOISING_WEIGHT"),
    ],
)
def test_settings_out_of_range_name_the_key(values, key):
    with pytest.raises(ValueError, match=f"MODEL.FLOW_DET.{key} must"):
        DenoisingSettings(**values)


def test_denoising_queries_need_anchored_attention():
    with pytest.raises(ValueError, match="BOX_ANCHORED_ATTENTION True"):
        denoising_model(BOX_ANCHORED_ATTENTION=False, BOX_SAMPLES=0)
