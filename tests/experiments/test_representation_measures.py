import logging
import math

import pytest
import torch

from flowdet.experiments import representation_measures
from flowdet.experiments.representation_measures import (
    cka_matrix,
    feature_spread,
    intrinsic_dimension,
    linear_cka,
    probe_accuracy,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows, columns, centered=False, seed=0):
    """Orthonormal columns [rows, columns]; with `centered` the mean of each is 0."""
    x = noise(rows, columns, seed=seed).double()
    return torch.linalg.qr(x - x.mean(dim=0) if centered else x).Q


def with_variances(*variances):
    """40 vectors with 20 channels, and these variances along their principal axes."""
    scale = torch.tensor(variances).double().sqrt()
    axes = orthonormal(20, len(variances), seed=1)
    x = orthonormal(40, len(variances), centered=True) * scale @ axes.T
    return (x + noise(20)).float()


@pytest.mark.parametrize("rank", range(1, 10))
def test_dimension_of_equal_variances_is_their_rank(rank):
    assert intrinsic_dimension(with_variances(*[1.0] * rank)) == rank


@pytest.mark.parametrize("rank", [1, 3, 15])
def test_dimension_for_the_whole_variance_is_the_rank(rank):
    x = noise(30, rank) @ noise(rank, 20, seed=1)
    assert intrinsic_dimension(x.double(), share=1.0) == rank


def test_dimension_by_hand():
    # 80 % and 90 % of the variance; the second is reached exactly
    assert intrinsic_dimension(with_variances(8.0, 1.0, 1.0)) == 2
    assert intrinsic_dimension(with_variances(8.0, 0.9, 1.1)) == 2
    assert intrinsic_dimension(with_variances(8.0, 0.9, 0.9, 0.2)) == 3
    assert intrinsic_dimension(with_variances(*[1.0] * 10)) == 9


def test_dimension_does_not_depend_on_scale_and_rotation():
    x = with_variances(4.0, 3.0, 2.0, 2.0)
    assert intrinsic_dimension(x) == intrinsic_dimension(1e4 * x) == 4
    assert intrinsic_dimension(1e-4 * x.double() @ orthonormal(20, 20)) == 4


def test_constant_features_have_no_dimension():
    x = noise(20).expand(40, -1)
    assert intrinsic_dimension(x) == 0
    # rounding errors are not counted
    assert intrinsic_dimension(x * (1 + 1e-7 * noise(40, 20, seed=1))) == 0
    assert intrinsic_dimension(x * (1 + 1e-3 * noise(40, 20, seed=1))) > 5


def test_spread_by_hand():
    assert feature_spread(torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 6.0]])) == pytest.approx(0)
    assert feature_spread(torch.diag(torch.tensor([1.0, 2.0, 3.0]))) == pytest.approx(1)
    assert feature_spread(torch.tensor([[1.0, 1.0], [-2.0, -2.0]])) == pytest.approx(2)
    # the cosines of the three pairs are 0, 1 / sqrt(2) and 1 / sqrt(2)
    x = torch.tensor([[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    assert feature_spread(x) == pytest.approx(1 - math.sqrt(2) / 3)


def test_vectors_without_a_direction_have_no_spread():
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    assert feature_spread(x) == pytest.approx(1)
    assert math.isnan(feature_spread(x[:2]))


def test_cka_of_a_rotation_and_a_scale_is_one():
    x = noise(50, 20)
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 30 * x.double() @ orthonormal(20, 20) + 5) == pytest.approx(1)
    # more channels than images
    wide = noise(20, 50)
    assert linear_cka(wide, 0.1 * wide.double() @ orthonormal(50, 50)) == pytest.approx(1)


@pytest.mark.parametrize("channels", [10, 400])
def test_cka_of_independent_features_is_near_zero(channels):
    x, y = noise(200, channels), noise(200, channels, seed=1)
    assert abs(linear_cka(x, y)) < 0.05
    assert 0.3 < linear_cka(x, x + y) < 0.9


def test_cka_equals_the_definition_with_kernels():
    def hsic(k, n):
        """Eq. 5 of Song et al. 2012 for two kernels with diagonals that are 0."""
        first, second = k
        one = torch.ones(n, dtype=torch.float64)
        return (
            (first * second).sum()
            + first.sum() * second.sum() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ first @ second @ one)
        )

    x, y = noise(8, 3).double() + 1, noise(8, 5, seed=1).double() - 2
    kernels = [(z @ z.T).fill_diagonal_(0) for z in (x, y)]
    xy, xx, yy = (hsic((kernels[i], kernels[j]), 8) for i, j in ((0, 1), (0, 0), (1, 1)))
    assert linear_cka(x, y) == pytest.approx(float(xy / (xx * yy).sqrt()))


def test_cka_matrix():
    x, y = noise(30, 4), noise(30, 6, seed=1)
    matrix = cka_matrix([x, torch.ones(30, 3), y])
    assert torch.equal(matrix.isnan(), torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]]).bool())
    assert matrix[0, 2] == matrix[2, 0] == pytest.approx(linear_cka(x, y))
    assert matrix[0, 0] == pytest.approx(1) and matrix[2, 2] == pytest.approx(1)


def clusters(images, seed):
    """Features with 3 channels of very different scale, and the labels of their 3 clusters."""
    labels = torch.arange(images) % 3
    x = torch.eye(3)[labels] + 0.05 * noise(images, 3, seed=seed)
    return x * torch.tensor([1e-3, 1.0, 1e3]) + 7, labels


def test_probe_of_separable_features_is_always_right():
    assert probe_accuracy(*clusters(60, 0), *clusters(30, 1)) == 100


def test_probe_of_noise_is_at_chance():
    accuracy = probe_accuracy(
        *(noise(300, 5), torch.arange(300) % 3), *(noise(300, 5, seed=1), torch.arange(300) % 3)
    )
    assert 20 < accuracy < 47


def test_probe_needs_two_classes():
    x, labels = clusters(6, 0)
    with pytest.raises(ValueError, match="all 6 training images .* have class 0: give more"):
        probe_accuracy(x, torch.zeros_like(labels), x, labels)


def test_probe_that_does_not_converge_is_reported(monkeypatch, caplog):
    monkeypatch.setattr(representation_measures, "_PROBE_ITERATIONS", 1)
    with caplog.at_level(logging.WARNING):
        probe_accuracy(*clusters(60, 0), *clusters(30, 1), name="the probe of layer2")
    assert "the probe of layer2 did not converge in 1 iterations" in caplog.text
