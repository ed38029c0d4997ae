"""The optimizer: learning rates, weight decay and clipping."""

import copy

import pytest
import torch
from torch import nn

from flowdet.engine import build_optimizer
from tests.detection.tiny import tiny_cfg


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.backbone_like = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.backbone_like(self.backbone(x)))


@pytest.fixture
def cfg():
    cfg = tiny_cfg()
    cfg.SOLVER.BASE_LR = 1e-2
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 0.5
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    return cfg


def settings(optimizer, model):
    """{parameter name: (learning rate, weight decay)}"""
    by_parameter = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    return {name: by_parameter[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_only_the_backbone_has_a_lower_learning_rate(cfg, wrapped):
    # DistributedDataParallel puts "module." before every name
    model = nn.ModuleDict({"module": Model()}) if wrapped else Model()
    prefix = "module." if wrapped else ""
    actual = settings(build_optimizer(cfg, model), model)
    assert actual[f"{prefix}backbone.0.weight"] == (pytest.approx(1e-3), 0.5)
    assert actual[f"{prefix}backbone.1.weight"] == (pytest.approx(1e-3), 0.0)
    assert actual[f"{prefix}backbone_like.weight"] == (1e-2, 0.5)
    assert actual[f"{prefix}head.bias"] == (1e-2, 0.5)


def test_detectron2_s_keys_for_biases_and_momentum_hold(cfg):
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.25
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.NESTEROV = True
    model = Model()
    optimizer = build_optimizer(cfg, model)
    actual = settings(optimizer, model)
    assert actual["backbone.0.bias"] == (pytest.approx(2e-3), 0.25)
    assert actual["backbone.0.weight"] == (pytest.approx(1e-3), 0.5)
    assert actual["head.bias"] == (2e-2, 0.25)
    assert all(group["nesterov"] for group in optimizer.param_groups)


def test_frozen_parameters_are_left_out(cfg):
    model = Model()
    model.backbone.requires_grad_(False)
    parameters = [p for g in build_optimizer(cfg, model).param_groups for p in g["params"]]
    assert len(parameters) == 4


def step_sizes(cfg, scale):
    """The norms of the gradient before clipping and after it: of a step of plain SGD with learning
    rate 1."""
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.BASE_LR = cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.SOLVER.MOMENTUM = cfg.SOLVER.WEIGHT_DECAY = 0.0
    model = Model()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build_optimizer(cfg, model)
    torch.manual_seed(1)
    (scale * model(torch.randn(8, 3)).square().mean()).backward()
    raw = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    optimizer.step()
    moved = torch.cat([(p - b).flatten() for p, b in zip(model.parameters(), before)])
    return raw.item(), moved.norm().item()


def test_full_model_clipping_limits_the_norm_of_all_gradients_together(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    raw, moved = step_sizes(cfg, scale=100.0)
    assert raw > 5 and moved == pytest.approx(0.5, rel=1e-3)
    raw, moved = step_sizes(cfg, scale=0.01)
    assert raw < 0.5 and moved == pytest.approx(raw, rel=1e-3)


def test_probe_is_clipped_separately(cfg):
    cfg.SOLVER.OPTIMIZER = "SGD"

    def after_a_step(probe_gradient):
        torch.manual_seed(0)
        model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "probe": nn.Linear(2, 2)})
        optimizer = build_optimizer(cfg, model)
        for name, p in model.named_parameters():
            p.grad = torch.full_like(p, probe_gradient if "probe" in name else 3.0)
        optimizer.step()
        return model

    small, large = after_a_step(1.0), after_a_step(100.0)
    assert torch.equal(small["backbone"].weight, large["backbone"].weight)
    # both gradients are above the limit, so both are clipped to it
    torch.testing.assert_close(small["probe"].weight, large["probe"].weight, rtol=1e-4, atol=0)


def test_clipping_can_be_off_or_of_a_type_of_detectron2(cfg):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED = False
    raw, moved = step_sizes(cfg, scale=100.0)
    assert moved == pytest.approx(raw, rel=1e-3)
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "value", 0.01
    raw, moved = step_sizes(cfg, scale=100.0)
    count = sum(p.numel() for p in Model().parameters())
    assert 0 < moved <= 0.01 * count**0.5 + 1e-6


def test_closures_and_schedulers_work_with_clipping(cfg):
    model = Model()
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    x = torch.randn(8, 3)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    scheduler.step()
    assert optimizer.param_groups[-1]["lr"] == 0.5e-2
    assert optimizer.step(closure).item() < first


def test_fused_steps_are_those_of_adamw(cfg):
    model = Model()
    optimizer = build_optimizer(cfg, model)
    assert all(group["fused"] for group in optimizer.param_groups)
    pairs = [(model, optimizer), copy.deepcopy((model, optimizer))]
    for group in pairs[1][1].param_groups:
        group["fused"] = False
    for step in range(5):
        for model, optimizer in pairs:
            # not those of a loss: that of a bias before a batch norm is rounding noise, of which
            # AdamW makes whole steps
            torch.manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    for one, other in zip(*(model.parameters() for model, _ in pairs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_unknown_optimizer(cfg):
    cfg.SOLVER.OPTIMIZER = "Adamant"
    with pytest.raises(ValueError, match=r"OPTIMIZER 'Adamant'.*AdamW.*SGD"):
        build_optimizer(cfg, Model())
