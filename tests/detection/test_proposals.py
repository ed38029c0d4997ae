"""Proposals for denoising queries: boxes, losses, gradients, and what inference sees of them."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torchvision.ops import box_iou

from flowdet.detection.boxes import to_corners
from flowdet.detection.denoising import drawn_boxes
from flowdet.detection.proposals import ProposalNetwork, build_proposal_network
from flowdet.engine.config import with_keys
from tests.detection.tiny import batch, record, tiny_cfg, tiny_model

FILES = ("digits_flow.yaml", "digits_backprop.yaml")


def proposal_model(file="digits_flow.yaml", **keys):
    return tiny_model(file=file, PROPOSAL_QUERIES=5, **keys)


class RecordingRPN(nn.Module):
    """Returns the given boxes and a loss, and records what it was called with."""

    losses = {"loss_rpn_cls": 2.0}

    def __init__(self, *boxes):
        super().__init__()
        self.boxes = boxes

    def forward(self, images, features, objects):
        self.images, self.features, self.objects = images, features, objects
        pairs = zip(self.boxes, images.image_sizes, strict=True)
        return [Instances(size, proposal_boxes=Boxes(boxes)) for boxes, size in pairs], self.losses


def proposals_of(inputs, *boxes):
    """The proposals of a network whose RPN finds `boxes`, and that RPN."""
    model = proposal_model()
    rpn = RecordingRPN(*boxes)
    network = ProposalNetwork(rpn, model.proposal_network.strides)
    return network(model.encode(inputs), model.prepare_targets(inputs)), rpn


def test_the_network_gets_sizes_and_objects_in_pixels_and_returns_normalized_boxes():
    inputs = [
        record([(0, (4, 4, 30, 40)), (2, (32, 8, 60, 60))], seed=1),
        record([(1, (10, 20, 40, 30))], size=(48, 40), seed=2),
        record([], size=(64, 56), seed=3),
    ]
    whole, part = torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([[10.0, 12, 30, 24]])
    (boxes, losses), rpn = proposals_of(inputs, whole, part, torch.zeros(0, 4))
    assert losses == rpn.losses
    assert rpn.images.image_sizes == [(64, 64), (48, 40), (64, 56)]
    for objects, x in zip(rpn.objects, inputs, strict=True):
        assert torch.allclose(objects.gt_boxes.tensor, x["instances"].gt_boxes.tensor, atol=1e-3)
    assert all(maps.shape[2] * 8 == maps.shape[3] * 8 == 64 for maps in rpn.features.values())
    # an image without proposals has one of its whole area
    expected = torch.tensor([[0.5, 0.5, 1, 1], [0.5, 0.375, 0.5, 0.25], [0.5, 0.5, 1, 1]])
    assert torch.allclose(boxes[:, 0], expected, atol=1e-6)


def crowded():
    """An image with nine objects, three more than the queries of the tiny model; the smallest are
    dropped for matching."""
    corners = [(x, y) for x in (0, 20, 40) for y in (0, 20, 40)]
    return record([(1, (x, y, x + 10 + y / 8, y + 10 + x / 8)) for x, y in corners], seed=4)


def test_the_network_gets_the_objects_that_are_dropped_for_matching():
    inputs = [crowded(), record([], seed=2)]
    _, rpn = proposals_of(inputs, torch.rand(4, 4), torch.rand(4, 4))
    expected = inputs[0]["instances"].gt_boxes.tensor
    assert len(expected) == 9 and len(rpn.objects[1]) == 0
    assert torch.allclose(rpn.objects[0].gt_boxes.tensor, expected, atol=1e-3)


def test_queries_at_objects_that_are_dropped_for_matching_are_trained_on_them():
    model = proposal_model(DENOISING_QUERIES=200, DENOISING_NOISE=1e-6, BOX_HEAD="linear")
    targets = model.prepare_targets([crowded()])
    assert targets.counts == [6]
    state = model.flow.initial_state(model.initial_noise(1))
    torch.manual_seed(0)
    assigned = model.denoising.queries(
        state.estimate, targets, targets.complete.boxes[:, 4:]
    ).assigned[0]
    assert set(assigned[:200].tolist()) == set(range(9))
    assert sorted(assigned[200:].tolist()) == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("file", FILES)
def test_images_with_more_objects_than_queries_train(file):
    model = proposal_model(file, DENOISING_QUERIES=9, IGNORE_IOU=0.5).train()
    with EventStorage():
        losses = model([crowded(), *batch()])
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_images_with_fewer_proposals_repeat_theirs():
    some = torch.tensor([[0.0, 0, 32, 32], [16, 16, 48, 48], [8, 8, 64, 64]])
    (boxes, _), _ = proposals_of(batch(), some, some[:2])
    assert boxes.shape == (2, 3, 4)
    assert torch.equal(boxes[1], boxes[0, [0, 1, 0]])


def test_drawn_boxes_differ_until_all_are_drawn_and_have_an_area():
    torch.manual_seed(0)
    boxes = torch.rand(2, 8, 4)
    boxes[0, 0, 2:] = 0
    drawn = drawn_boxes(boxes, 6)
    assert all(len(row.unique(dim=0)) == 6 for row in drawn)
    assert drawn[..., 2:].min() >= 0.01
    cycled = drawn_boxes(boxes, 20)
    assert all(len(row.unique(dim=0)) == 8 for row in cycled)
    assert not torch.equal(drawn, drawn_boxes(boxes, 6))


def test_the_network_learns_to_find_the_objects():
    torch.manual_seed(0)
    model = proposal_model(NECK_NORM="")
    network, inputs = model.proposal_network, batch()
    targets, tokens = model.prepare_targets(inputs), model.encode(inputs)
    tokens = tokens.with_tokens(tokens.tokens.detach())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        boxes, losses = network(tokens, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for found, objects, count in zip(boxes, targets.boxes, targets.counts, strict=True):
        iou = box_iou(to_corners(found[:5]), to_corners(objects[:count]))
        assert iou.amax(dim=0).min() > 0.6


@pytest.mark.parametrize("file", FILES)
def test_a_training_step_has_the_losses_of_the_network_and_trains_it(file):
    model = proposal_model(file).train()
    with EventStorage() as storage:
        losses = model(batch())
        sum(losses.values()).backward()
        logged = storage.latest()
    assert losses["loss_rpn_cls"] > 0 and losses["loss_rpn_loc"] >= 0
    assert any("denoising_matched_iou" in name for name in logged)
    for name, parameter in model.proposal_network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_blocks_and_network_pass_no_gradient_to_each_other():
    model = proposal_model().train()
    network = model.proposal_network
    others = [*model.flow.parameters(), *model.heads.parameters()]
    with EventStorage():
        losses = model(batch())
        own = [losses.pop(name) for name in ("loss_rpn_cls", "loss_rpn_loc")]
        sum(losses.values()).backward(retain_graph=True)
        assert all(p.grad is None for p in network.parameters())
        model.zero_grad(set_to_none=True)
        sum(own).backward()
    assert all(p.grad is None for p in others)
    # the neck is shared
    assert any(p.grad is not None and p.grad.any() for p in model.neck.parameters())


def test_blocks_of_the_recipe_for_photos_pass_no_gradient_to_each_other(monkeypatch):
    """With the weight of one block alone, its gradient is the same and all others have none."""
    model = tiny_model(file="voc_flow_r18_frozen.yaml", FEATURE_CACHE_GIB=0.0).train()
    assert model.denoising and model.proposal_network
    per_block = type(model.criterion.weights).per_block

    def gradients(kept: set[int]) -> list[list[torch.Tensor]]:
        monkeypatch.setattr(
            type(model.criterion.weights),
            "per_block",
            lambda *args: [w * (k in kept) for k, w in enumerate(per_block(*args))],
        )
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        with EventStorage():
            sum(model(batch()).values()).backward()
        return [
            [p.grad for p in block.parameters() if p.grad is not None]
            for block in model.flow.blocks
        ]

    together = gradients({0, 1, 2})
    for k in range(3):
        for j, alone in enumerate(gradients({k})):
            expected = together[j] if j == k else [torch.zeros_like(g) for g in together[j]]
            assert any(g.any() for g in together[j])
            torch.testing.assert_close(alone, expected)


def test_each_block_starts_queries_from_proposals_of_the_same_image():
    model = proposal_model(DENOISING_QUERIES=2, BOX_HEAD="linear")
    targets = model.prepare_targets(batch())
    state = model.flow.initial_state(model.initial_noise(2))
    proposals = torch.rand(2, 9, 4) * 0.5 + 0.25
    torch.manual_seed(0)
    moved = model.denoising.queries(state.estimate, targets, proposals).estimate
    assert moved.shape[1] == 2 + 5
    boxes = model.heads.boxes(moved[:, 2:])
    distance = (boxes[:, :, None] - proposals[:, None]).abs().amax(dim=-1)
    assert distance.amin(dim=-1).max() < 1e-4
    # without proposals, for example in a diagnosis, only the perturbed boxes remain
    assert model.denoising.queries(state.estimate, targets).estimate.shape[1] == 2


@pytest.mark.parametrize("file", FILES)
def test_inference_does_not_use_the_network(file):
    model = proposal_model(file).eval()
    (before, *_) = model(batch())
    for parameter in model.proposal_network.parameters():
        nn.init.normal_(parameter)
    (after, *_) = model(batch())
    assert torch.equal(before["instances"].pred_boxes.tensor, after["instances"].pred_boxes.tensor)
    assert torch.equal(before["instances"].scores, after["instances"].scores)


def test_proposals_that_are_not_finite_end_the_training_with_advice():
    model = proposal_model().train()
    nn.init.constant_(model.proposal_network.rpn.rpn_head.anchor_deltas.bias, float("nan"))
    with pytest.raises(ValueError, match="diverged: lower SOLVER.BASE_LR"):
        model(batch())


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"PROPOSAL_QUERIES": -1}, "PROPOSAL_QUERIES must not be negative, got -1"),
        (
            {"PROPOSAL_QUERIES": 4, "BOX_ANCHORED_ATTENTION": False, "BOX_SAMPLES": 0},
            "PROPOSAL_QUERIES start at given boxes: they need",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**keys)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("RPN.POST_NMS_TOPK_TRAIN", 3, "PROPOSAL_QUERIES is 5, but must be at most 3, because "),
        ("RPN.PRE_NMS_TOPK_TRAIN", 4, "must be at most 4, because MODEL.RPN.PRE_NMS_TOPK_TRAIN"),
        ("RPN.IN_FEATURES", ["res2"], r"is \['res2'\], but the proposal network reads all .*res3"),
        ("PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "are those of an RPN: set it to RPN"),
        ("PROPOSAL_GENERATOR.MIN_SIZE", 96, "MIN_SIZE is 96, but must be below 96, the shorter"),
        ("ANCHOR_GENERATOR.SIZES", [[16], [32]], "2 lists do not fit .* feature maps, 1: give one"),
        ("ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]] * 3, "ASPECT_RATIOS is .* 3 lists do not fit"),
    ],
)
def test_keys_of_the_network_that_do_not_fit_are_named(key, value, message):
    cfg = with_keys(tiny_cfg(PROPOSAL_QUERIES=5), {f"MODEL.{key}": value})
    with pytest.raises(ValueError, match=f"MODEL.*{message}") as error:
        build_model(cfg)
    assert "\n" not in str(error.value)


def test_the_keys_of_the_network_are_free_without_proposal_queries():
    assert build_model(with_keys(tiny_cfg(), {"MODEL.RPN.POST_NMS_TOPK_TRAIN": 1}))


def test_a_batch_without_proposals_is_reported_once(caplog):
    inputs = batch()
    none, some = torch.zeros(0, 4), torch.tensor([[0.0, 0, 32, 32]])
    model = proposal_model()
    network = ProposalNetwork(RecordingRPN(none, some), model.proposal_network.strides)
    arguments = model.encode(inputs), model.prepare_targets(inputs)
    network(*arguments)
    assert not caplog.records
    network.rpn.boxes = (none, none)
    for _ in range(2):
        boxes, _ = network(*arguments)
    assert torch.equal(boxes, torch.tensor([[[0.5, 0.5, 1, 1]]] * 2))
    (warning,) = caplog.messages
    assert "MODEL.PROPOSAL_GENERATOR.MIN_SIZE" in warning and "start at the whole image" in warning


def test_a_backbone_without_strides_is_named():
    cfg = tiny_cfg(PROPOSAL_QUERIES=4)
    with pytest.raises(ValueError, match="PROPOSAL_QUERIES needs the strides .* res3, .* has none"):
        build_proposal_network(cfg, ["res3"], [None])
