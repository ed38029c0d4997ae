"""The configs that are measured, and the rows of the result file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import nn

from flowdet.config.errors import UsageError
from flowdet.engine import load_config
from flowdet.engine.config import with_keys
from flowdet.engine.model_builder import build_model
from flowdet.engine.resolve import resolve_model

SEED = 0
WARM_UP_ROUNDS = 2
# with a cache the backbone would run only once for each image
_FIXED = ("MODEL.WEIGHTS", "", "MODEL.FLOW_DET.FEATURE_CACHE_GIB", "0.0")


def bench_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Returns the resolved config of a detector with random weights and without a feature cache.

    It runs on the GPU if there is one.

    Args:
        name: path or name of a config.
        overrides: `KEY VALUE` pairs.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fixed = [*_FIXED, "MODEL.FLOW_DET.FEATURE_CACHE_DIR", "", "MODEL.DEVICE", device]
    return resolve_model(load_config(name, [*fixed, *overrides]))


def check_flow(cfg: CfgNode) -> None:
    """Checks that a config is that of a flow detector.

    Raises:
        UsageError: it is that of another detector.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name != "FlowMatchingDetector":
        raise UsageError(
            f"--config-file is the config of a {name}: use that of a FlowMatchingDetector"
        )


def build_detector(cfg: CfgNode) -> nn.Module:
    """Builds a model in evaluation mode, with random weights of a fixed seed."""
    torch.manual_seed(SEED)
    return build_model(cfg).eval()


def with_size(cfg: CfgNode, side: int) -> CfgNode:
    """Returns a copy of a config for square images with this side, in pixels."""
    return with_keys(cfg, {"INPUT.FIXED_SIZE": [side, side]})


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Returns the statistics of a row: mean, standard deviation, median, quartiles and number."""
    low, median, high = _quartiles(values)
    return {
        "mean": _rounded(statistics.fmean(values)),
        "std": _rounded(statistics.stdev(values)) if len(values) > 1 else None,
        "median": _rounded(median),
        "low": _rounded(low),
        "high": _rounded(high),
        "n": len(values),
    }


def single(value: float) -> dict[str, float | int | None]:
    """Returns the statistics of a row with one value, which does not vary."""
    return {"mean": value, "std": None, "n": 1}


def ratio(values: Sequence[float], reference: Sequence[float]) -> dict[str, float | int | None]:
    """Returns the statistics of the ratios of two functions, one ratio for each round."""
    return spread([x / y for x, y in zip(values, reference, strict=True)])


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _rounded(value: float) -> float:
    """Rounds to 4 significant digits."""
    return float(f"{value:.4g}")
