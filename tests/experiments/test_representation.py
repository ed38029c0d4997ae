import json
import logging

import pytest
import torch
from torch import nn

from flowdet.engine import FlowDetCheckpointer, resolve_config
from flowdet.engine.trainer import Trainer
from flowdet.experiments.representation import (
    LAYER_METRICS,
    ImageLimits,
    Representation,
    cka_rows,
    find_runs,
    layer_rows,
    pooled_features,
    represent,
    represent_runs,
    represent_untrained,
)
from flowdet.experiments.representation_figure import representation_figure
from tests.detection.tiny import tiny_cfg as tiny_detector_cfg
from tests.flowcls.tiny import tiny_cfg

LIMITS = ImageLimits(test=40, train=60)


class FixedLayers(nn.Module):
    """Returns pixels as the features of two layers, and keeps the inputs that it has got."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.inputs = []

    def layer_features(self, batched_inputs):
        self.inputs += batched_inputs
        x = torch.stack([x["image"] for x in batched_inputs]).float().mean(dim=1) * self.scale
        return {"stage1": x[:, ::8, ::8].flatten(1), "stage2": x[:, ::16, ::8].flatten(1)}


def digits_cfg(*overrides, file="digits_flow_vit", **node_keys):
    return resolve_config(tiny_cfg(file, *overrides, NUM_CLASSES=0, **node_keys), training=False)


def test_measures_of_every_layer():
    model = FixedLayers()
    run = represent(digits_cfg(), model, LIMITS)
    assert {layer: x.shape for layer, x in run.features.items()} == {
        "stage1": (40, 16),
        "stage2": (40, 8),
    }
    for values in run.values.values():
        assert list(values) == list(LAYER_METRICS)
        assert 1 <= values["intrinsic_dimension"] <= 16 and 0 < values["feature_spread"] < 1
    # the pixels of digits tell the classes apart
    assert run.values["stage1"]["probe_top1"] > 50
    assert len(model.inputs) == 40 + 60
    assert all("label" not in x for x in model.inputs)


def test_images_do_not_depend_on_the_model_or_the_batch_size():
    features = []
    for batch_size in (7, 40):
        model = FixedLayers()
        cfg = digits_cfg("TEST.BATCH_SIZE", batch_size)
        x, labels = pooled_features(cfg, model, ["sklearn_digits_test"], 40)
        features.append((x["stage1"], labels, [x["image_id"] for x in model.inputs]))
    assert torch.equal(features[0][0], features[1][0])
    assert torch.equal(features[0][1], features[1][1])
    assert features[0][2] == features[1][2] and len(set(features[0][2])) == 40
    # a random subset has images of all classes
    assert len(features[0][1].unique()) == 10


def test_subset_of_several_datasets():
    names = ["sklearn_digits_test", "sklearn_digits_train"]
    x, labels = pooled_features(digits_cfg(), FixedLayers(), names, 90)
    assert len(x["stage1"]) == len(labels) == 90
    alone, _ = pooled_features(digits_cfg(), FixedLayers(), names[:1], 10**6)
    assert len(alone["stage1"]) == 360


def test_features_must_be_finite():
    with pytest.raises(ValueError, match="m: the features of stage1 are not finite.*BASE_LR"):
        represent(digits_cfg(), FixedLayers(float("nan")), LIMITS, "m")


def test_features_that_are_zero_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        run = represent(digits_cfg(), FixedLayers(0.0), LIMITS, "m")
    assert "m: the features of 40 of 40 images are 0 in stage1" in caplog.text
    assert run.values["stage1"]["intrinsic_dimension"] == 0
    groups = {"flow": [run], "other": [represent(digits_cfg(), FixedLayers(), LIMITS)]}
    rows = layer_rows(groups)
    assert {(r["run"], r["metric"]) for r in rows if r["metric"] == "feature_spread"} == {
        ("other", "feature_spread")
    }
    pairs = cka_rows(groups)
    assert {(r["run"], r["other_run"]) for r in pairs} == {("other", "other")}
    assert len(representation_figure(rows + pairs).axes) == 5


def test_few_images_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        represent(digits_cfg(), FixedLayers(), ImageLimits(12, 60), "m")
    assert "m: stage1 has 16 channels and only 12 images are used" in caplog.text
    assert "stage2" not in caplog.text
    with pytest.raises(ValueError, match="at least 4 test images, got 3"):
        represent(digits_cfg(), FixedLayers(), ImageLimits(3, 60))


def fixed_run(seed, *spreads):
    """A run whose layer k has the given feature spread."""
    features, values = {}, {}
    for k, spread in enumerate(spreads, start=1):
        generator = torch.Generator().manual_seed(10 * seed + k)
        features[f"layer{k}"] = torch.randn(50, 4, generator=generator)
        values[f"layer{k}"] = dict.fromkeys(LAYER_METRICS, 3.0) | {"feature_spread": spread}
    return Representation(digits_cfg(), features, values)


def test_rows_are_means_over_the_seeds():
    groups = {"a": [fixed_run(0, 0.125, 0.5), fixed_run(1, 0.375, 0.5)], "b": [fixed_run(2, 0.25)]}
    rows = layer_rows(groups)
    assert len(rows) == (2 + 1) * len(LAYER_METRICS)
    first = next(row for row in rows if row["metric"] == "feature_spread")
    assert first | {"run": "a", "layer": "layer1", "layer_number": 1, "channels": 4} == first
    assert (first["mean"], first["std"], first["n"]) == (0.25, 0.1768, 2)
    assert (first["method"], first["backbone"], first["images"]) == ("flow", "vit", 50)

    pairs = cka_rows(groups)
    counts = {}
    for row in pairs:
        key = (row["metric"], row["run"], row["other_run"], row["n"])
        counts[key] = counts.get(key, 0) + 1
    assert counts == {
        ("linear_cka", "a", "a", 2): 4,
        ("linear_cka_between_seeds", "a", "a", 1): 4,
        ("linear_cka", "a", "b", 2): 2,
        ("linear_cka", "b", "b", 1): 1,
    }
    for row in pairs:
        if row["metric"] == "linear_cka" and row["run"] == row["other_run"]:
            same = row["layer"] == row["other_layer"]
            assert row["mean"] == (1 if same else pytest.approx(0, abs=0.3))
    json.dumps(rows + pairs, allow_nan=False)


@pytest.mark.parametrize("layers, runs", [(2, 2), (6, 9)])
def test_figure(layers, runs):
    groups = {f"method {i}": [fixed_run(i, *[0.1 * i] * layers)] for i in range(runs)}
    figure = representation_figure(layer_rows(groups) + cka_rows(groups))
    *panels, matrix = figure.axes[:4]
    assert [axes.get_title() for axes in panels] == list(LAYER_METRICS.values())
    assert all(len(axes.lines) == runs for axes in panels)
    assert matrix.images[0].get_array().shape == (layers * runs, layers * runs)
    looks = {(x.get_color(), x.get_marker(), x.get_linestyle()) for x in panels[0].lines}
    assert len(looks) == runs
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(groups)


def test_lines_have_a_gap_between_backbone_and_blocks():
    names = ("layer1", "layer2", "block0")
    columns = {"run": "flow", "mean": 1.0, "std": None}
    rows = [
        columns | {"layer": layer, "layer_number": number, "metric": metric}
        for metric in LAYER_METRICS
        for number, layer in enumerate(names, start=1)
    ]
    axes = representation_figure(rows).axes[0]
    (line,) = axes.lines
    assert [None if x != x else x for x in line.get_xdata()] == [1, 2, None, 3]
    assert [text.get_text() for text in axes.get_xticklabels()] == list(names)


@pytest.fixture
def write_run(tmp_path):
    def write(name, *overrides, file="digits_flow_vit", seed=0, detector=False):
        cfg = tiny_detector_cfg() if detector else digits_cfg(*overrides, file=file)
        cfg.SEED = seed
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(cfg.dump())
        torch.manual_seed(seed)
        model = nn.Identity() if detector else Trainer.build_model(cfg)
        FlowDetCheckpointer(model, str(folder)).save("model_final")
        return folder

    return write


def test_runs_of_all_kinds_of_models(write_run):
    folders = [
        write_run("flow_0"),
        write_run("flow_1", seed=1),
        write_run("backprop", file="digits_flow_vit+backprop"),
        write_run("cnn", *digits_of_a_cnn(), file="mnist_flow_cnn"),
    ]
    groups = find_runs(folders, "model_final.pth", [])
    assert list(groups) == ["flow, vit", "backprop, vit", "flow, cnn"]
    measured = represent_runs(groups, "model_final.pth", [], LIMITS)
    assert [len(group) for group in measured.values()] == [2, 1, 1]
    for label, channels in (("flow, vit", [16] * 3), ("flow, cnn", [4, 6, 8])):
        rows = [r for r in layer_rows(measured) if r["run"] == label]
        first = [r for r in rows if r["metric"] == "intrinsic_dimension"]
        assert [row["channels"] for row in first][: len(channels)] == channels
    again = represent_runs(groups, "model_final.pth", [], LIMITS)
    assert layer_rows(again) == layer_rows(measured) and cka_rows(again) == cka_rows(measured)


def test_untrained_models_are_a_control_for_each_backbone(write_run):
    folders = [
        write_run("flow"),
        write_run("backprop", file="digits_flow_vit+backprop"),
        write_run("cnn", *digits_of_a_cnn(), file="mnist_flow_cnn"),
    ]
    groups = find_runs(folders, "model_final.pth", [])
    measured = represent_untrained(groups, [], LIMITS)
    assert list(measured) == ["untrained, vit", "untrained, cnn"]
    # the checkpoints of write_run have the initial weights of the same seed
    trained = represent_runs(groups, "model_final.pth", [], LIMITS)
    assert measured["untrained, vit"][0].values == trained["flow, vit"][0].values
    assert measured["untrained, cnn"][0].values == trained["flow, cnn"][0].values
    assert {row["method"] for row in layer_rows(measured)} == {"untrained"}


def digits_of_a_cnn():
    return (
        *("DATASETS.TRAIN", "('sklearn_digits_train',)"),
        *("DATASETS.TEST", "('sklearn_digits_test',)"),
    )


def test_runs_that_cannot_be_compared(write_run, tmp_path):
    flow = write_run("flow")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        find_runs([flow, tmp_path / "nowhere"], "model_final.pth", [])
    with pytest.raises(FileNotFoundError, match="is not a run: it has no config.yaml"):
        find_runs([flow, tmp_path], "model_final.pth", [])
    with pytest.raises(FileNotFoundError, match="flow has no model_9.pth: .*--checkpoint"):
        find_runs([flow], "model_9.pth", [])
    detector = write_run("detector", detector=True)
    with pytest.raises(ValueError, match="detector is the run of a FlowMatchingDetector.*not a cl"):
        find_runs([flow, detector], "model_final.pth", [])
    other = write_run("other", "DATASETS.TEST", "('sklearn_digits_train',)", seed=1)
    with pytest.raises(ValueError, match="different DATASETS.TEST: .*flow.*other; give runs of"):
        find_runs([flow, other], "model_final.pth", [])
    same = ["DATASETS.TEST", "('sklearn_digits_test',)"]
    assert len(find_runs([flow, other], "model_final.pth", same)) == 2
    with pytest.raises(ValueError, match="flow has no DATASETS.TEST"):
        find_runs([flow], "model_final.pth", ["DATASETS.TEST", "()"])
