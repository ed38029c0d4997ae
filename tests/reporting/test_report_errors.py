"""The section of a report about the errors of a detector."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.evaluation.error_analysis import analyze
from flowdet.evaluation.error_analysis.average_precision import COCO
from flowdet.evaluation.saved_detections import FILE_NAME, SavedDetections
from flowdet.reporting.report import write_report
from flowdet.reporting.report.charts import line_svg
from flowdet.reporting.report.errors import (
    CONFUSIONS,
    CURVES,
    curve_charts,
    most_frequent_confusions,
    shown_curves,
)
from tests.evaluation.error_analysis.random_data import (
    random_detections,
    random_objects,
    record,
    saved,
)
from tests.reporting.test_report import UNSAFE, detector, parsed  # noqa: F401

SECTION = "Where the detector errs"


@pytest.fixture
def evaluated(detector):  # noqa: F811
    """The run `detector` with the detections of an evaluation. The images have the objects
    (4, 4, 40, 30) of the classes in turn, and (2, 20, 50, 44) of class 1, in odd images difficult.
    """
    images = [r["image_id"] for r in DatasetCatalog.get("unsafe")]
    detections = {image_id: [] for image_id in images}
    detections[images[0]] = [([4, 4, 40, 30], 0, 0.9), ([2, 20, 50, 44], 2, 0.8)]
    detections[images[1]] = [([4, 4, 40, 30], 1, 0.7), ([50, 2, 60, 12], 1, 0.95)]
    saved(detections, "unsafe").save(detector / "inference" / FILE_NAME)
    return detector


def test_section(evaluated):
    page, text = parsed(write_report(evaluated, images=4))
    assert SECTION in text and "The weights were evaluated on 5 images of unsafe" in text
    assert "with 8 objects; the last evaluation saved 4 detections" in text
    for words in ("classification right box, wrong class 1 ", "background no object there 1 "):
        assert words in text
    content = json.loads((evaluated / "report_errors.json").read_text())
    assert (
        content["tide"]["classification"]["count"] == 1 and content["tide"]["missed"]["count"] == 5
    )
    assert f"in percent: {content['ap50']:.1f}." in text and "report_errors.json" in text
    assert [curve["name"] for curve in content["curves"]] == list(UNSAFE)
    # one chart of curves and one of the calibration, after the five of the training
    assert page.has("svg") == page.has("div", role="img") == 7
    rows = re.search(r"Object <b> .*? background (.*?) AP by object size", text)[1]
    assert rows.startswith("<b> 1 1 ") and f"{UNSAFE[1]} 1 1 3 " in rows


def test_thumbnails_link_to_images_in_the_page(evaluated):
    page, text = parsed(write_report(evaluated, images=4))
    links = [a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"][0] == "#"]
    # two false positives and six missed objects, which are in five images
    assert len(links) == 2 + 6 + 5 and set(links) <= page.ids
    assert page.has("div", **{"class": "whole"}) == 5
    assert page.has("img") == 4 + 2 + 6 + 5
    assert f"{UNSAFE[1]} 95%, background (a&b<i>1.jpg)" in text
    assert f"{UNSAFE[2]} 80%, classification: on a {UNSAFE[1]}, IoU 1.00 (a&b<i>0.jpg)" in text
    assert f"{UNSAFE[1]}, classification: {UNSAFE[2]} 80% (a&b<i>0.jpg)" in text


def test_averaged_weights_come_first(evaluated):
    shutil.copytree(evaluated / "inference", evaluated / "inference_ema")
    _, text = parsed(write_report(evaluated, images=0))
    assert "The averaged weights were evaluated on 5 images" in text


def test_report_of_another_name(evaluated, tmp_path):
    parsed(write_report(evaluated, tmp_path / "out" / "page.html", images=0))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name for name in names if "explorer" not in name] == ["page.html", "page_errors.json"]


def test_files_of_an_earlier_report_are_deleted(evaluated):
    write_report(evaluated, images=4)
    names = [evaluated / "report_errors.json", evaluated / "report_explorer.html"]
    assert all(path.is_file() for path in names)
    (evaluated / "inference" / FILE_NAME).write_bytes(b"damaged")
    write_report(evaluated, images=0)
    assert not any(path.exists() for path in names)


def test_section_without_detections(evaluated):
    (evaluated / "inference" / FILE_NAME).write_bytes(b"damaged")
    _, text = parsed(write_report(evaluated, images=0))
    assert "The saved detections or the test dataset cannot be read." in text
    shutil.rmtree(evaluated / "inference")
    _, text = parsed(write_report(evaluated, images=0))
    assert "No evaluation has saved detections yet" in text
    assert not (evaluated / "report_errors.json").exists()


def test_section_with_a_class_that_the_dataset_does_not_have(evaluated, caplog):
    (image_id, *_) = [r["image_id"] for r in DatasetCatalog.get("unsafe")]
    detections = {image_id: [([4, 4, 40, 30], 99, 0.9)]}
    saved(detections, "unsafe").save(evaluated / "inference" / FILE_NAME)
    _, text = parsed(write_report(evaluated, images=0))
    assert "The saved detections or the test dataset cannot be read." in text
    assert "the saved detections have a class 99" in caplog.text


def test_section_without_images(evaluated, tmp_path):
    page, text = parsed(write_report(evaluated, images=0))
    assert page.has("img") == 0 and "with 8 objects" in text and "cannot be read" not in text
    shutil.rmtree(tmp_path / "voc" / "JPEGImages")
    page, text = parsed(write_report(evaluated, images=4))
    assert page.has("img") == 0 and "with 8 objects" in text
    assert "The test images cannot be read, so no examples are shown." in text


def test_classes_without_objects_are_counted(evaluated, monkeypatch):
    records = get_detection_dicts("unsafe", keep_difficult=True)
    for r in records:
        r["annotations"] = [a for a in r["annotations"] if a["category_id"] != 2]
    monkeypatch.setattr(
        "flowdet.evaluation.error_analysis.analysis.get_detection_dicts", lambda *_, **__: records
    )
    _, text = parsed(write_report(evaluated, images=0))
    assert f"{len(UNSAFE) - 1} of {len(UNSAFE)} classes have objects." in text
    assert "with the lowest AP" not in text


def test_section_without_dataset(evaluated):
    DatasetCatalog.remove("unsafe")
    MetadataCatalog.remove("unsafe")
    _, text = parsed(write_report(evaluated, images=0))
    assert "The saved detections or the test dataset cannot be read." in text


DETECTIONS = saved({1: [([4, 4, 40, 30], 0, 0.9)]})


def content_of(**arrays):
    """The archive of `DETECTIONS` with other arrays."""
    file = io.BytesIO()
    values = {name: getattr(DETECTIONS, name) for name in ("images", "boxes", "classes", "scores")}
    values["description"] = np.array('{"dataset": "hand", "image_ids": [1]}')
    np.savez(file, **values | arrays)
    return file.getvalue()


def compressed():
    file = io.BytesIO()
    np.savez_compressed(file, images=np.zeros(10**6))
    return file.getvalue()


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "zip": b"PK\3\4" + bytes(50),
    "cut": content_of()[:-30],
    "compressed": compressed(),
    "pickle": content_of(scores=np.array([{}], dtype=object)),
    "list": content_of(description=np.array("[1]")),
    "deep": content_of(description=np.array("[" * 100_000)),
    "more": content_of(description=np.array('{"dataset": "a", "image_ids": [1], "x": 1}')),
    "ids": content_of(description=np.array('{"dataset": "hand", "image_ids": [{}]}')),
    "shape": content_of(boxes=np.zeros((1, 3), np.float32)),
    "length": content_of(scores=np.zeros(3, np.float32)),
    "texts": content_of(scores=np.array(["a"])),
    "fractions": content_of(images=np.array([0.5])),
    "another image": content_of(images=np.array([7])),
    "negative class": content_of(classes=np.array([-7])),
    "large class": content_of(classes=np.array([2**62])),
    "nan score": content_of(scores=np.array([np.nan], np.float32)),
    "infinite score": content_of(scores=np.array([np.inf], np.float32)),
    "negative score": content_of(scores=np.array([-1], np.float32)),
    "nan box": content_of(boxes=np.full((1, 4), np.nan, np.float32)),
    "infinite box": content_of(boxes=np.array([[0, 0, np.inf, 1]], np.float32)),
    "negative size": content_of(boxes=np.array([[5, 5, 1, 9]], np.float32)),
    "nan stability": content_of(stability=np.array([np.nan], np.float32)),
    "numbers of another type": content_of(scores=np.array([0.5], np.longdouble)),
    "image twice": content_of(description=np.array('{"dataset": "hand", "image_ids": [1, 1]}')),
    "image is a truth value": content_of(
        description=np.array('{"dataset": "hand", "image_ids": [true]}')
    ),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ValueError, match=f"{FILE_NAME} has no detections that can be") as error:
        SavedDetections.load(tmp_path / FILE_NAME)
    assert "\n" not in str(error.value)


def test_many_classes():
    """Of 40 classes the page shows the curves with the lowest AP, and a list of confusions."""
    rng = np.random.default_rng(0)
    objects = random_objects(rng, 80, 40)
    detections = random_detections(rng, objects, 40)
    records = [record(image_id, of_image, "iscrowd") for image_id, of_image in objects.items()]
    analysis = analyze(saved(detections), records, [f"c{i}" for i in range(40)], COCO)
    classes = shown_curves(analysis)
    shown = [analysis.curves[i].ap for i in classes]
    others = [x.ap for i, x in enumerate(analysis.curves) if i not in classes and x.objects]
    assert len(classes) == CURVES and shown == sorted(shown, reverse=True)
    assert max(shown) <= min(others)
    assert len(curve_charts(analysis, classes)) == 3
    rows = most_frequent_confusions(analysis).rows
    assert len(rows) == CONFUSIONS and all(true != predicted for true, predicted, _ in rows)
    numbers = [int(n) for *_, n in rows]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] > 0


def test_names_of_classes_in_a_legend_are_plain_text():
    names = ["$x_{$", "<script>", "_hidden", "../x"]
    svg = line_svg({name: np.array([[0.0, 1.0], [0.0, 1.0]]) for name in names}, "recall", "a")
    assert "$x_{$" in svg and "_hidden" in svg and "&lt;script&gt;" in svg and "<script" not in svg


def test_long_names_of_classes_leave_room_for_the_other_labels(recwarn):
    # DejaVu Sans, the font of matplotlib, has no Chinese characters
    names = [f"{'LONG NAME ' * 20}{i}" for i in range(2)] + ["\u65e5\u672c", "name " * 8, "cat"]
    points = {f"{name} (71.3)": np.array([[0.0, 1.0], [0.0, 1.0]]) for name in names}
    svg = line_svg(points, "recall", "a")
    labels = re.findall(r'<text[^>]* x="([^"]+)"[^>]*>([^<]*\(71.3\))</text>', svg)
    assert [text[-8:] for _, text in labels[:2]] == ["0 (71.3)", "1 (71.3)"]
    width = float(re.search(r'viewBox="0 0 (\S+)', svg)[1])
    assert len(labels) == len(points)
    # a letter is about 0.65 of the size of 8
    assert all(0 <= float(x) and float(x) + 5.2 * len(text) <= width for x, text in labels)
    assert len(recwarn) == 0
