"""Paths from noise boxes to object boxes: schedule, states and sampling steps."""

import math
from itertools import pairwise

import pytest
import torch

from flowdet.detection.box_transport.paths import (
    DiffusionPath,
    FlowPath,
    build_path,
    cosine_alpha_bars,
)


def cosine(n, total=1000):
    return math.cos((n / total + 0.008) / 1.008 * math.pi / 2) ** 2


def random_boxes(seed, shape=(2, 5, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_schedule_at_known_steps():
    alpha_bars = cosine_alpha_bars(1000)
    assert len(alpha_bars) == 1001 and alpha_bars[0] == 1
    for n in (1, 250, 500, 999):
        assert alpha_bars[n].item() == pytest.approx(cosine(n) / cosine(0), rel=1e-9)
    # half of the variance is noise in the middle
    assert alpha_bars[500].item() == pytest.approx(0.4938, abs=1e-4)
    # the last step keeps 0.1 % of the variance, where the cosine would be 0
    assert alpha_bars[1000] == pytest.approx(0.001 * alpha_bars[999].item(), rel=1e-9)
    assert (alpha_bars.diff() < 0).all() and alpha_bars[-1] > 0


def test_diffusion_states_have_the_mean_and_variance_of_the_schedule():
    path, boxes = DiffusionPath(), torch.full((1, 1, 4), 1.5)
    noise = random_boxes(0, (1, 100_000, 4))
    for n in (100, 500, 900):
        alpha_bar = cosine(n) / cosine(0)
        state = path.state(noise, boxes, torch.tensor([1 - n / 1000]))
        assert state.mean().item() == pytest.approx(1.5 * math.sqrt(alpha_bar), abs=0.01)
        assert state.var().item() == pytest.approx(1 - alpha_bar, abs=0.01)


@pytest.mark.parametrize("path", [DiffusionPath(), FlowPath()], ids=["diffusion", "flow"])
def test_a_path_starts_at_the_noise_and_ends_at_the_boxes(path):
    noise, boxes = random_boxes(0), random_boxes(1)
    torch.testing.assert_close(path.state(noise, boxes, torch.ones(2)), boxes, atol=1e-6, rtol=0)
    start = path.state(noise, boxes, torch.zeros(2))
    # the cosine schedule keeps a small part of the boxes: sqrt(alpha_bar) is below 1e-4
    torch.testing.assert_close(start, noise, atol=1e-3, rtol=0)


def test_every_image_has_the_state_of_its_own_time():
    noise, boxes = random_boxes(0), random_boxes(1)
    for path in (DiffusionPath(), FlowPath()):
        both = path.state(noise, boxes, torch.tensor([0.2, 0.7]))
        for i, t in enumerate((0.2, 0.7)):
            single = path.state(noise[i : i + 1], boxes[i : i + 1], torch.tensor([t]))
            torch.testing.assert_close(both[i : i + 1], single, atol=1e-6, rtol=0)


def test_diffusion_training_uses_every_step_except_the_clean_one():
    path = DiffusionPath(num_timesteps=4)
    times = path.training_times(1000, torch.device("cpu"))
    assert sorted(set(times.tolist())) == [0, 0.25, 0.5, 0.75]


def test_flow_training_draws_times_uniformly():
    times = FlowPath().training_times(10_000, torch.device("cpu"))
    assert 0 <= times.min() < 0.01 and 0.99 < times.max() < 1
    assert times.mean().item() == pytest.approx(0.5, abs=0.02)
    assert times.var().item() == pytest.approx(1 / 12, abs=0.005)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_ddim_with_perfect_predictions_recovers_the_boxes(num_steps, eta):
    path, boxes, state = DiffusionPath(eta=eta), random_boxes(1), random_boxes(0)
    for i, (t, t_next) in enumerate(pairwise(k / num_steps for k in range(num_steps + 1))):
        state = path.step(state, boxes, t, t_next, random_boxes(2 + i))
    torch.testing.assert_close(state, boxes, atol=1e-6, rtol=0)


def test_a_deterministic_ddim_step_stays_on_the_path():
    path, noise, boxes = DiffusionPath(eta=0.0), random_boxes(0), random_boxes(1)
    state = path.state(noise, boxes, torch.full((2,), 0.3))
    following = path.step(state, boxes, 0.3, 0.6, random_boxes(2))
    expected = path.state(noise, boxes, torch.full((2,), 0.6))
    torch.testing.assert_close(following, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_ddim_step_keeps_the_distribution_of_the_path(eta):
    path, boxes = DiffusionPath(eta=eta), torch.full((1, 100_000, 4), 1.5)
    state = path.state(random_boxes(0, boxes.shape), boxes, torch.tensor([0.25]))
    following = path.step(state, boxes, 0.25, 0.5, random_boxes(1, boxes.shape))
    alpha_bar = cosine(500) / cosine(0)
    assert following.mean().item() == pytest.approx(1.5 * math.sqrt(alpha_bar), abs=0.01)
    assert following.var().item() == pytest.approx(1 - alpha_bar, abs=0.01)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_noise_of_a_ddim_step_grows_with_eta(eta):
    """Its standard deviation is eta times that of DDPM's posterior."""
    zeros, ones = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
    actual = DiffusionPath(eta=eta).step(zeros, zeros, 0.25, 0.5, ones)[0, 0, 0].item()
    before, after = (cosine(n) / cosine(0) for n in (750, 500))
    posterior = (1 - after) / (1 - before) * (1 - before / after)
    assert actual == pytest.approx(eta * math.sqrt(posterior), abs=1e-6)


def test_a_ddim_step_by_hand():
    """From n = 2 to n = 1 of 2 steps with eta 1: this is DDPM's posterior."""
    path = DiffusionPath(num_timesteps=2, eta=1.0)
    after = cosine(1, 2) / cosine(0, 2)
    before = after * 0.001
    state, box, noise = (torch.full((1, 1, 4), x) for x in (0.4, -1.2, 0.7))
    alpha, beta = before / after, 1 - before / after
    mean = math.sqrt(after) * beta / (1 - before) * -1.2
    mean += math.sqrt(alpha) * (1 - after) / (1 - before) * 0.4
    deviation = math.sqrt((1 - after) / (1 - before) * beta)
    actual = path.step(state, box, 0.0, 0.5, noise)
    assert actual[0, 0, 0].item() == pytest.approx(mean + deviation * 0.7, abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_euler_with_a_perfect_velocity_recovers_the_boxes(num_steps):
    path, noise, boxes = FlowPath(), random_boxes(0), random_boxes(1)
    state = noise
    for t, t_next in pairwise(k / num_steps for k in range(num_steps + 1)):
        state = path.step(state, boxes, t, t_next, random_boxes(2))
        expected = noise + t_next * (boxes - noise)
        torch.testing.assert_close(state, expected, atol=1e-5, rtol=0)
    assert torch.equal(state, boxes)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("straight", 1000, 1.0), "PATH 'straight': use one of .*diffusion.*flow"),
        (("diffusion", 0, 1.0), "NUM_TIMESTEPS must be at least 1, got 0"),
        (("diffusion", 1000, 1.5), r"DDIM_ETA must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_path(*arguments)


def test_a_diffusion_path_has_no_more_steps_than_time_steps():
    path = build_path("diffusion", 10, 1.0)
    path.check_steps(10)
    with pytest.raises(ValueError, match="NUM_STEPS is 11, but must be at most NUM_TIMESTEPS = 10"):
        path.check_steps(11)
