"""BackpropClassifier, the end-to-end baseline."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.engine import load_config
from flowdet.engine.config import overlay_overrides
from tests.flowcls.tiny import CONFIGS, images, tiny_model


def test_loss_trains_every_parameter():
    model = tiny_model("cifar10_flow_vit+backprop").train()
    losses = model(images())
    assert set(losses) == {"loss_class", "loss_probe"}
    sum(losses.values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.head.blocks.parameters())
    assert all(p.grad is not None for p in model.parameters())


def test_only_inference_mode_is_its_head():
    (result,) = tiny_model("digits_flow_vit+backprop").eval()(images(1))
    assert result["modes"] == ["head", "probe"] and result["logits"].shape == (2, 4)


def test_baseline_has_the_parameters_of_the_flow_model():
    """Except those of the time embedding, the input for the estimate, the targets and the start."""
    extra = ("time_embedding", "input.estimate", "embedding.classes", "flow.start", "head.start")
    assert count("cifar10_flow_vit", skip=extra) == count("cifar10_flow_vit+backprop", skip=extra)


def count(file, skip=()):
    named = tiny_model(file).named_parameters()
    return sum(p.numel() for n, p in named if not any(s in n for s in skip))


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet_r"])
def test_baseline_of_fine_tuning_has_as_many_parameters(dataset):
    sizes = []
    for overlay in ([], overlay_overrides("cls/bases/backprop_encoder")):
        words = ["MODEL.WEIGHTS", "", "MODEL.FLOW_CLS.NUM_CLASSES", "10", *overlay]
        cfg = load_config(str(CONFIGS / f"{dataset}_flow_vit_b16.yaml"), words)
        # shapes without memory
        with torch.device("meta"):
            model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4) and sizes[0] > 1.2e8


def test_baseline_refuses_the_sequential_topology():
    with pytest.raises(ValueError, match="TOPOLOGY parallel"):
        tiny_model("digits_flow_vit+backprop", TOPOLOGY="sequential")
