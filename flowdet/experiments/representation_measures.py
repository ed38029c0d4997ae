"""Measures of a representation: dimension, spread, similarity, linear separability (5.5, Figure 5).

A representation is a matrix [N, C]: the pooled features of N images in one layer with C channels.
All measures are computed in float64.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

logger = logging.getLogger(__name__)

VARIANCE_SHARE = 0.9
# the estimator of CKA divides by N - 3
MIN_IMAGES = 4
_PROBE_ITERATIONS = 1000


def intrinsic_dimension(x: Tensor, share: float = VARIANCE_SHARE) -> int:
    """Counts the principal components that together have a share of the variance.

    It is at most min(C, N - 1), and 0 for features that differ only by rounding errors.

    Args:
        x: features [N, C].
        share: the share of the variance, in (0, 1].
    """
    variances = torch.linalg.svdvals(_centered(x)).square()
    total = variances.sum()
    if total <= _rounding_variance(x):
        return 0
    # the tolerance is for shares that are reached exactly, such as 9 of 10 equal variances
    return int((variances.cumsum(0) < (share - 1e-6) * total).sum()) + 1


def feature_spread(x: Tensor) -> float:
    """Computes the mean cosine distance, 1 - cos, over all pairs of different images.

    It is 0 for vectors of one direction and 1 for orthogonal vectors. Vectors that are 0 have no
    direction and are left out.

    Args:
        x: features [N, C].

    Returns:
        The mean distance, in [0, 2]; nan if fewer than two vectors are not 0.
    """
    x = x.double()
    units = F.normalize(x[x.any(dim=1)], dim=1)
    count = len(units)
    if count < 2:
        return math.nan
    # the cosines of all pairs sum to the square of the sum of all unit vectors
    pairs = units.sum(dim=0).square().sum() - count
    return float(1 - pairs / (count * (count - 1)))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Computes the linear CKA of two representations of the same images, see `cka_matrix`."""
    return float(cka_matrix([x, y])[0, 1])


def cka_matrix(representations: Sequence[Tensor]) -> Tensor:
    """Computes the linear CKA (centered kernel alignment) of every pair of representations.

    CKA is 1 for representations that differ by a rotation and a scale (Kornblith et al. 2019). Here
    it uses the unbiased estimator of HSIC (Song et al. 2012), so that it is near 0 for independent
    features, also if there are more channels than images, and can be slightly negative. The usual
    estimator is near C / (N + C) for independent features.

    Args:
        representations: L matrices [N, C_i] of the same N >= 4 images in the same order.

    Returns:
        float64 [L, L]. The values of a representation that is the same for all images are nan.
    """
    size = len(representations)
    hsic = torch.full((size, size), math.nan, dtype=torch.float64)
    for i, first in enumerate(representations):
        x = _centered(first)
        if x.square().sum() <= _rounding_variance(first):
            continue
        for j in range(i + 1):
            y = x if i == j else _centered(representations[j])
            hsic[i, j] = hsic[j, i] = _unbiased_hsic(x, y)
    scale = hsic.diagonal().sqrt()
    return hsic / (scale[:, None] * scale)


def _unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    """Computes the unbiased HSIC of linear kernels, up to a factor that depends only on N.

    This is eq. 5 of Song et al. 2012 for centered features [N, C], without the kernels [N, N].
    """
    n = len(x)
    x_squares, y_squares = x.square().sum(dim=1), y.square().sum(dim=1)
    return (
        (x.T @ y).square().sum()
        - n / (n - 2) * (x_squares @ y_squares)
        + x_squares.sum() * y_squares.sum() / ((n - 1) * (n - 2))
    )


def _centered(x: Tensor) -> Tensor:
    x = x.double()
    return x - x.mean(dim=0)


def _rounding_variance(x: Tensor) -> float:
    """Returns the largest sum of squares that rounding errors of float32 can cause in features."""
    return float(x.double().square().sum()) * 1e-12


def probe_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, name: str = "the probe"
) -> float:
    """Trains a linear probe (logistic regression, L2 penalty) and measures its test accuracy.

    Each channel is standardized with the mean and the standard deviation of the training features.

    Args:
        train, test: features [N, C] and [M, C].
        train_labels, test_labels: class indices, [N] and [M].
        name: what a warning calls the probe if its optimization does not converge.

    Returns:
        The top-1 accuracy in percent.

    Raises:
        ValueError: all training images have the same class.
    """
    if len(train_labels.unique()) < 2:
        raise ValueError(
            f"all {len(train_labels)} training images of the linear probe have class "
            f"{int(train_labels[0])}: give more with --train-images"
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_PROBE_ITERATIONS))
    with warnings.catch_warnings():
        # replaced by the message below, which names the probe
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train.double().numpy(), train_labels.numpy())
    if probe[-1].n_iter_.max() >= _PROBE_ITERATIONS:
        logger.warning(
            "%s did not converge in %d iterations: its accuracy may be too low",
            name,
            _PROBE_ITERATIONS,
        )
    return 100 * float(probe.score(test.double().numpy(), test_labels.numpy()))
