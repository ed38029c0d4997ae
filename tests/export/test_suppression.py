"""Class-wise non-maximum suppression: what it keeps, and that ONNX Runtime keeps the same."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from flowdet.export.suppression import onnx_translations, unsuppressed

IOU, SCORE = 0.4, 0.2


def overlapping_boxes(seed=0):
    """Overlapping boxes, [3, 30, 4], and scores, [3, 2, 30], some of them equal."""
    random = torch.Generator().manual_seed(seed)
    corners = 20 * torch.rand(3, 30, 2, generator=random)
    boxes = torch.cat([corners, corners + 5 + 10 * torch.rand(3, 30, 2, generator=random)], dim=2)
    scores = torch.rand(3, 2, 30, generator=random)
    scores[0] = (scores[0] * 5).round() / 5
    # an image without a score above the threshold
    scores[1] *= SCORE
    return boxes, scores


def test_best_of_overlapping_boxes_is_kept():
    boxes, scores = overlapping_boxes()
    kept = unsuppressed(boxes, scores, IOU, SCORE)
    assert not kept[1].any() and not kept[scores <= SCORE].any()
    for image in (0, 2):
        overlap = box_iou(boxes[image], boxes[image]) > IOU
        for row, score in zip(kept[image], scores[image]):
            assert 1 < row.sum() < (score > SCORE).sum()
            assert (overlap & row[:, None] & row).sum() == row.sum()
            dropped = ~row & (score > SCORE)
            better = overlap & row & (score >= score[:, None])
            assert better[dropped].any(dim=1).all()


def test_onnx_keeps_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Kept(torch.nn.Module):
        def forward(self, boxes, scores):
            return unsuppressed(boxes, scores, IOU, SCORE)

    file = str(tmp_path / "kept.onnx")
    torch.onnx.export(
        Kept().eval(),
        overlapping_boxes(),
        file,
        dynamo=True,
        dynamic_shapes=({0: "batch"}, {0: "batch"}),
        input_names=["boxes", "scores"],
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file)
    for seed in range(5):
        boxes, scores = overlapping_boxes(seed)
        for part in (slice(0, 3), slice(1, 2)):
            inputs = {"boxes": boxes[part].numpy(), "scores": scores[part].numpy()}
            (kept,) = session.run(None, inputs)
            expected = unsuppressed(boxes[part], scores[part], IOU, SCORE)
            np.testing.assert_array_equal(kept, expected)
