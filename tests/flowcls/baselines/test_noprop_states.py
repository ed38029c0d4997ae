"""NoProp: the states and times that networks and read-out get, in training and at inference."""

import math

import pytest
import torch

from flowdet.flowcls.baselines.noprop import build_embedding
from flowdet.flowcls.baselines.noprop_processes import (
    ContinuousTime,
    DiscreteTime,
    FlowMatching,
)
from tests.flowcls.tiny import images, tiny_cfg, tiny_model

TARGET = torch.tensor([[3.0, 0.0], [0.0, -2.0]])
# abar is 0.36 at the start and 0.64 at the end
LOG_SNR = (math.log(9 / 16), math.log(16 / 9))


class Recorder:
    """Keeps the states and times that a network gets; its output is 0 or a constant."""

    def __init__(self, output=0.0):
        self.output = output
        self.blocks, self.states, self.times = [], [], []

    def __call__(self, block, z, t):
        self.blocks.append(block)
        self.states.append(z)
        self.times.append(t.tolist())
        return self.output + torch.zeros_like(z)


def noise_of_ones(monkeypatch):
    module = "flowdet.flowcls.baselines.noprop_processes"
    monkeypatch.setattr(f"{module}.training_noise", lambda shape, scale, _: torch.ones(shape))


def times(monkeypatch, *values):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.tensor(values))


def test_block_t_learns_from_the_state_before_it(monkeypatch):
    """Block t gets z_{t-1}: block 1 pure noise. With noise 1, z = sqrt(abar) u + sqrt(1 - abar)."""
    noise_of_ones(monkeypatch)
    process, network = DiscreteTime([0.0, 0.36, 0.64]), Recorder()
    for block in (0, 1):
        process.block_loss(block, network, TARGET, torch.sum)
    assert network.blocks == [0, 1]
    torch.testing.assert_close(network.states[0], torch.ones(2, 2))
    torch.testing.assert_close(network.states[1], 0.6 * TARGET + 0.8)


@pytest.mark.parametrize(
    "process",
    [DiscreteTime([0.0, 0.36, 0.64]), ContinuousTime(LOG_SNR, 5)],
    ids=["dt", "ct"],
)
def test_read_out_learns_from_the_noisy_last_state(process, monkeypatch):
    """abar is 0.64 at the end of both: z = 0.8 u + 0.6."""
    noise_of_ones(monkeypatch)
    seen = []
    process.shared_losses(TARGET, lambda z: seen.append(z) or z.sum())
    (z,) = seen
    torch.testing.assert_close(z, 0.8 * TARGET + 0.6)


def test_prior_loss_has_the_noise_of_the_first_state():
    """abar is 0.36: KL(N(0.6 u, 0.64) || N(0, 1)), summed over 2 dimensions; |u|^2 is 9 and 4."""
    losses = ContinuousTime(LOG_SNR, 5).shared_losses(TARGET, torch.sum)
    expected = (0.36 * (9 + 4) / 2 + 2 * (0.64 - 1 - math.log(0.64))) / 2
    assert losses["loss_prior"].item() == pytest.approx(expected, rel=1e-4)


def test_continuous_training_gets_the_noise_level_of_its_time(monkeypatch):
    """abar is 0.36 at t = 0 and 0.64 at t = 1."""
    noise_of_ones(monkeypatch)
    times(monkeypatch, 0.0, 1.0)
    network = Recorder()
    process = ContinuousTime(LOG_SNR, 5)
    process.block_loss(0, network, TARGET, torch.sum)
    expected = torch.stack([0.6 * TARGET[0] + 0.8, 0.8 * TARGET[1] + 0.6])
    torch.testing.assert_close(network.states[0], expected)
    assert network.times == [[0.0, 1.0]]


def test_continuous_inference_gets_the_time_of_its_noise_level():
    """With uhat = u, a state at t is sqrt(abar(t)) u + sqrt(1 - abar(t)) noise, as in training."""
    process, noise = ContinuousTime(LOG_SNR, 4), torch.ones(1, 2)
    u = torch.tensor([[3.0, 0.0]])
    network = Recorder(u)
    process.states(network, (0.6 * u + 0.8 * noise)[:, None])
    assert network.times == [[0.0], [0.25], [0.5], [0.75]]
    for z, t in zip(network.states, network.times, strict=True):
        alpha_bar = process.alpha_bar(torch.tensor(t))
        torch.testing.assert_close(z, alpha_bar.sqrt() * u + (1 - alpha_bar).sqrt() * noise)
    # more signal and less noise at a later time
    distances = [(z - u).norm().item() for z in network.states]
    assert distances == sorted(distances, reverse=True)


def test_flow_matching_training_gets_the_state_of_its_time(monkeypatch):
    """z_t = (1 - t) z_0 + t u with z_0 = 1."""
    noise_of_ones(monkeypatch)
    times(monkeypatch, 0.25, 0.75)
    network = Recorder()
    FlowMatching(4).block_loss(0, network, TARGET, torch.sum)
    expected = torch.stack([0.75 + 0.25 * TARGET[0], 0.25 + 0.75 * TARGET[1]])
    torch.testing.assert_close(network.states[0], expected)
    assert network.times == [[0.25, 0.75]]


def test_flow_matching_inference_follows_the_states():
    """dz/dt = z in two Euler steps, from 1."""
    states = FlowMatching(2).states(lambda block, z, t: z, torch.ones(1, 1, 1))
    assert [z.item() for z in states] == [1.5, 2.25]


def inputs_of_heads(model):
    """The features, states and times that every head gets from now on, by block."""
    inputs = [[] for _ in model.heads]
    for head, seen in zip(model.heads, inputs, strict=True):
        head.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args))
    return inputs


def test_every_block_gets_the_features_of_its_own_backbone():
    """In training and at inference, where it also gets the state of the block before it."""
    model = tiny_model("baselines/digits_noprop_dt_cnn", "MODEL.NOPROP.NUM_BLOCKS", 3).eval()
    pixels, labels = model.images_of(images()), model.labels_of(images())
    outputs = [backbone(pixels) for backbone in model.backbone]
    features = [model.features(x) for x in outputs]
    inputs = inputs_of_heads(model)
    states = [model.noise[:, 0].expand(4, -1), *model.states(outputs)]
    for block in range(3):
        model.block_loss(block, pixels, labels, torch.sum)
        at_inference, in_training = inputs[block]
        torch.testing.assert_close(at_inference[0], features[block])
        torch.testing.assert_close(at_inference[1], states[block])
        torch.testing.assert_close(in_training[0], features[block])


@pytest.mark.parametrize("variant", ["ct", "fm"])
def test_the_output_depends_on_time_and_state(variant):
    model = tiny_model(f"baselines/digits_noprop_{variant}_cnn", "MODEL.NOPROP.NUM_STEPS", 4).eval()
    outputs = [model.backbone[0](model.images_of(images(2)))]
    (inputs,) = inputs_of_heads(model)
    states = [model.noise[:, 0].expand(2, -1), *model.states(outputs)]
    for step, (_, z, t) in enumerate(inputs):
        assert torch.equal(z, states[step]) and t.tolist() == [step / 4] * 2
    features, z, t = inputs[0]
    predicted = model.predict(0, features, z, t)
    for other in (model.predict(0, features, z, t + 0.5), model.predict(0, features, z + 1, t)):
        assert (other - predicted).abs().max() > 1e-4


def test_one_hot_embeddings_and_their_read_out():
    embedding = build_embedding(tiny_cfg("baselines/digits_noprop_dt_cnn").MODEL.NOPROP, 4)
    assert torch.equal(embedding.targets(torch.tensor([2, 0])), torch.eye(4)[[2, 0]])
    z = torch.tensor([[0.1, -2.0, 3.0, 0.5]])
    assert torch.equal(embedding.logits(z), z)


def test_learned_embeddings_start_orthogonal_and_the_read_out_as_their_products():
    keys = ("MODEL.NOPROP.EMBEDDING", "learned", "MODEL.NOPROP.EMBEDDING_DIM", 6)
    embedding = build_embedding(tiny_cfg("baselines/digits_noprop_dt_cnn", *keys).MODEL.NOPROP, 4)
    u = embedding.targets(torch.arange(4))
    torch.testing.assert_close(u @ u.T, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(embedding.logits(2 * u), 2 * torch.eye(4), rtol=0, atol=1e-5)


def test_flow_matching_loss_has_no_weight(monkeypatch):
    """ETA is the weight of the variants dt and ct; the loss is that of the paper."""
    model = tiny_model("baselines/digits_noprop_fm_cnn").train()
    pixels, labels = model.images_of(images()), model.labels_of(images())
    noise_of_ones(monkeypatch)
    times(monkeypatch, 0.1, 0.2, 0.3, 0.4)
    (inputs,) = inputs_of_heads(model)
    loss = model.block_loss(0, pixels, labels, torch.sum)["loss_denoise"]
    error = model.predict(0, *inputs[0]) - (model.embedding.targets(labels) - 1)
    assert loss.item() == pytest.approx(error.square().sum(dim=1).mean().item(), rel=1e-4)
