import pytest
import torch

from flowdet.flow import HalfPrecisionScale, block_local_losses
from tests.flow.toy import DIM, mlps


class Setup:
    """An ensemble, a shared head and a shared backbone, in float64."""

    def __init__(self, num_blocks=3, dtype=torch.float64):
        self.ensemble = mlps(num_blocks, dtype)
        self.head = torch.nn.Linear(DIM, 2, dtype=dtype)
        self.backbone = torch.nn.Linear(6, 5, dtype=dtype)
        self.images = torch.randn(4, 6, dtype=dtype)
        self.z_0 = torch.randn(4, DIM, dtype=dtype)
        self.parameters = [*self.ensemble.parameters(), *self.head.parameters()]
        self.everything = [*self.parameters, *self.backbone.parameters()]

    def features(self):
        return self.backbone(self.images)

    def block_loss(self, block, features):
        state = self.ensemble.initial_state(self.z_0)
        z1_hat = self.ensemble.predict(block, state, features[0]).z1_hat
        return {"a": self.head(z1_hat).square().mean(), "b": z1_hat.abs().mean()}

    def local(self, blocks=(0, 1, 2), **kwargs):
        return block_local_losses(
            self.block_loss, list(blocks), [self.features()], self.parameters, **kwargs
        )

    def joint(self, blocks=(0, 1, 2), names=("a", "b")):
        features = self.features()
        losses = [self.block_loss(k, [features]) for k in blocks]
        return {name: sum(x[name] for x in losses) for name in names}

    def gradients(self, losses, factor=1.0):
        for p in self.everything:
            p.grad = None
        (factor * sum(losses.values())).backward()
        return [None if p.grad is None else p.grad.clone() for p in self.everything]


def assert_equal(one, other, **kwargs):
    assert [g is None for g in one] == [g is None for g in other]
    for a, b in zip(one, other, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, **kwargs)


def test_losses_and_gradients_equal_the_joint_graph():
    setup = Setup()
    local, joint = setup.local(), setup.joint()
    for name in joint:
        torch.testing.assert_close(local[name], joint[name])
    assert_equal(setup.gradients(local), setup.gradients(joint), rtol=0, atol=1e-15)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_inputs_that_share_one_gradient_tensor(count):
    # the gradient of a sum is the same tensor for both inputs, and is expanded from one number
    weight, other = (torch.nn.Parameter(torch.randn(3)) for _ in range(2))
    features = [torch.randn(3, requires_grad=True) for _ in range(2)]

    def block_loss(block, inputs):
        return {"a": (inputs[0] + inputs[1]).sum() + (weight + other).sum()}

    losses = block_local_losses(block_loss, list(range(count)), features, [weight, other])
    (2 * losses["a"]).backward()
    for x in (weight, other, *features):
        assert x.grad.tolist() == [2.0 * count] * 3


def test_gradients_scale_with_the_incoming_gradient():
    setup = Setup()
    once, thrice = setup.gradients(setup.local()), setup.gradients(setup.local(), 3.0)
    assert_equal([3 * g for g in once], thrice)


def test_block_k_gets_no_gradient_from_block_j():
    setup = Setup()
    gradients = setup.gradients(setup.local(blocks=[1]))
    by_parameter = dict(zip(setup.everything, gradients, strict=True))
    for k, block in enumerate(setup.ensemble.blocks):
        for p in block.parameters():
            assert (by_parameter[p] is None) == (k != 1)
    for p in [*setup.head.parameters(), *setup.backbone.parameters()]:
        assert by_parameter[p] is not None


def test_frozen_parameters_get_no_gradient():
    setup = Setup()
    setup.backbone.requires_grad_(False)
    setup.head.weight.requires_grad_(False)
    gradients = dict(zip(setup.everything, setup.gradients(setup.local()), strict=True))
    assert gradients[setup.head.weight] is None
    assert gradients[setup.backbone.weight] is None
    assert gradients[setup.head.bias] is not None


def saved_bytes(num_blocks, joint):
    """The peak of the bytes held by tensors that are saved for the backward pass."""
    setup = Setup(num_blocks)
    alive, peak = 0, 0

    class Box:
        def __init__(self, tensor):
            nonlocal alive, peak
            self.tensor = tensor
            alive += tensor.numel() * tensor.element_size()
            peak = max(peak, alive)

        def __del__(self):
            nonlocal alive
            alive -= self.tensor.numel() * self.tensor.element_size()

    with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
        losses = (setup.joint if joint else setup.local)(range(num_blocks))
        sum(losses.values()).backward()
    return peak


def test_activation_memory_does_not_grow_with_the_number_of_blocks():
    assert saved_bytes(16, joint=False) == saved_bytes(2, joint=False)
    assert saved_bytes(16, joint=True) > 4 * saved_bytes(2, joint=True)


def test_unequal_weights_raise():
    losses = Setup().local()
    with pytest.raises(RuntimeError, match="equal weight"):
        (losses["a"] + 2 * losses["b"]).backward()
    losses = Setup().local()
    with pytest.raises(RuntimeError, match="equal weight"):
        losses["a"].backward()


def test_second_backward_and_double_backward_raise():
    setup = Setup()
    total = sum(setup.local().values())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        total.backward()
    total = sum(setup.local().values())
    (gradient,) = torch.autograd.grad(total, [setup.head.weight], create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_without_gradient_the_losses_are_the_same():
    setup = Setup()
    with torch.no_grad():
        losses = setup.local()
    assert not losses["a"].requires_grad
    torch.testing.assert_close(losses["a"], setup.joint()["a"].detach())


def test_different_names_raise():
    with pytest.raises(ValueError, match="different losses"):
        block_local_losses(
            lambda k, f: {f"loss{k}": f[0].sum()}, [0, 1], [torch.ones(2, requires_grad=True)], []
        )


def test_no_block_raises():
    with pytest.raises(ValueError, match="no block"):
        block_local_losses(lambda k, f: {}, [], [], [])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    setup = Setup(dtype=torch.float32)
    reference = setup.gradients(setup.joint())
    scale = HalfPrecisionScale(2.0**8) if dtype == torch.float16 else None
    with torch.autocast("cpu", dtype):
        losses = setup.local(half_scale=scale)
    gradients = setup.gradients(losses)
    for gradient, expected in zip(gradients, reference, strict=True):
        assert gradient.dtype == torch.float32 and expected.norm() > 1e-3
        # half precision has 8 to 11 bits: the gradients agree to some percent of their norm
        assert (gradient - expected).norm() < 0.05 * expected.norm()


def test_half_scale_saves_small_gradients_and_backs_off():
    setup = Setup(dtype=torch.float32)
    setup.head.weight.data *= 1e-5
    setup.block_loss = lambda k, f, whole=setup.block_loss: {"a": 1e-4 * whole(k, f)["b"]}
    with torch.autocast("cpu", torch.float16):
        lost = setup.gradients(setup.local())
        kept = setup.gradients(setup.local(half_scale=HalfPrecisionScale(2.0**12)))
    zeros = [sum(int((g == 0).sum()) for g in x if g is not None) for x in (lost, kept)]
    assert zeros[0] > zeros[1]

    scale = HalfPrecisionScale(8.0, growth_interval=2)
    scale.update([torch.tensor([float("inf")]), None])
    assert scale.value == 4
    for _ in range(2):
        scale.update([torch.ones(1)])
    assert scale.value == 8


def test_half_features_keep_small_gradients_under_a_scaled_backward():
    """A gradient scaler scales the loss when `backward` is called."""
    setup = Setup(dtype=torch.float32)
    setup.block_loss = lambda k, f, whole=setup.block_loss: {"a": 1e-6 * whole(k, f)["b"]}
    reference = setup.gradients(setup.joint(names=["a"]))

    def half_features():
        with torch.autocast("cpu", torch.float16):
            return setup.backbone(setup.images)

    setup.features = half_features
    with torch.autocast("cpu", torch.float16):
        losses = setup.local(half_scale=HalfPrecisionScale())
    gradients = setup.gradients(losses, factor=2.0**16)
    at = [i for i, p in enumerate(setup.everything) if p is setup.backbone.weight][0]
    gradient, expected = gradients[at] / 2.0**16, reference[at]
    assert (gradient - expected).norm() < 0.1 * expected.norm()
