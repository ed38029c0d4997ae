"""Results of flowdet.load: pictures in notebooks, conversions, trajectories."""

import base64
import copy
import io
import pickle
import re
import sys

import numpy as np
import pytest
from detectron2.structures import Instances
from PIL import Image

import flowdet
from flowdet.inference.detections import Detections, ResultList
from tests.inference.comparison import assert_same_detections
from tests.inference.runs import CLASSIFIER, run_folder

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
EVIL = "<script>alert('$x_{$')</script>\""


@pytest.fixture(scope="module")
def detect(tmp_path_factory):
    detect = flowdet.load(run_folder(tmp_path_factory.mktemp("run"), "digits_flow.yaml"))
    detect.class_names[0] = EVIL
    return detect


def with_scores(detections, *scores):
    """The first detections of classes 0, 1, ... with other scores."""
    some = detections[list(range(len(scores)))]
    some.scores = some.scores.new_tensor(scores)
    some.pred_classes = some.pred_classes.new_tensor(range(len(scores)))
    return some


def pictures(html):
    """The embedded pictures; nothing else is loaded."""
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(sources) == html.count("src=") and "http" not in html
    return [Image.open(io.BytesIO(base64.b64decode(x))).convert("RGB") for x in sources]


def test_a_notebook_shows_the_image_with_boxes(detect):
    detections = with_scores(detect(np.zeros_like(IMAGE)), 0.9, 0.51, 0.49)
    detections.pred_boxes.tensor[:] = detections.pred_boxes.tensor.new_tensor([5, 10, 40, 35])
    html = detections._repr_html_()
    (picture,) = pictures(html)
    assert picture.size == (320, 213)
    # the left and the right side of the box, in the enlarged image
    sides = (np.asarray(picture)[120].max(axis=1) > 100).nonzero()[0]
    assert [sides.min(), sides.max()] == pytest.approx([5 * 320 / 60, 40 * 320 / 60], abs=4)
    caption = "image 0: 2 of 3 detections have a score of at least 50%: &lt;script&gt;alert(&#x27;"
    assert html.count(caption) == 2 and "1 51%" in html and "49%" not in html
    assert "<script" not in html


def test_a_selection_in_another_order_is_described_in_it(detect):
    html = with_scores(detect(IMAGE), 0.2, 0.9, 0.3, 0.6)._repr_html_()
    assert "2 of 4 detections have a score of at least 50%: 1 90%, 3 60%<" in html


def test_nothing_above_the_threshold_is_said(detect):
    html = with_scores(detect(IMAGE), 0.2)._repr_html_()
    assert "0 of 1 detections have a score of at least 50%<" in html
    assert "0 of 0 detections" in detect(IMAGE)[[]]._repr_html_()


def test_large_pictures_are_scaled_down(detect):
    html = detect(np.zeros((100, 2000, 3), np.uint8))._repr_html_()
    assert pictures(html)[0].size == (640, 32)
    assert detect(np.zeros((100, 2000, 3), np.uint8)).picture().size == (2000, 100)


def test_detections_are_instances_and_stay_detections(detect, tmp_path):
    detections = detect(IMAGE)
    assert isinstance(detections, Instances) and isinstance(detections, Detections)
    for selected in (detections[detections.scores > 0], detections[:2], detections.to("cpu")):
        assert type(selected) is Detections and selected._repr_html_()
    assert detections[0].names == detections.names[:1] == detect.names(detections)[:1]
    assert detections.file_name == "image 0"
    # the model is not pickled
    data = pickle.dumps(detections)
    assert len(data) < 100_000
    for copied in (pickle.loads(data), copy.deepcopy(detections)):
        assert_same_detections(copied, detections)
        assert copied._repr_html_() == detections._repr_html_()
        with pytest.raises(ValueError, match=r"have no model: call trajectory\(image\)"):
            copied.trajectory()


def test_pandas_frame(detect, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    detections = detect(path)
    frame = detections.to_pandas()
    assert list(frame) == ["file_name", "class_name", "class_id", "score", "x1", "y1", "x2", "y2"]
    assert (frame.file_name == str(path)).all() and list(frame.class_name) == detections.names
    boxes = frame[["x1", "y1", "x2", "y2"]].to_numpy()
    assert (boxes == detections.pred_boxes.tensor.numpy()).all()
    assert list(frame.class_id) == detections.pred_classes.tolist()
    assert list(frame.score) == pytest.approx(detections.scores.tolist())
    both = detect([path, IMAGE])
    frame = both.to_pandas()
    assert len(frame) == len(both[0]) + len(both[1]) and list(frame.index) == list(
        range(len(frame))
    )
    assert set(frame.file_name) == {str(path), "image 1"}
    spread = detect(path, disagreement=True).to_pandas()
    assert {"box_spread", "agreement"} <= set(spread) and (spread.box_spread > 0).all()
    empty = detections[[]].to_pandas()
    assert isinstance(empty, pandas.DataFrame) and len(empty) == 0 and "x1" in empty


def test_supervision_detections(detect):
    pytest.importorskip("supervision")
    detections = detect(IMAGE)
    converted = detections.to_supervision()
    assert (converted.xyxy == detections.pred_boxes.tensor.numpy()).all()
    assert converted.confidence.tolist() == detections.scores.tolist()
    assert converted.class_id.tolist() == detections.pred_classes.tolist()
    assert list(converted["class_name"]) == detections.names
    assert len(converted[converted.confidence == converted.confidence.max()]) == 1
    assert len(detections[[]].to_supervision()) == 0
    assert "agreement" in detect(IMAGE, disagreement=True).to_supervision().data


@pytest.mark.parametrize("name", ["pandas", "supervision"])
def test_a_missing_package_is_named_in_one_line(detect, name, monkeypatch):
    # the import system raises for a module that is None
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"needs {name} .*: pip install {name}$") as raised:
        getattr(detect(IMAGE), f"to_{name}")()
    assert "\n" not in str(raised.value)


def test_lists_show_the_first_pictures(detect):
    several = detect([IMAGE] * 14)
    assert type(several) is ResultList and isinstance(several, list)
    html = several._repr_html_()
    assert len(pictures(html)) == 12 and "2 more images are not shown" in html
    assert "more images" not in detect([IMAGE])._repr_html_()
    with pytest.raises(ValueError, match="give at least one image"):
        detect([]).to_pandas()


def test_trajectory(detect, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    for source in (path, IMAGE):
        detections = detect(source)
        trajectory = detections.trajectory()
        assert len(trajectory) == 4 and trajectory.times == [0.25, 0.5, 0.75, 1.0]
        assert_same_detections(trajectory[-1], detections)
        assert_same_detections(detect.trajectory(source)[0], trajectory[0])
        assert trajectory.boxes.boxes.shape == (33, 20, 4)
    (sheet,) = pictures(trajectory._repr_html_())
    # two rows of two tiles
    assert sheet.width == 2 * 330 + 10
    assert repr(trajectory) == "Trajectory('image 0', 4 steps)"
    swapped = detect.trajectory(IMAGE[..., ::-1], bgr=True)
    assert_same_detections(swapped[-1], detections)
    gif = Image.open(trajectory.save(tmp_path / "moves.gif"))
    assert gif.n_frames == 34
    assert Image.open(trajectory.save(tmp_path / "steps.png")).size == sheet.size
    with pytest.raises(ValueError, match=r"cannot write .*steps.xyz: use one of .jpg"):
        trajectory.save(tmp_path / "steps.xyz")


def test_classes_of_a_classifier(tmp_path):
    classify = flowdet.load(run_folder(tmp_path, "cls/digits_flow_vit.yaml", CLASSIFIER))
    classify.class_names[:] = [EVIL] * 10
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    classes = classify(path)
    html = classes._repr_html_()
    assert pictures(html)[0].size == (60, 40)
    assert "image.png: " in html and "<script" not in html
    assert classify(IMAGE)._repr_html_() and classify([IMAGE, path])._repr_html_()
    assert pickle.loads(pickle.dumps(classes)) == classes
    pytest.importorskip("pandas")
    frame = classes.to_pandas()
    assert list(zip(frame.class_name, frame.probability)) == classes
    assert len(classify([IMAGE, path]).to_pandas()) == 20
    assert repr(classify) == "ImageClassifier(FlowMatchingClassifier, 10 classes, cpu)"


def test_a_loaded_detector_describes_itself(detect):
    assert repr(detect) == "Detector(FlowMatchingDetector, 10 classes, cpu)"
