"""Records where a computation copies values from the device to the host."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
        self.patch.setattr(torch.Tensor, "to", self._to(torch.Tensor.to))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.patch.undo()

    def _recorded(self, name, method):
        def call(tensor, *args, **kwargs):
            self.names.append(name)
            return method(tensor, *args, **kwargs)

        return call

    def _to(self, method):
        def call(tensor, *args, **kwargs):
            # the device of the model has this name here too, but the code has it as a torch.device
            if "cpu" in args or kwargs.get("device") == "cpu":
                self.names.append("cpu")
            return method(tensor, *args, **kwargs)

        return call

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        # a mask as an index is a `nonzero`
        indices = args[1] if name in ("aten::index", "aten::index_put_") else ()
        if name in WAITING or any(x is not None and x.dtype == torch.bool for x in indices):
            self.names.append(name)
        return function(*args, **(kwargs or {}))
