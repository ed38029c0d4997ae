import pytest
import torch

from flowdet.flow import (
    LinearPath,
    couple,
    optimal_transport_coupling,
    ordered_coupling,
    random_coupling,
)

PATH = LinearPath()


def test_sample_by_hand():
    z_0, z_1 = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[4.0, 0.0]]])
    sample = PATH.sample(z_0, z_1, torch.tensor([0.25]))
    assert sample.z_t.tolist() == [[[1.0, 1.5]]]
    assert sample.velocity.tolist() == [[[4.0, -2.0]]]


def test_sample_reaches_both_ends_and_is_per_image():
    z_0, z_1 = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    z_t = PATH.sample(z_0, z_1, torch.tensor([0.0, 1.0])).z_t
    assert torch.equal(z_t[0], z_0[0])
    assert torch.equal(z_t[1], z_1[1])


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4)])
def test_target_of_the_true_velocity_is_the_target(shape):
    z_0, z_1 = torch.randn(shape), torch.randn(shape)
    sample = PATH.sample(z_0, z_1, torch.tensor([0.3, 0.9]))
    assert torch.allclose(PATH.target_of(sample.z_t, sample.velocity, sample.t), z_1, atol=1e-6)


def test_steps_follow_the_path_and_the_last_is_exact():
    z_0, z_1 = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    z = z_0
    for i in range(10):
        assert torch.allclose(z, PATH.sample(z_0, z_1, torch.full((2,), i / 10)).z_t, atol=1e-5)
        z = PATH.step(z, z_1, i / 10, (i + 1) / 10)
    assert torch.equal(z, z_1)


def test_a_step_near_the_end_does_not_explode():
    z = PATH.step(torch.zeros(1, 2), torch.ones(1, 2), 1 - 1e-7, 1.0)
    assert torch.equal(z, torch.ones(1, 2))


@pytest.mark.parametrize("t, t_next", [(0.5, 0.5), (0.5, 0.4), (0.9, 1.1), (1.0, 1.0)])
def test_impossible_steps_raise(t, t_next):
    with pytest.raises(ValueError, match="t < t_next <= 1"):
        PATH.step(torch.zeros(1, 2), torch.ones(1, 2), t, t_next)


def test_couplings_are_permutations():
    z_0, z_1 = torch.randn(5, 6, 4), torch.randn(5, 6, 4)
    for coupling in (ordered_coupling, random_coupling):
        index = coupling(z_0, z_1)
        assert torch.equal(index.sort(dim=1).values, torch.arange(6).expand(5, 6))
    assert torch.equal(couple(z_1, ordered_coupling(z_0, z_1)), z_1)
    torch.manual_seed(0)
    assert len({tuple(row.tolist()) for row in random_coupling(z_0, z_1)}) > 1


def test_optimal_transport_finds_the_nearest_targets():
    scipy_optimize = pytest.importorskip("scipy.optimize")

    def assign(costs):
        solved = [scipy_optimize.linear_sum_assignment(c.numpy())[1] for c in costs]
        return torch.stack([torch.from_numpy(columns) for columns in solved])

    z_1 = torch.randn(2, 5, 4)
    shuffled = torch.stack([torch.randperm(5) for _ in range(2)])
    z_0 = couple(z_1, shuffled) + 1e-3
    index = optimal_transport_coupling(assign)(z_0, z_1)
    assert torch.equal(index, shuffled)
