"""No operation of the steps waits for the device: none copies a value to the host."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.detection.box_transport.tiny import tiny_box_model
from tests.detection.tiny import batch, tiny_model, with_plan

# operators whose result, or its shape, the host must know
WAITING = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_dim",
    "torchvision::nms",
}


class HostCopies(TorchDispatchMode):
    """Records the operators that copy a value from the device to the host."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.patch = pytest.MonkeyPatch()

    def __enter__(self):
        # on the CPU these are no operators
        for name in ("cpu", "numpy", "tolist"):
            method = self._recorded(name, getattr(torch.Tensor, name))
            self.patch.setattr(torch.Tensor, name, method)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.patch.undo()

    def _recorded(self, name, method):
        def call(tensor, *args, **kwargs):
            self.names.append(name)
            return method(tensor, *args, **kwargs)

        return call

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        # a mask as an index is a `nonzero`
        indices = args[1] if name in ("aten::index", "aten::index_put_") else ()
        if name in WAITING or any(x is not None and x.dtype == torch.bool for x in indices):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


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
    counts = []
    for inputs in (batch()[:1], batch() * 4):
        with torch.no_grad():
            z = model.refine(model.encode(inputs)).z_1
            with HostCopies() as copies:
                model.detections(z, inputs)
        counts.append(len(copies.names))
    assert counts[0] == counts[1] > 0
