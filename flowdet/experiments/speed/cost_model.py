"""A small model of what a training step costs: time and activation memory over the settings.

Both are sums of a few terms with weights of at least 0, fitted to measured steps by least squares
on the relative error. The terms follow from the algorithm:

- The backbone costs time and activations for every pixel of every image.
- Each of the T blocks costs a fixed time, and time for every query, token, and class score.
- The activations of one block are alive at a time with block-local learning. With backpropagation
  those of all T blocks are: `kept_blocks` is 1 or T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# pixels per token: the backbone has stride 16
PIXELS_PER_TOKEN = 16 * 16


@dataclass(frozen=True)
class Setting:
    """What a training step depends on.

    Attributes:
        num_blocks: T.
        num_queries: M.
        side: height and width of the images, in pixels.
        num_classes: C.
        batch_size: images per step and device.
        method: `flow` or `backprop`.
    """

    num_blocks: int
    num_queries: int
    side: int
    num_classes: int
    batch_size: int
    method: str = "flow"

    @classmethod
    def of(cls, row: dict) -> Setting:
        """Returns the setting of a row of a result file."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    @property
    def pixels(self) -> int:
        """The pixels of the batch."""
        return self.batch_size * self.side**2

    @property
    def tokens(self) -> float:
        """The image tokens of the batch."""
        return self.pixels / PIXELS_PER_TOKEN

    @property
    def queries(self) -> int:
        """The queries of the batch."""
        return self.batch_size * self.num_queries

    @property
    def kept_blocks(self) -> int:
        """The blocks whose activations are in memory at the same time."""
        return 1 if self.method == "flow" else self.num_blocks


Term = Callable[[Setting], float]

# the terms of the time of a step, by name
TIME_TERMS: dict[str, Term] = {
    "step": lambda s: 1.0,
    "pixel": lambda s: s.pixels,
    "block": lambda s: s.num_blocks,
    "token and block": lambda s: s.num_blocks * s.tokens,
    "query and block": lambda s: s.num_blocks * s.queries,
    "class score and block": lambda s: s.num_blocks * s.queries * s.num_classes,
}
# the terms of the activation memory
MEMORY_TERMS: dict[str, Term] = {
    "step": lambda s: 1.0,
    "pixel": lambda s: s.pixels,
    "token and kept block": lambda s: s.kept_blocks * s.tokens,
    "query and kept block": lambda s: s.kept_blocks * s.queries,
    "attention of queries and kept block": lambda s: s.kept_blocks * s.queries * s.num_queries,
    "class score and kept block": lambda s: s.kept_blocks * s.queries * s.num_classes,
}


@dataclass(frozen=True)
class CostModel:
    """A fitted sum of terms.

    Attributes:
        terms: functions of a setting, by name.
        weights: the cost of one unit of each term.
    """

    terms: dict[str, Term]
    weights: dict[str, float]

    @classmethod
    def fit(
        cls,
        terms: dict[str, Term],
        settings: Sequence[Setting],
        costs: Sequence[float],
    ) -> CostModel:
        """Fits the weights to measured costs; the squared relative errors are minimal.

        Raises:
            ValueError: there are fewer measurements than terms.
        """
        if len(settings) < len(terms):
            raise ValueError(f"{len(settings)} measurements cannot fit {len(terms)} terms")
        values = np.array([[term(s) for term in terms.values()] for s in settings])
        # columns of similar size, for the precision of the solver
        scale = values.max(axis=0)
        relative = values / scale / np.array(costs, dtype=float)[:, None]
        weights, _ = nnls(relative, np.ones(len(settings)))
        return cls(terms, dict(zip(terms, (weights / scale).tolist())))

    def predict(self, setting: Setting) -> float:
        """Returns the predicted cost of a setting."""
        return sum(self.weights[name] * term(setting) for name, term in self.terms.items())

    def shares(self, setting: Setting) -> dict[str, float]:
        """Returns the fraction of each term in the predicted cost of a setting."""
        total = self.predict(setting)
        return {name: self.weights[name] * x(setting) / total for name, x in self.terms.items()}


def fitted_models(rows: Sequence[dict]) -> dict[tuple[str, str], CostModel]:
    """Fits the models to the rows of benchmarks/scaling.py that are not kept out of the fit.

    Returns:
        The models by (metric, method): the time of a step with each method, relative to the first
        setting, and the activations in bytes. One model of the activations serves both methods.
    """
    memory = _fitted(MEMORY_TERMS, _measured(rows, "activation_bytes"))
    models = {}
    for method in ("flow", "backprop"):
        times = _measured(rows, "step_time_ratio")
        times = [(setting, cost) for setting, cost in times if setting.method == method]
        models["step_time_ratio", method] = _fitted(TIME_TERMS, times)
        models["activation_bytes", method] = memory
    return models


def prediction_errors(rows: Sequence[dict]) -> list[tuple[str, Setting, float, float]]:
    """Returns metric, setting, measured cost and relative error of the settings kept out."""
    errors = []
    for (metric, method), model in fitted_models(rows).items():
        for setting, cost in _measured(rows, metric, kept_out=True):
            if setting.method == method:
                errors.append((metric, setting, cost, model.predict(setting) / cost - 1))
    return errors


def _measured(
    rows: Sequence[dict], metric: str, kept_out: bool = False
) -> list[tuple[Setting, float]]:
    chosen = [row for row in rows if row["metric"] == metric and row["kept_out"] == kept_out]
    return [(Setting.of(row), row.get("median", row["mean"])) for row in chosen]


def _fitted(terms: dict[str, Term], measured: Sequence[tuple[Setting, float]]) -> CostModel:
    settings, costs = zip(*measured)
    return CostModel.fit(terms, settings, costs)


def data_parallel_efficiency(
    step_seconds: float, hidden_seconds: float, gradient_bytes: float, gpus: int, bandwidth: float
) -> float:
    """Returns the speed of `gpus` GPUs divided by `gpus` times that of one (weak scaling).

    Gradients are averaged with a ring all-reduce, which sends 2 (n - 1) / n times their bytes. The
    part that runs while gradients are still being computed costs no time.

    Args:
        step_seconds: the time of a step on one GPU.
        hidden_seconds: the time between the first and the last gradient of a step.
        gradient_bytes: the bytes of all gradients.
        gpus: the number of GPUs, at least 1.
        bandwidth: bytes per second between two neighbors of the ring.
    """
    reduce_seconds = 2 * (gpus - 1) / gpus * gradient_bytes / bandwidth
    return step_seconds / (step_seconds + max(0.0, reduce_seconds - hidden_seconds))
