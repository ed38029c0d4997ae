"""No operation of the steps waits for the device: none copies a value to the host."""

from dataclasses import replace

import pytest
import torch

from tests.detection.box_transport.tiny import tiny_box_model
from tests.detection.host_copies import HostCopies
from tests.detection.tiny import batch, tiny_model, with_plan


def walk(model):
    """Returns the host copies in the steps, the box stability and the heads of a model."""
    with torch.no_grad():
        tokens = model.encode(batch())
        with HostCopies() as copies:
            refinement = model.refine(tokens)
            model.stability_factors(refinement)
            model.heads(refinement.z_1)
    return copies.names


@pytest.mark.parametrize("mode", ["single_step", "ensemble", "multi_step", "multi_step_ensemble"])
def test_flow_detector(mode):
    model = tiny_model(STABILITY_SAMPLES=2, NUM_STEPS=5).eval()
    assert walk(with_plan(model, mode=mode)) == []


def test_other_detectors():
    backprop = tiny_model(file="digits_backprop.yaml", STABILITY_SAMPLES=2).eval()
    assert walk(backprop) == []
    assert walk(tiny_box_model(STABILITY_SAMPLES=2).eval()) == []


def test_the_test_sees_host_copies():
    """Early exit must know on the host which images have converged."""
    model = tiny_model(NUM_STEPS=5).eval()
    model.settings = replace(model.settings, early_exit=0.5)
    assert "aten::equal" in walk(model)


def test_postprocessing_has_as_many_host_copies_for_any_batch():
    model = tiny_model().eval()
    names = []
    for inputs in (batch()[:1], batch() * 4):
        with torch.no_grad():
            z = model.refine(model.encode(inputs)).z_1
            with HostCopies() as copies:
                model.detections(z, inputs)
        names.append(copies.names)
    # detections above the threshold, those that NMS keeps, those that are shown, and their number
    # in each image
    expected = ["aten::nonzero", "torchvision::nms", "aten::nonzero", "tolist"]
    assert names == [expected, expected]
