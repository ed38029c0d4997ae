import pytest
import torch
from torchvision.ops import box_convert, box_iou

from flowdet.detection.boxes import grid_boxes
from flowdet.detection.heads import DetectionHeads


@pytest.mark.parametrize("count", [1, 2, 5, 7, 20, 100])
def test_grid_boxes_tile_the_image(count):
    boxes = grid_boxes(count)
    assert boxes.shape == (count, 4)
    corners = box_convert(boxes, "cxcywh", "xyxy")
    assert corners.min() >= -1e-6 and corners.max() <= 1 + 1e-6
    # together as large as the image, and no two overlap
    assert (boxes[:, 2] * boxes[:, 3]).sum().item() == pytest.approx(1)
    assert (box_iou(corners, corners) - torch.eye(count)).abs().max() < 1e-4


@pytest.mark.parametrize("box_head", ["linear", "mlp"])
@pytest.mark.parametrize("count", [1, 7, 20])
def test_embed_is_the_inverse_of_the_box_head(box_head, count):
    torch.manual_seed(0)
    heads = DetectionHeads(32, 3, box_head)
    wanted = grid_boxes(count)
    # a side of 1 is at the end of the sigmoid
    torch.testing.assert_close(heads.boxes(heads.embed(wanted)), wanted, rtol=0, atol=2e-4)


def test_the_perceptron_starts_at_zero_and_learns():
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


def test_decoded_in_float32():
    heads = DetectionHeads(32, 3, "mlp")
    with torch.autocast("cpu", torch.bfloat16):
        logits, boxes = heads(torch.randn(1, 5, 32))
    assert logits.dtype == boxes.dtype == torch.float32


def test_unknown_box_head():
    with pytest.raises(ValueError, match="BOX_HEAD 'cubic'.*linear.*mlp"):
        DetectionHeads(32, 3, "cubic")
