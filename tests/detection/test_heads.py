"""The prediction heads."""

import pytest
import torch

from flowdet.detection.boxes import grid_boxes
from flowdet.detection.heads import DetectionHeads


@pytest.mark.parametrize("box_head", ["linear", "mlp"])
@pytest.mark.parametrize("count", [1, 7, 20])
def test_embed_is_the_inverse_of_the_box_head(box_head, count):
    torch.manual_seed(0)
    heads = DetectionHeads(32, 3, box_head)
    boxes = grid_boxes(count)
    # a side of 1 is at the end of the sigmoid
    torch.testing.assert_close(heads.boxes(heads.embed(boxes)), boxes, rtol=0, atol=2e-4)


def test_the_perceptron_starts_at_zero_and_gets_gradients():
    torch.manual_seed(0)
    heads = DetectionHeads(32, 3, "mlp")
    z = torch.randn(2, 5, 32)
    torch.testing.assert_close(heads.boxes(z), heads.box(z).sigmoid())
    heads.boxes(z).sum().backward()
    assert heads.box_mlp[-2].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("num_classes", [1, 3, 4, 20, 127, 128])
def test_shapes(num_classes):
    logits, boxes = DetectionHeads(32, num_classes)(torch.randn(2, 5, 32))
    assert logits.shape == (2, 5, num_classes + 1) and boxes.shape == (2, 5, 4)
    assert boxes.min() > 0 and boxes.max() < 1


def test_the_output_is_float32_under_autocast():
    heads = DetectionHeads(32, 3, "mlp")
    with torch.autocast("cpu", torch.bfloat16):
        logits, boxes = heads(torch.randn(1, 5, 32))
    assert logits.dtype == boxes.dtype == torch.float32


def test_unknown_box_head():
    with pytest.raises(ValueError, match="BOX_HEAD 'cubic'.*linear.*mlp"):
        DetectionHeads(32, 3, "cubic")
