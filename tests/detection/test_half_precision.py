"""Training in half precision on boxes without area, boxes of the whole image and many objects."""

import pytest
import torch
from detectron2.modeling import build_model

from tests.detection.peers.tiny import PEERS, peer_cfg
from tests.detection.tiny import record

HEIGHT, WIDTH = 48, 64
BOXES = {
    "whole image": (0, 0, WIDTH, HEIGHT),
    "point": (20, 10, 20, 10),
    "point in the corner": (WIDTH, HEIGHT, WIDTH, HEIGHT),
    "line": (0, 10, WIDTH, 10),
    "a thousandth of a pixel": (30, 20, 30.001, 20.001),
}
# keys of MODEL.FLOW_DET, or a detector of the comparison
MODELS = {
    "flow": {},
    "denoising": {"DENOISING_QUERIES": 10, "PROPOSAL_QUERIES": 4},
    "backprop": {"META_ARCHITECTURE": "BackpropDetector"},
    "box transport": {"META_ARCHITECTURE": "BoxTransportDetector"},
    **{name: {"META_ARCHITECTURE": name} for name in PEERS},
}


def build(keys, device="cpu"):
    keys = dict(keys)
    architecture = keys.pop("META_ARCHITECTURE", "FlowMatchingDetector")
    cfg = peer_cfg(architecture, {"MODEL.DEVICE": device}, NUM_BLOCKS=2, **keys)
    torch.manual_seed(0)
    return build_model(cfg)


def batches():
    """An image with 0, 1, 6 and 60 extreme boxes; the models have 6 queries. With it is an image
    without objects. The first value is a name for messages."""
    boxes = [*BOXES.values()]
    for name, chosen in (
        ("no object", []),
        *[(name, [box]) for name, box in BOXES.items()],
        ("6 objects", [*boxes, boxes[0]]),
        ("60 objects", 12 * boxes),
    ):
        objects = [(i % 3, box) for i, box in enumerate(chosen)]
        yield name, [record(objects, (HEIGHT, WIDTH)), record((), (64, 64), 1)]


@pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)
def test_losses_and_gradients_are_finite_in_bfloat16(keys):
    model = build(keys)
    for name, batch in batches():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(batch)
        sum(losses.values()).backward()
        for loss, value in losses.items():
            assert value.isfinite(), (name, loss)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert gradients and any(g.any() for g in gradients.values()), name
        for parameter, gradient in gradients.items():
            assert gradient.isfinite().all(), (name, parameter)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 is for GPUs")
@pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)
def test_mixed_precision_on_a_gpu_trains(keys):
    model = build(keys, "cuda")
    for name, batch in batches():
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        scaler = torch.amp.GradScaler("cuda")
        taken = []
        optimizer.register_step_pre_hook(lambda *_, taken=taken: taken.append(1))
        # the first steps find the scale
        for _ in range(20):
            model.zero_grad()
            with torch.autocast("cuda", torch.float16):
                losses = model(batch)
            assert all(loss.isfinite() for loss in losses.values()), name
            scaler.scale(sum(losses.values())).backward()
            scaler.step(optimizer)
            scaler.update()
        assert len(taken) >= 10, name
        assert all(p.isfinite().all() for p in model.parameters()), name
