"""Builds the model of a config."""

from __future__ import annotations

import detectron2.modeling
from detectron2.config import CfgNode
from torch import nn

from flowdet.config.errors import ConfigError
from flowdet.detection.proposal_keys import one_line_errors


def build_model(cfg: CfgNode) -> nn.Module:
    """Builds the model of a resolved config on its device, with random weights.

    Raises:
        ConfigError: keys of the model do not fit each other.
    """
    try:
        with one_line_errors("MODEL"):
            return detectron2.modeling.build_model(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from error
