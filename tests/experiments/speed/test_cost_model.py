"""The cost model: exact on costs that follow it, within 20 % on settings it has not seen."""

from dataclasses import replace
from pathlib import Path

import pytest

from flowdet.experiments.speed.comparison import read_rows
from flowdet.experiments.speed.cost_model import (
    MEMORY_TERMS,
    TIME_TERMS,
    CostModel,
    Setting,
    data_parallel_efficiency,
    fitted_models,
    prediction_errors,
)

BASE = Setting(num_blocks=4, num_queries=50, side=256, num_classes=20, batch_size=2)
RESULTS = Path(__file__).parents[3] / "docs" / "results" / "scaling.json"


@pytest.fixture(scope="module")
def rows():
    if not RESULTS.exists():
        pytest.skip("scaling.json has not been measured")
    return read_rows(RESULTS)


def test_two_settings_that_were_kept_out_are_predicted_within_20_percent(rows):
    errors = prediction_errors(rows)
    kept_out = {replace(setting, method="flow") for _, setting, _, _ in errors}
    assert len(kept_out) == 2
    # time and activations of both methods
    assert len(errors) == 8
    for metric, setting, _, error in errors:
        assert abs(error) < 0.2, (metric, setting)


def test_the_fit_does_not_see_the_settings_that_are_kept_out(rows):
    other = [row | {"mean": 10**12, "median": 10**12} if row["kept_out"] else row for row in rows]
    for key, model in fitted_models(rows).items():
        assert fitted_models(other)[key].weights == model.weights


def test_activations_grow_with_the_blocks_only_with_backpropagation(rows):
    models = fitted_models(rows)
    for method, grows in (("flow", False), ("backprop", True)):
        few, many = replace(BASE, method=method), replace(BASE, num_blocks=16, method=method)
        model = models["activation_bytes", method]
        assert (model.predict(many) > 2 * model.predict(few)) == grows
        assert grows or model.predict(many) == model.predict(few)


def test_costs_that_follow_the_terms_are_fitted_exactly():
    settings = [
        BASE,
        *(replace(BASE, num_blocks=x) for x in (1, 8)),
        *(replace(BASE, num_queries=x) for x in (100, 300)),
        *(replace(BASE, side=x) for x in (128, 512)),
        replace(BASE, num_classes=80),
        replace(BASE, batch_size=5),
        replace(BASE, num_blocks=8, side=384),
        replace(BASE, num_blocks=2, num_queries=200),
    ]
    weights = {"step": 3.0, "pixel": 1e-5, "block": 0.5, "token and block": 2e-3}
    weights |= {"query and block": 1e-3, "class score and block": 0.0}

    def cost(setting):
        return sum(weights[name] * term(setting) for name, term in TIME_TERMS.items())

    model = CostModel.fit(TIME_TERMS, settings, [cost(s) for s in settings])
    assert model.weights == pytest.approx(weights, rel=1e-6, abs=1e-9)
    unseen = Setting(num_blocks=12, num_queries=7, side=640, num_classes=3, batch_size=9)
    assert model.predict(unseen) == pytest.approx(cost(unseen))
    assert sum(model.shares(unseen).values()) == pytest.approx(1)


def test_too_few_measurements_are_refused():
    with pytest.raises(ValueError, match="1 measurements cannot fit 6 terms"):
        CostModel.fit(MEMORY_TERMS, [BASE], [1.0])


def test_efficiency_of_data_parallel_training():
    """100 MB over 1 GB/s between 2 GPUs take 0.1 seconds, of which the overlap hides a part."""
    assert data_parallel_efficiency(0.4, 0.0, 1e8, 1, 1e9) == 1
    assert data_parallel_efficiency(0.4, 0.0, 1e8, 2, 1e9) == pytest.approx(0.8)
    assert data_parallel_efficiency(0.4, 0.05, 1e8, 2, 1e9) == pytest.approx(0.4 / 0.45)
    assert data_parallel_efficiency(0.4, 0.2, 1e8, 2, 1e9) == 1
    # many GPUs: twice the bytes
    assert data_parallel_efficiency(0.4, 0.0, 1e8, 10**6, 1e9) == pytest.approx(0.4 / 0.6)
