"""Costs of methods, and the features that are computed before the runs are timed."""

import pytest
import torch

from flowdet.engine import Trainer
from flowdet.experiments import peer_costs
from flowdet.experiments.cached_features import fill_feature_caches
from flowdet.experiments.comparison import Budget, Run
from flowdet.experiments.comparison_table import trained_parameters
from flowdet.experiments.peer_costs import cost_rows
from flowdet.experiments.timing import interleaved_seconds
from tests.detection.tiny import CONFIGS


@pytest.fixture
def plan(tmp_path, overrides):
    def build(method="flow", config="digits_flow", extra=()):
        file = str(CONFIGS / f"{config}.yaml")
        return Run.plan(file, Budget(4, 1), 0, tmp_path, [*overrides, *extra], method)

    return build


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(peer_costs, "ROUNDS", 2)
    monkeypatch.setattr(peer_costs, "WARM_UP_ROUNDS", 1)


def test_calls_take_turns():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    seconds = interleaved_seconds(calls, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert [len(values) for values in seconds] == [2, 2]


def test_costs_of_two_methods(plan):
    runs = {method: plan(method, f"digits_{method}") for method in ("flow", "backprop")}
    rows = cost_rows(runs, {})
    for method, run in runs.items():
        by_metric = {row["metric"]: row for row in rows[method]}
        assert set(by_metric) == {"trained_parameters", "activation_bytes", "ms_per_image"}
        assert by_metric["trained_parameters"]["mean"] == trained_parameters(run.cfg)
        assert by_metric["activation_bytes"]["batch_size"] == 4
        inference = by_metric["ms_per_image"]
        assert (inference["weights"], inference["batch_size"], inference["n"]) == ("initial", 1, 2)
        assert inference["mean"] > 0
        assert {(row["method"], row["dataset"]) for row in rows[method]} == {
            (method, "compared_pets")
        }


def test_recorded_costs_are_kept_if_a_checkpoint_is_missing(plan):
    run = plan()
    recorded = {"flow": [{"method": "flow", "metric": "ms_per_image", "mean": 1.0}]}
    assert cost_rows({"flow": run}, recorded) == recorded
    run.folder.mkdir()
    torch.save({"model": Trainer.build_model(run.cfg).state_dict()}, run.folder / "model_final.pth")
    (*_, inference) = cost_rows({"flow": run}, recorded)["flow"]
    assert inference["metric"] == "ms_per_image" and inference["weights"] == "trained"


def test_cached_features_of_all_training_images_and_their_mirror_images(plan, tmp_path):
    folder = tmp_path / "features"
    model = Trainer.build_model(plan(config="voc_flow_r18_frozen").cfg)
    weights = tmp_path / "weights.pth"
    torch.save({"model": model.state_dict()}, weights)
    keys = ["MODEL.FLOW_DET.FEATURE_CACHE_DIR", str(folder), "MODEL.WEIGHTS", str(weights)]
    cfgs = [plan(x, f"voc_{x}_r18_frozen", keys).cfg for x in ("flow", "backprop")]
    fill_feature_caches(cfgs)
    # 8 images and their mirror images, by one backbone
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*/*") if path.is_file()}
    assert len(files) == 16
    # the images of the training are among them
    model = Trainer.build_model(cfgs[0])
    model.load_state_dict(torch.load(weights)["model"])
    loader = iter(Trainer.build_train_loader(cfgs[1]))
    for _ in range(6):
        model.encode(next(loader))
    assert files == {p: p.stat().st_mtime_ns for p in folder.glob("*/*") if p.is_file()}


def test_a_config_without_a_cache_is_skipped(plan, tmp_path):
    fill_feature_caches([plan().cfg])
    assert not (tmp_path / "features").exists()
