"""BoxTransportDetector with `flowdet.load`, export, measurements and result files."""

import numpy as np
import pytest
import torch

import flowdet
from flowdet.detection.boxes import paired_iou
from flowdet.engine import FlowDetCheckpointer, load_config
from flowdet.experiments.measurement import load_run
from flowdet.export import graph_of
from flowdet.inference.explorer_data import transport_runs
from flowdet.reporting.results import method_of, result_rows
from flowdet.visualization.animation import animation_frames
from flowdet.visualization.box_trajectory import box_trajectory
from flowdet.visualization.drawing import DetectionVisualizer
from tests.detection.box_transport.tiny import BOX_PATHS, box_cfg, tiny_box_model
from tests.detection.tiny import record
from tests.inference.comparison import assert_same_detections


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a diffusion with random weights."""
    folder, cfg = tmp_path_factory.mktemp("run"), box_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.CLASS_NAMES = ["cat", "dog", "owl"]
    FlowDetCheckpointer(tiny_box_model(), str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def test_load_detects_in_images_of_any_size(run):
    detect = flowdet.load(run)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 40, 3), dtype=np.uint8)
    one, other = detect([pixels, pixels[:50]])
    assert one.image_size == (90, 40) and len(one)
    assert_same_detections(detect(pixels), one)
    assert_same_detections(detect(pixels[:50]), other)


def test_the_animation_of_an_ensemble_is_drawn(run):
    predictor = flowdet.load(run, score_threshold=0.0).predictor
    assert predictor.model.sampling.ensemble_steps
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    results = predictor([pixels], trajectory=True, analyses=[box_trajectory(3)])
    assert len(results[0]["trajectory"]) == len(predictor.trajectory_times) == 4
    # detections of earlier steps have query indices above those of the trajectory's boxes
    assert results[0]["instances"].pred_queries.max() >= 6
    visualizer = DetectionVisualizer(predictor.class_names, 0.0)
    assert len(list(animation_frames(visualizer, results, ["image"]))) == 4


@pytest.mark.parametrize("path", BOX_PATHS)
@pytest.mark.parametrize("ensemble", [False, True])
def test_the_explorer_shows_the_steps_of_the_detector(path, ensemble):
    model = tiny_box_model(path, {"MODEL.BOX_TRANSPORT.ENSEMBLE_STEPS": ensemble}).eval()
    analyses = [transport_runs([None])]
    for result in model.inference([record(seed=3)], trajectory=True, analyses=analyses):
        (explored,) = result["transport_runs"]
        assert explored.seed is None and explored.trajectory.times[-1] == 1
        for step, expected in zip(explored.steps, result["trajectory"], strict=True):
            assert_same_detections(step.estimate, expected)
        assert_same_detections(explored.steps[-1].estimate, result["instances"])


def test_the_sampling_is_changed_by_keys(run):
    keys = {"MODEL.BOX_TRANSPORT.NUM_STEPS": 2, "MODEL.FLOW_DET.NOISE_SEED": 5}
    model = flowdet.load(run, **keys).predictor.model
    assert (model.sampling.num_steps, model.sampling.noise_seed) == (2, 5)


def test_what_needs_flow_blocks_is_refused(run):
    with pytest.raises(ValueError, match="has no inference modes: leave out steps"):
        flowdet.load(run, steps=4)
    detect = flowdet.load(run)
    with pytest.raises(ValueError, match="BoxTransportDetector has no independent blocks"):
        detect(np.zeros((40, 40, 3), dtype=np.uint8), disagreement=True)
    with pytest.raises(ValueError, match="BoxTransportDetector cannot be exported"):
        graph_of(detect.predictor.model, (64, 64))
    with pytest.raises(ValueError, match="BoxTransportDetector are boxes, but this measurement"):
        load_run(run, None, [])


@pytest.mark.parametrize("path", BOX_PATHS)
def test_result_rows_have_the_method_and_the_number_of_steps(path):
    cfg = box_cfg(path, {"MODEL.BOX_TRANSPORT.NUM_STEPS": 3})
    assert method_of(cfg) == f"box_{path}"
    (row,) = result_rows(cfg, "pets_test", {"bbox": {"AP50": 12.345}})
    assert (row["method"], row["metric"], row["num_steps"]) == (f"box_{path}", "AP50", 3)
    assert row["num_blocks"] == 3 and "mode" not in row


@pytest.mark.parametrize(
    "pair, message",
    [
        (("PATH", "straight"), "PATH is 'straight', but must be one of diffusion, flow"),
        (("SIGNAL_SCALE", 0), "SIGNAL_SCALE is 0.0, but must be above 0"),
        (("NUM_STEPS", 0), "NUM_STEPS is 0, but must be at least 1"),
        (("BOX_RENEWAL", 2), "BOX_RENEWAL is 2.0, but must be from 0 to 1"),
    ],
)
def test_values_are_checked_when_a_config_is_loaded(pair, message):
    name, value = pair
    with pytest.raises(ValueError, match=message):
        load_config("peers/voc_box_flow_r18_frozen", [f"MODEL.BOX_TRANSPORT.{name}", value])


def colored(seed):
    """An image with one filled rectangle; its color is its class."""
    generator = torch.Generator().manual_seed(seed)
    left, top = torch.randint(2, 30, (2,), generator=generator).tolist()
    width, height = torch.randint(16, 32, (2,), generator=generator).tolist()
    label = seed % 3
    example = record([(label, (left, top, left + width, top + height))], seed=seed)
    example["image"] //= 4
    example["image"][:, top : top + height, left : left + width] = 0
    example["image"][label, top : top + height, left : left + width] = 255
    return example


@pytest.mark.slow
@pytest.mark.parametrize("path", BOX_PATHS)
def test_objects_of_new_images_are_detected_after_a_short_training(path):
    own = {"MODEL.BOX_TRANSPORT.NUM_STEPS": 3}
    if path == "flow":
        own |= {"MODEL.BOX_TRANSPORT.BOX_RENEWAL": 0.0, "MODEL.BOX_TRANSPORT.ENSEMBLE_STEPS": False}
    sizes = {"HIDDEN_DIM": 64, "FEEDFORWARD_DIM": 128, "NUM_QUERIES": 10, "NUM_BLOCKS": 2}
    model = tiny_box_model(path, own, **sizes)
    iterations = 150
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, iterations)
    for i in range(iterations):
        optimizer.zero_grad()
        sum(model([colored(seed) for seed in range(8 * i, 8 * i + 8)]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    images = [colored(10_000 + i) for i in range(20)]
    overlaps, right_classes = [], 0
    for example, result in zip(images, model.eval()(images), strict=True):
        best, expected = result["instances"][0], example["instances"]
        right_classes += best.pred_classes.tolist() == expected.gt_classes.tolist()
        overlaps.append(paired_iou(best.pred_boxes.tensor, expected.gt_boxes.tensor))
    assert right_classes >= 18
    assert torch.cat(overlaps).mean() > 0.6
