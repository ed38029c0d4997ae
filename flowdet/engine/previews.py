"""Pictures of test images with the results of a model, for TensorBoard."""

from __future__ import annotations

from detectron2.config import CfgNode
from PIL import Image
from torch import nn

from flowdet.engine.task_builders import task_of

# maximum of TEST.SAMPLE_IMAGES: with more images on a sheet, each would be too small to see
MAX_SAMPLES = 50


def draw_previews(cfg: CfgNode, model: nn.Module) -> dict[str, Image.Image]:
    """Draws `TEST.SAMPLE_IMAGES` images of every test dataset with the results of the model.

    Returns:
        One picture per dataset, named "samples/<dataset>".
    """
    draw = task_of(cfg).preview_sheet
    return {
        f"samples/{name}": draw(cfg, model, name, cfg.TEST.SAMPLE_IMAGES)
        for name in cfg.DATASETS.TEST
    }
