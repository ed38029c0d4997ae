"""The steps of a flow detector, compiled by `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from flowdet.config.errors import ConfigError
from flowdet.detection.tokens import ImageTokens

Steps = Callable[[nn.Module, ImageTokens, Tensor], tuple[Tensor, Tensor | None]]


def run_steps(model: nn.Module, tokens: ImageTokens, z_0: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns z_1 of a FlowMatchingDetector for noise z_0, [B, M, d], and the factors of the
    scores, [B, M].

    It is one graph without breaks. The noise is an argument, because a graph cannot make a
    generator.
    """
    refinement = model.refine(tokens, z_0=z_0)
    return refinement.z_1, model.stability_factors(refinement)


def run_compiled(
    model: nn.Module, tokens: ImageTokens, z_0: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Calls the compiled `run_steps`.

    Raises:
        ConfigError: there is no C++ compiler, which a CPU needs.
    """
    try:
        return compiled_steps()(model, tokens, z_0)
    except RuntimeError as error:
        # torch wraps its InvalidCxxCompiler into an error of many lines
        if "C++ compiler" not in str(error):
            raise
        raise ConfigError(
            "TEST.COMPILE is True, but torch.compile finds no working C++ compiler, which it needs "
            "on a CPU: install g++ or clang++, or set TEST.COMPILE False"
        ) from error


@cache
def compiled_steps() -> Steps:
    """Returns the compiled `run_steps`. It belongs to no model, so that models can be copied."""
    return torch.compile(run_steps)
