"""flowdet.load: by folder, config or checkpoint, called on every kind of image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

import flowdet
from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSIFIER = [
    *("MODEL.VIT.HIDDEN_DIM", "16", "MODEL.VIT.NUM_LAYERS", "2", "MODEL.VIT.NUM_HEADS", "2"),
    *("MODEL.FLOW_CLS.HIDDEN_DIM", "16", "MODEL.FLOW_CLS.BLOCK_DIM", "16"),
    *("MODEL.FLOW_CLS.NUM_BLOCKS", "2"),
]
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def run_folder(folder, config, overrides=()):
    """A folder as a training leaves it, with random weights."""
    torch.manual_seed(0)
    cfg = load_config(str(CONFIGS / config), ["MODEL.DEVICE", "cpu", *overrides])
    model = build_model(resolve_config(cfg, training=False))
    FlowDetCheckpointer(model, str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("run"), "digits_flow.yaml")


@pytest.fixture(scope="module")
def detect(run):
    return flowdet.load(run)


def boxes(instances):
    return instances.pred_boxes.tensor


@pytest.mark.parametrize("name", ["", "config.yaml", "model_final.pth"])
def test_run_config_or_checkpoint(run, detect, name):
    loaded = flowdet.load(str(run / name), device="cpu")
    assert torch.equal(boxes(loaded(IMAGE)), boxes(detect(IMAGE)))


def test_an_image_gives_instances_in_its_own_pixels(detect):
    found = detect(IMAGE)
    assert isinstance(found, Instances) and found.image_size == (40, 60) and len(found) > 0
    assert boxes(found)[:, 2].max() > 40 and boxes(found)[:, 3].max() <= 40
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert detect.class_names == [str(digit) for digit in range(10)]
    assert detect.names(found) == [str(int(index)) for index in found.pred_classes]


def test_all_kinds_of_images_are_one(detect, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    expected = boxes(detect(IMAGE))
    for image in (path, str(path), Image.open(path), np.ascontiguousarray(IMAGE)):
        assert torch.equal(boxes(detect(image)), expected)
    assert torch.equal(boxes(detect(IMAGE[..., ::-1], bgr=True)), expected)
    assert not torch.equal(boxes(detect(IMAGE[..., ::-1])), expected)


def test_a_list_gives_a_list(detect):
    other = RNG.integers(0, 256, (96, 96), dtype=np.uint8)
    for several in ([IMAGE, other, IMAGE], (IMAGE, other, IMAGE)):
        found = detect(several)
        assert [x.image_size for x in found] == [(40, 60), (96, 96), (40, 60)]
        torch.testing.assert_close(boxes(found[2]), boxes(detect(IMAGE)))
    assert len(detect([IMAGE])) == 1 and detect([]) == []


def test_disagreement_on_request(detect):
    found = detect(IMAGE, disagreement=True)
    assert found.block_boxes.shape == (len(found), 4, 4) and (found.box_spread > 0).all()
    assert not detect(IMAGE).has("box_spread")


def test_what_is_no_image(detect):
    with pytest.raises(ValueError, match="must be uint8"):
        detect(IMAGE / 255)
    with pytest.raises(TypeError, match="not a NoneType"):
        detect([IMAGE, None])
    with pytest.raises(OSError, match="gone.png"):
        detect("gone.png")


def test_settings_by_short_names_and_keys(run):
    loaded = flowdet.load(
        run,
        mode="multi_step_ensemble",
        steps=2,
        batch_size=3,
        score_threshold=0.5,
        **{"MODEL.FLOW_DET.NMS_THRESHOLD": 0.7},
    )
    model, cfg = loaded.predictor.model, loaded.predictor.cfg
    assert (model.inference_mode, model.num_steps) == ("multi_step_ensemble", 2)
    assert (model.postprocess.score_threshold, model.postprocess.nms_threshold) == (0.5, 0.7)
    assert cfg.TEST.BATCH_SIZE == 3
    model = flowdet.load(run, mode="single_step", block=2).predictor.model
    assert (model.inference_mode, model.single_step_block) == ("single_step", 2)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"stps": 3}, ValueError, "unknown setting 'stps': use mode, steps"),
        ({"MODEL.FLOW_DET.NUM_STEP": 3}, KeyError, "near are .*NUM_STEPS"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"mode": "ensemble", "steps": 2}, ValueError, "steps is for the multi-step modes"),
        ({"block": 1}, ValueError, "block is for mode single_step"),
        ({"mode": "fast"}, ValueError, "unknown inference mode 'fast'"),
        ({"score_threshold": 50}, ValueError, r"in \[0, 1\], got 50"),
        ({"weights": "gone.pth"}, FileNotFoundError, "gone.pth"),
    ],
)
def test_wrong_settings(run, settings, error, said):
    with pytest.raises(error, match=said):
        flowdet.load(run, **settings)


def test_files_that_are_not_there(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run, config or checkpoint 'gone'"):
        flowdet.load("gone")
    with pytest.raises(FileNotFoundError, match="holds no config.yaml"):
        flowdet.load(tmp_path)
    alone = tmp_path / "model.pth"
    alone.write_bytes((run / "model_final.pth").read_bytes())
    with pytest.raises(FileNotFoundError, match="no config.yaml beside .*model.pth: give the conf"):
        flowdet.load(alone)
    config = tmp_path / "config.yaml"
    config.write_text((run / "config.yaml").read_text())
    # a training that has not written any
    with pytest.raises(ValueError, match="no weights are given"):
        flowdet.load(config)
    assert len(flowdet.load(config, weights=alone)(IMAGE)) > 0


def test_the_last_checkpoint_of_an_unfinished_training(run, tmp_path):
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name.replace("final", "0000009")).write_bytes((run / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    loaded = flowdet.load(tmp_path)
    assert loaded.predictor.cfg.MODEL.WEIGHTS == str(tmp_path / "model_0000009.pth")


def test_a_classifier_gives_classes_and_probabilities(tmp_path):
    classify = flowdet.load(run_folder(tmp_path, "cls/digits_flow_vit.yaml", CLASSIFIER))
    found = classify(IMAGE)
    assert sorted(name for name, _ in found) == sorted(classify.class_names)
    probabilities = [probability for _, probability in found]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    several = classify([IMAGE[..., ::-1]], bgr=True) + classify([str(tmp_path / "image.png")])
    assert several == [found, found]
    with pytest.raises(ValueError, match="score_threshold is for detectors"):
        flowdet.load(tmp_path, score_threshold=0.5)


def test_importing_flowdet_loads_no_trainer():
    code = "import sys, flowdet; print([x for x in sys.modules if 'flowdet.engine' in x])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=CONFIGS.parent
    )
    assert done.stdout.strip() == "[]", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        flowdet.lode  # noqa: B018
