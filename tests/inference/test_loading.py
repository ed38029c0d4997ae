"""flowdet.load: from folders, configs, checkpoints and URLs; called on every kind of image."""

import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from detectron2.structures import Instances
from PIL import Image

import flowdet
from flowdet.flow import InferencePlan
from tests.inference.comparison import assert_same_detections
from tests.inference.runs import CLASSIFIER, CONFIGS, run_folder

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("run"), "digits_flow.yaml")


@pytest.fixture(scope="module")
def detect(run):
    return flowdet.load(run)


def boxes(instances):
    return instances.pred_boxes.tensor


@pytest.mark.parametrize("name", ["", "config.yaml", "model_final.pth"])
def test_run_folder_config_or_checkpoint(run, detect, name):
    loaded = flowdet.load(str(run / name), device="cpu")
    assert_same_detections(loaded(IMAGE), detect(IMAGE))


def test_boxes_are_in_pixels_of_the_image(detect):
    detections = detect(IMAGE)
    assert isinstance(detections, Instances) and len(detections) > 0
    assert detections.image_size == (40, 60)
    assert boxes(detections)[:, 2].max() > 40 and boxes(detections)[:, 3].max() <= 40
    assert list(detections.scores) == sorted(detections.scores, reverse=True)
    assert detect.class_names == [str(digit) for digit in range(10)]
    assert detect.names(detections) == [str(int(index)) for index in detections.pred_classes]


def test_all_kinds_of_inputs_give_the_same_detections(detect, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    expected = detect(IMAGE)
    for image in (path, str(path), Image.open(path), np.ascontiguousarray(IMAGE)):
        assert_same_detections(detect(image), expected)
    assert_same_detections(detect(IMAGE[..., ::-1], bgr=True), expected)
    swapped = detect(IMAGE[..., ::-1])
    assert (swapped.scores[:5] - expected.scores[:5]).abs().max() > 1e-3


def test_a_list_gives_a_list(detect):
    other = RNG.integers(0, 256, (96, 96), dtype=np.uint8)
    for several in ([IMAGE, other, IMAGE], (IMAGE, other, IMAGE)):
        results = detect(several)
        assert [x.image_size for x in results] == [(40, 60), (96, 96), (40, 60)]
        assert_same_detections(results[2], detect(IMAGE))
    assert len(detect([IMAGE])) == 1 and detect([]) == []


def test_disagreement_on_request(detect):
    detections = detect(IMAGE, disagreement=True)
    assert detections.block_boxes.shape == (len(detections), 4, 4) and len(detections) > 0
    assert (detections.box_spread > 0).all()
    assert not detect(IMAGE).has("box_spread")


def test_errors_for_other_inputs(detect):
    with pytest.raises(ValueError, match="must be uint8"):
        detect(IMAGE.astype(int))
    with pytest.raises(ValueError, match="image 0 has pixels from .* set INPUT.VALUE_RANGE"):
        detect(IMAGE.astype(np.float32))
    with pytest.raises(TypeError, match="not a NoneType"):
        detect([IMAGE, None])
    with pytest.raises(OSError, match="gone.png"):
        detect("gone.png")


def test_options_and_config_keys(run):
    loaded = flowdet.load(
        run,
        mode="multi_step_ensemble",
        steps=2,
        batch_size=3,
        score_threshold=0.5,
        **{"MODEL.FLOW_DET.NMS_THRESHOLD": 0.7},
    )
    model, cfg = loaded.predictor.model, loaded.predictor.cfg
    assert model.settings.plan == InferencePlan("multi_step_ensemble", num_steps=2)
    assert (model.postprocess.score_threshold, model.postprocess.nms_threshold) == (0.5, 0.7)
    assert cfg.TEST.BATCH_SIZE == 3
    model = flowdet.load(run, mode="single_step", block=2).predictor.model
    assert model.settings.plan.name == "single_step-2"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stps": 3}, ValueError, "unknown option 'stps': use mode, steps"),
        ({"MODEL.FLOW_DET.NUM_STEP": 3}, KeyError, "similar keys are .*NUM_STEPS"),
        ({"steps": 0}, ValueError, r"steps \(NUM_STEPS\) must be at least 1, got 0"),
        (
            {"mode": "ensemble", "steps": 2},
            ValueError,
            "steps is for mode multi_step or multi_step_ensemble, not",
        ),
        ({"block": 1}, ValueError, "block is for mode single_step"),
        ({"mode": "fast"}, ValueError, "INFERENCE_MODE is 'fast', but must be a reg"),
        ({"score_threshold": 50}, ValueError, r"in \[0, 1\], got 50"),
        ({"weights": "gone.pth"}, FileNotFoundError, "gone.pth"),
    ],
)
def test_wrong_options(run, options, error, message):
    with pytest.raises(error, match=message) as raised:
        flowdet.load(run, **options)
    assert "\n" not in str(raised.value)


def test_missing_files(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run, config or checkpoint 'gone'"):
        flowdet.load("gone")
    with pytest.raises(FileNotFoundError, match="has no config.yaml"):
        flowdet.load(tmp_path)
    alone = tmp_path / "model.pth"
    alone.write_bytes((run / "model_final.pth").read_bytes())
    with pytest.raises(
        FileNotFoundError, match="no config.yaml in the folder of .*model.pth: give the conf"
    ):
        flowdet.load(alone)
    config = tmp_path / "config.yaml"
    config.write_text((run / "config.yaml").read_text())
    # a training that has not written a checkpoint
    with pytest.raises(ValueError, match="no weights are given"):
        flowdet.load(config)
    assert len(flowdet.load(config, weights=alone)(IMAGE)) > 0


def test_the_last_checkpoint_of_an_unfinished_training(run, tmp_path):
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name.replace("final", "0000009")).write_bytes((run / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    loaded = flowdet.load(tmp_path)
    assert loaded.predictor.cfg.MODEL.WEIGHTS == str(tmp_path / "model_0000009.pth")


def test_classifier_returns_classes_and_probabilities(tmp_path):
    classify = flowdet.load(run_folder(tmp_path, "cls/digits_flow_vit.yaml", CLASSIFIER))
    classes = classify(IMAGE)
    assert sorted(name for name, _ in classes) == sorted(classify.class_names)
    probabilities = [probability for _, probability in classes]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert probabilities == sorted(probabilities, reverse=True)
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    several = classify([IMAGE[..., ::-1]], bgr=True) + classify([str(tmp_path / "image.png")])
    for result in several:
        assert [name for name, _ in result] == [name for name, _ in classes]
        assert [p for _, p in result] == pytest.approx(probabilities, abs=1e-4)
    with pytest.raises(ValueError, match="score_threshold is for detectors"):
        flowdet.load(tmp_path, score_threshold=0.5)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without log lines."""

    def log_message(self, *_):
        pass


@pytest.fixture
def server(run, tmp_path, monkeypatch):
    """The URL of the run on a local server, and a function that stops the server."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    handler = partial(QuietHandler, directory=str(run.parent))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=http.serve_forever, args=[0.01], daemon=True).start()

    def stop():
        http.shutdown()
        http.server_close()

    yield f"http://127.0.0.1:{http.server_port}/{run.name}", stop
    stop()


@pytest.mark.parametrize("name", ["", "config.yaml", "model_final.pth?download=true"])
def test_a_url_is_downloaded_once(server, detect, tmp_path, name):
    url, stop = server
    assert_same_detections(flowdet.load(f"{url}/{name}")(IMAGE), detect(IMAGE))
    cached = [x.name for x in (tmp_path / "cache").rglob("*") if x.suffix in (".yaml", ".pth")]
    assert sorted(cached) == ["config.yaml", "model_final.pth"]
    stop()
    assert_same_detections(flowdet.load(f"{url}/{name}")(IMAGE), detect(IMAGE))


def test_weights_of_a_url(server, run, detect, tmp_path):
    url, _ = server
    # the checkpoint of the run is not downloaded if other weights are given
    flowdet.load(f"{url}/config.yaml", weights=run / "model_final.pth")
    cached = [x.name for x in (tmp_path / "cache").rglob("*") if x.suffix in (".yaml", ".pth")]
    assert cached == ["config.yaml"]
    loaded = flowdet.load(run / "config.yaml", weights=f"{url}/model_final.pth")
    assert loaded.predictor.cfg.MODEL.WEIGHTS.startswith(str(tmp_path / "cache"))
    assert_same_detections(loaded(IMAGE), detect(IMAGE))


def test_urls_that_cannot_be_downloaded(server):
    url, stop = server
    with pytest.raises(FileNotFoundError, match="cannot download .*/gone.pth .*404.*: check the U"):
        flowdet.load(url + "/", weights=f"{url}/gone.pth")
    stop()
    with pytest.raises(FileNotFoundError, match="cannot download .*/other/config.yaml"):
        flowdet.load(f"{url}/other/")


def test_importing_flowdet_loads_no_trainer():
    code = "import sys, flowdet; print([x for x in sys.modules if 'flowdet.engine' in x])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=CONFIGS.parent
    )
    assert done.stdout.strip() == "[]", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        flowdet.lode  # noqa: B018
