"""AdamW or SGD with a separate learning rate for the backbone, and full-model gradient clipping."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

OPTIMIZERS = {"AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer of `SOLVER`.

    The learning rate of the backbone is `BASE_LR * BACKBONE_MULTIPLIER`. Biases have
    `BIAS_LR_FACTOR` times the rate of their part. `SOLVER.CLIP_GRADIENTS.CLIP_TYPE` is one of
    detectron2's types, or "full_model". The latter clips the norm of all gradients together, as in
    the paper (D.1). It clips the gradients of a linear probe separately, so that the probe does not
    change the steps of the model.

    Raises:
        ValueError: unknown `SOLVER.OPTIMIZER`.
    """
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown SOLVER.OPTIMIZER {name!r}: use one of {sorted(OPTIMIZERS)}")

    def learning_rate_factor(parameter_name: str) -> float:
        name = parameter_name.removeprefix("module.")
        factor = cfg.SOLVER.BACKBONE_MULTIPLIER if name.startswith("backbone.") else 1.0
        # detectron2's own BIAS_LR_FACTOR would replace the backbone's factor
        return factor * cfg.SOLVER.BIAS_LR_FACTOR if name.endswith(".bias") else factor

    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=learning_rate_factor,
    )
    named = model.named_parameters()
    probe = [p for n, p in named if n.removeprefix("module.").startswith("probe.")]
    optimizer_class = _with_clipping(cfg, OPTIMIZERS[name], probe)
    if name == "SGD":
        options = {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
    else:
        # One pass over the parameters instead of ten. With AMP the fused step would get scaled
        # gradients, which cannot be clipped before it.
        device = next(model.parameters()).device.type
        options = {"fused": device == "cpu" or (device == "cuda" and not cfg.SOLVER.AMP.ENABLED)}
    return optimizer_class(parameters, lr=cfg.SOLVER.BASE_LR, **options)


def _with_clipping(cfg: CfgNode, optimizer_class: type, probe: list[nn.Parameter]) -> type:
    """Returns a subclass that clips gradients in `step`, where AMP has already unscaled them."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        return maybe_add_gradient_clipping(cfg, optimizer_class)

    in_probe = {id(p) for p in probe}

    class FullModelClipping(optimizer_class):
        def step(self, closure=None):
            parameters = [p for group in self.param_groups for p in group["params"]]
            rest = [p for p in parameters if id(p) not in in_probe]
            for group in (rest, probe):
                nn.utils.clip_grad_norm_(group, clip.CLIP_VALUE, clip.NORM_TYPE)
            return super().step(closure)

    FullModelClipping.__name__ = f"{optimizer_class.__name__}WithFullModelClipping"
    return FullModelClipping
