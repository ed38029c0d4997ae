"""Faster R-CNN and FCOS: detectron2's losses and detections on flowdet's backbone and neck."""

import math

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import ImageList
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn
from torch.testing import assert_close

from flowdet.engine import build_optimizer
from tests.detection.peers.tiny import PEERS, peer_cfg, tiny_peer
from tests.detection.tiny import batch, record, tiny_cfg
from tests.inference.comparison import assert_same_detections

CONFIGS = ("peers/voc_faster_rcnn_r18_frozen.yaml", "peers/voc_fcos_r18_frozen.yaml")
PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}


@pytest.fixture(params=PEERS)
def name(request):
    return request.param


class BackboneAndNeck(nn.Module):
    """The backbone and neck of a detector, in the form of a backbone of detectron2."""

    size_divisibility, padding_constraints = 0, {}

    def __init__(self, model):
        super().__init__()
        self.model = model

    def output_shape(self):
        return self.model.fcos.backbone.output_shape()

    def forward(self, images):
        sizes = [tuple(image.shape[-2:]) for image in images]
        return self.model.feature_maps(ImageList(images, sizes))


def detectron2_model(model):
    """The detector as detectron2 builds it, with the heads of `model`."""
    backbone = BackboneAndNeck(model)
    if hasattr(model, "roi_heads"):
        heads = model.proposal_generator, model.roi_heads
        return GeneralizedRCNN(
            backbone=backbone, proposal_generator=heads[0], roi_heads=heads[1], **PIXELS
        )
    return FCOS(
        backbone=backbone,
        head=model.fcos.head,
        num_classes=3,
        test_score_thresh=0.0,
        test_nms_thresh=0.5,
        max_detections_per_image=20,
        **PIXELS,
    )


def test_losses_are_those_of_detectron2(name):
    model = tiny_peer(name).train()
    expected_model = detectron2_model(model).train()
    seed_all_rng(1)
    losses = model(batch())
    seed_all_rng(1)
    with EventStorage():
        expected = expected_model(batch())
    assert losses.keys() == expected.keys() and len(losses) in (3, 4)
    for key, loss in losses.items():
        assert_close(loss, expected[key], rtol=1e-5, atol=1e-6, msg=key)


def test_detections_are_those_of_detectron2(name):
    model = tiny_peer(name).eval()
    inputs = [{**x, "height": 32, "width": 128} for x in batch()]
    for result, expected in zip(model(inputs), detectron2_model(model).eval()(inputs), strict=True):
        assert result["instances"].image_size == (32, 128) and len(result["instances"])
        assert_same_detections(result["instances"], expected["instances"])


def test_a_training_step_lowers_the_loss_and_reaches_every_part(name):
    model = tiny_peer(name).train()
    optimizer = build_optimizer(peer_cfg(name, {"SOLVER.BASE_LR": 1e-3}), model)

    def total():
        seed_all_rng(0)
        if name == "FCOSDetector":
            # a moving average, which differs from call to call
            model.fcos.loss_normalizer.fill_(20.0)
        return sum(model(batch()).values())

    first = total()
    first.backward()
    assert all(p.grad is not None for p in model.parameters())
    for part in ("backbone", "neck"):
        assert any(p.grad.abs().sum() > 0 for p in model.get_submodule(part).parameters())
    optimizer.step()
    assert total() < first


def test_batches_of_images_without_objects_train(name):
    model = tiny_peer(name).train()
    for inputs in ([record(seed=5), record(seed=6)], [batch()[0], record(seed=5)]):
        model.zero_grad(set_to_none=True)
        losses = model(inputs)
        sum(losses.values()).backward()
        assert all(x.isfinite() for x in losses.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_objects_without_area_are_left_out(name):
    model = tiny_peer(name).train()
    sizes = [(4, 4, 40, 30), (9, 9, 9, 25), (5, 5, 5, 5)]
    for count in (2, 3):
        objects = model._objects([record([(0, box) for box in sizes[:count]])])
        assert [x.gt_boxes.tensor.tolist() for x in objects] == [[[4, 4, 40, 30]]]


def test_results_do_not_depend_on_the_batch(name):
    model = tiny_peer(name).eval()
    sizes = [(64, 64), (48, 80), (64, 64), (9, 7), (130, 50)]
    inputs = [record(size=size, seed=i) for i, size in enumerate(sizes)]
    for x, result in zip(inputs, model(inputs), strict=True):
        alone = model([x])[0]["instances"]
        # the boxes of an untrained FCOS are empty in the smallest image
        assert len(alone) or len(x["image"][0]) == 9
        assert alone.scores.tolist() == sorted(alone.scores.tolist(), reverse=True)
        assert alone.image_size == x["image"].shape[1:]
        assert_same_detections(result["instances"], alone)


def test_training_takes_images_of_different_sizes(name):
    model = tiny_peer(name).train()
    box = (2, 2, 30, 30)
    losses = model([record([(0, box)], (64, 40)), record([(1, box)], (33, 96), seed=1)])
    assert all(x.isfinite() for x in losses.values())


def test_no_detection_above_the_threshold(name):
    (result,) = tiny_peer(name, SCORE_THRESHOLD=1.0).eval()(batch()[:1])
    assert len(result["instances"]) == 0
    assert result["instances"].pred_boxes.tensor.shape == (0, 4)


def test_the_thresholds_and_the_number_of_detections_are_those_of_the_other_detectors(name):
    every = tiny_peer(name).eval()(batch())
    threshold = float(every[0]["instances"].scores[3])
    above = tiny_peer(name, SCORE_THRESHOLD=threshold).eval()(batch())
    assert len(above[0]["instances"]) == 3
    few = tiny_peer(name, {"TEST.DETECTIONS_PER_IMAGE": 2}).eval()(batch())
    assert len(few[0]["instances"]) == 2

    def count(nms_threshold):
        keys = {"TEST.DETECTIONS_PER_IMAGE": 500}
        model = tiny_peer(name, keys, NMS_THRESHOLD=nms_threshold).eval()
        if name == "FCOSDetector":
            # large boxes, which overlap
            nn.init.constant_(model.fcos.head.bbox_pred.bias, 2.0)
        return len(model(batch())[0]["instances"])

    assert count(1.0) > count(0.3)


@pytest.mark.parametrize("file", CONFIGS)
def test_cached_features_give_the_same_losses(file):
    def model(gib):
        torch.manual_seed(0)
        return build_model(tiny_cfg(file, FEATURE_CACHE_GIB=gib)).train()

    def losses(detector):
        seed_all_rng(0)
        return detector(batch())

    cached, plain, seen = model(0.1), model(0.0), []
    cached.backbone.register_forward_hook(lambda *call: seen.append(call))
    for _ in range(2):
        expected = losses(plain)
        for key, loss in losses(cached).items():
            # the cached features are rounded to float16
            assert_close(loss, expected[key], rtol=5e-3, atol=1e-3, msg=key)
    assert len(seen) == 1
    trained = {key.split(".")[0] for key, p in cached.named_parameters() if p.requires_grad}
    assert trained in ({"neck", "proposal_generator", "roi_heads"}, {"neck", "fcos"})


@pytest.mark.parametrize("names", [["res2", "res3"], ["res3", "res2"]])
def test_feature_maps_are_the_tokens_in_rows_and_columns(names):
    two = {"MODEL.RESNETS.OUT_FEATURES": ["res2", "res3"]}
    model = tiny_peer("FCOSDetector", two, IN_FEATURES=names).eval()
    images = model.preprocess([record(size=(32, 48))])
    maps, tokens = model.feature_maps(images), model.encode_images(images).tokens
    assert list(maps) == names
    assert {key: tuple(x.shape) for key, x in maps.items()} == {
        "res2": (1, 32, 8, 12),
        "res3": (1, 32, 4, 6),
    }
    width = maps[names[0]].shape[-1]
    assert torch.equal(maps[names[0]][0, :, 1, 2], tokens[0, width + 2])
    # small objects belong to the fine feature map, in whatever order the config has them
    assert model.fcos.head_in_features == ["res2", "res3"]
    assert model.fcos.anchor_generator.strides == [4, 8]
    assert len(model([record(size=(32, 48))])[0]["instances"])


def test_faster_rcnn_reads_several_feature_maps():
    names = ["res2", "res3"]
    keys = {
        "MODEL.RESNETS.OUT_FEATURES": names,
        "MODEL.RPN.IN_FEATURES": names,
        "MODEL.ROI_HEADS.IN_FEATURES": names,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[12, 16], [32, 48]],
    }
    model = tiny_peer("FasterRCNNDetector", keys, IN_FEATURES=names)
    assert all(x.isfinite() for x in model.train()(batch()).values())
    assert len(model.eval()(batch())[0]["instances"])


def test_a_label_outside_of_the_classes_is_an_error(name):
    model = tiny_peer(name).train()
    with pytest.raises(ValueError, match="label 3, but the model has classes 0 to 2"):
        model([record([(3, (2, 2, 30, 30))])])


def test_losses_that_are_not_finite_are_an_error(name):
    model = tiny_peer(name).train()
    with torch.no_grad():
        next(model.neck.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=f"losses of the {name} are not finite.*SOLVER.BASE_LR"):
        model(batch())
    # at inference there is nothing to report
    assert len(model.eval()(batch())[0]["instances"]) == 0


def test_wrong_keys_of_all_peers(name):
    with pytest.raises(ValueError, match="NUM_CLASSES must be at least 1"):
        tiny_peer(name, NUM_CLASSES=0)
    with pytest.raises(ValueError, match="SCORE_THRESHOLD is .*, but must be from 0 to 1"):
        tiny_peer(name, SCORE_THRESHOLD=1.5)
    with pytest.raises(ValueError, match="IN_FEATURES names.*res4.*does not have"):
        tiny_peer(name, IN_FEATURES=["res4"])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("ROI_HEADS.NUM_CLASSES", 7, "NUM_CLASSES is 7, but .*FLOW_DET.NUM_CLASSES, which is 3"),
        ("ROI_HEADS.SCORE_THRESH_TEST", 0.3, "SCORE_THRESH_TEST.*FLOW_DET.SCORE_THRESHOLD"),
        ("ROI_HEADS.NMS_THRESH_TEST", 0.7, "NMS_THRESH_TEST.*FLOW_DET.NMS_THRESHOLD"),
        ("ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.NAME StandardROIHeads"),
        ("ROI_BOX_HEAD.NAME", "", "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead"),
        ("RPN.IN_FEATURES", ["res4"], r"MODEL.RPN.IN_FEATURES names \['res4'\].*\['res3'\]"),
        ("ROI_HEADS.IN_FEATURES", ["p2"], "MODEL.ROI_HEADS.IN_FEATURES names"),
        ("ANCHOR_GENERATOR.SIZES", [[16], [32]], "MODEL.ANCHOR_GENERATOR.SIZES.*do not fit"),
        ("PROPOSAL_GENERATOR.MIN_SIZE", 500, "MIN_SIZE is 500, but must be below 96"),
        ("ROI_BOX_HEAD.NUM_FC", 0, "NUM_FC and NUM_CONV are 0.*NUM_FC 2"),
        ("ROI_BOX_HEAD.USE_FED_LOSS", True, "USE_FED_LOSS is True, but .*set it to False"),
        ("RPN.IOU_LABELS", [3, 0, 1], "MODEL.RPN and .* do not fit each other: assert all"),
        ("RPN.HEAD_NAME", "foo", "do not fit each other: No object named 'foo'"),
        ("MASK_ON", True, "MODEL.MASK_ON is True, but the datasets have only boxes"),
        ("PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "set it to RPN"),
    ],
)
def test_wrong_keys_of_faster_rcnn(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny_peer("FasterRCNNDetector", {f"MODEL.{key}": value})


def test_a_backbone_without_strides_is_an_error(name, monkeypatch):
    monkeypatch.setattr("flowdet.detection.neck.TokenNeck.__init__", neck_without_strides)
    with pytest.raises(ValueError, match="build_small_resnet_backbone has no stride of res3"):
        tiny_peer(name)


def neck_without_strides(self, *args):
    nn.Module.__init__(self)
    self.strides = [None]
