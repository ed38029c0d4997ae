"""The page of a run: what it says, that it stands alone, and that a browser opens it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from flowdet.data.detection.builtin import register_voc
from flowdet.engine import FlowDetCheckpointer, resolve_config
from flowdet.reporting.report import write_report
from flowdet.reporting.report.charts import MAX_POINTS, _thinned, charts
from flowdet.reporting.report.evaluations import evaluated, last_metrics
from flowdet.reporting.report.pictures import SHOWN, _ends
from flowdet.reporting.report.summary import about
from tests.detection.tiny import tiny_cfg
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# what a page must not take for its own
EVIL = ("<b>", "cat & \"dog\" 'owl'", "</script><script>alert(1)</script>")
VOID = {"meta", "link", "img", "br", "hr", "input"}


class StrictParser(HTMLParser):
    """Notes what is wrong with a page: tags that do not match, ids twice, addresses outside."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.faults, self.texts, self.tags = [], set(), [], [], []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name == "id":
                self.faults += [f"id {value} twice"] if value in self.ids else []
                self.ids.add(value)
            address = name in ("src", "href", "xlink:href", "action")
            if address and not value.startswith(("data:", "#")):
                self.faults.append(f"{tag} {name}={value[:40]}")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        self.texts.append(data)

    def has(self, tag, **attributes):
        return sum(t == tag and attributes.items() <= a.items() for t, a in self.tags)


def parsed(path):
    text = path.read_text(encoding="utf-8")
    page = StrictParser()
    page.feed(text)
    page.close()
    faults = page.faults + page.open
    references = {name for tag, a in page.tags for name in re.findall(r"#([\w-]+)\)", str(a))}
    references |= {a["xlink:href"][1:] for _, a in page.tags if "xlink:href" in a}
    faults += [f"#{name} is nowhere" for name in references - page.ids]
    faults += re.findall(r"https?://\S{0,40}|@import|\bnan\b", text)
    assert faults == []
    # what screen readers go by
    assert page.has("h1") == 1 and page.has("html", lang="en")
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert page.has("th") == page.has("th", scope="row") + page.has("th", scope="col")
    return page, " ".join(" ".join(page.texts).split())


def write_run(folder, cfg, records=(), model=True):
    """The folder of a training of a resolved config."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "metrics.json").write_text("".join(lines))
    if model:
        torch.manual_seed(0)
        FlowDetCheckpointer(build_model(cfg), str(folder)).save("model_final")
    return folder


def training_records(metrics, count=2):
    records = [
        {"iteration": 10 * i + 9, "total_loss": 8.0 / (i + 1), "loss_cls": 8.0, "time": 0.5}
        | {f"block{k}/cls": 4.0 - k for k in range(3)}
        | {f"block{k}/matched_iou": 0.1 * k for k in range(3)}
        | {"lr/rest": 1e-4, "lr/backbone": 1e-5, "memory/process_peak_mib": 700.0 + i}
        for i in range(count)
    ]
    return [*records, {"iteration": 10 * count, **metrics}]


@pytest.fixture
def detector(voc_folder, tmp_path):
    """A finished run of a detector of classes with names that break pages."""
    images = {
        f"a&b<i>{i}": [((4, 4, 40, 30), EVIL[i % 3], 0), ((2, 20, 50, 44), EVIL[1], i % 2)]
        for i in range(5)
    }
    register_voc("evil", voc_folder(images), "train", EVIL)
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("evil",)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.MAX_EPOCHS = 5, 20, 0
    cfg = resolve_config(cfg)
    metrics = {"bbox/AP50": 40.0, "bbox/AP75": 20.0, "bbox/AP": 25.0, "bbox_ema/AP50": 41.5}
    metrics |= {f"bbox/AP50-{name}": 10.0 * i for i, name in enumerate(EVIL)}
    metrics |= {f"bbox_ema/AP50-{EVIL[0]}": float("nan")}
    return write_run(tmp_path / "run<b>", cfg, training_records(metrics))


@pytest.fixture
def classifier(tmp_path):
    cfg = tiny_classifier_cfg("mnist_flow_cnn", NUM_CLASSES=0)
    records = DatasetCatalog.get("sklearn_digits_test")[:30]
    DatasetCatalog.register("few", lambda: records)
    classes = MetadataCatalog.get("sklearn_digits_test").thing_classes
    MetadataCatalog.get("few").set(thing_classes=classes, evaluator_type="classification")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("few",)
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MAX_ITER = 0, 100
    metrics = {"classification/top1": 90.0, "classification/top1-multi_step-4": 90.0}
    metrics |= {"classification/top5-multi_step-4": 99.0, "classification_ema/top1-probe": 88.8}
    return write_run(tmp_path / "run", resolve_config(cfg), training_records(metrics))


def test_the_page_of_a_detector(detector):
    path = write_report(detector, images=4)
    assert path == detector / "report.html"
    page, text = parsed(path)
    for name in EVIL:
        assert name in text
    for words in ("40.0 AP50 ", "41.5 AP50, averaged weights", "20 iterations", "finished"):
        assert words in text
    assert "10 s (without evaluations)" in text and "10.0" in text and "701 MiB" in text
    assert "Of 4 of the 5 images of evil" in text
    # images and objects, difficult ones left out: 5 of three classes in turn and 3 of the second
    objects = [int(n) for n in re.findall(r"(\d+) [\d.]+ –?", text.split("AP50, averaged")[-1])]
    assert objects[:3] == [2, 5, 1]
    assert page.has("img") == 4
    assert all(a["src"].startswith("data:image/jpeg") for tag, a in page.tags if tag == "img")
    assert page.has("svg") == page.has("div", role="img") == 5
    assert "MAX_ITER: 20" in text


def test_the_page_of_a_classifier(classifier):
    page, text = parsed(write_report(classifier, images=10))
    assert "90.0 top-1" in text and "multi_step-4 90.0 99.0 –" in text
    assert "probe, averaged weights 88.8" in text
    assert "21 iterations" in text and "not finished: 100 were planned" in text
    assert "Of 10 of the 30 images of few" in text and "probability" in text
    assert page.has("img") == 10


def test_a_run_of_which_nothing_is_there_yet(detector, tmp_path):
    shutil.copytree(detector, tmp_path / "new")
    for name in ("metrics.json", "model_final.pth", "last_checkpoint"):
        (tmp_path / "new" / name).unlink()
    page, text = parsed(write_report(tmp_path / "new", tmp_path / "out" / "page.html"))
    assert (tmp_path / "out" / "page.html").is_file()
    assert "There was no evaluation yet." in text and "There are no weights yet" in text
    assert "No iteration was written" in text and "too few iterations" in text
    assert page.has("svg") == page.has("img") == 0


def test_images_that_are_gone(detector, tmp_path, caplog):
    shutil.rmtree(tmp_path / "voc" / "JPEGImages")
    page, text = parsed(write_report(detector))
    assert "not where they were" in text and page.has("img") == 0
    # the terminal says which, the page names no other folder
    assert "JPEGImages" in caplog.text and str(tmp_path / "voc") not in text
    # the annotations are still there
    assert "Objects" in text and page.has("svg") == 5
    DatasetCatalog.remove("evil")
    MetadataCatalog.remove("evil")
    _, text = parsed(write_report(detector))
    assert f"{EVIL[1]} – 10.0" in text


def test_images_can_be_left_out(detector):
    page, text = parsed(write_report(detector, images=0))
    assert page.has("img") == 0 and "Images were left out." in text
    with pytest.raises(ValueError, match="negative"):
        write_report(detector, images=-1)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run"):
        write_report(tmp_path)


def test_metrics_of_several_datasets_and_weights():
    cfg = tiny_cfg()
    cfg.DATASETS.TEST = ("day", "night")
    records = [{"day/bbox/AP50": 1.0, "night/bbox_ema/AP50-a/b": 3.0}, {"day/bbox/AP50": 2.0}]
    found = evaluated(cfg, records)
    assert [of.label for of in found] == ["day", "night, averaged weights"]
    assert [last_metrics(records, of) for of in found] == [{"AP50": 2.0}, {"AP50-a/b": 3.0}]


def test_curves_of_every_mode():
    cfg = tiny_classifier_cfg()
    cfg.DATASETS.TEST = ("few",)
    names = ("classification/top1", "classification/top1-multi_step-4", "classification_ema/top1")
    left_out = ("classification/top10", "classification/top5-probe", "classification/top10-probe")
    records = [{"iteration": 1} | dict.fromkeys((*names, *left_out), 50.0)]
    (chart,) = charts(cfg, records, evaluated(cfg, records))
    assert chart.title == "Top-1 on the test images"
    assert chart.description.endswith(
        "configured mode 50, multi_step-4 50, configured mode, averaged weights 50."
    )


def test_losses_of_blocks_are_summed():
    cfg = tiny_cfg()
    cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = 0
    records = [
        {"iteration": i, "loss_cls": 9.0, "loss_bbox": 9.0, "block0/cls": 1.0, "block0/bbox": 2.0}
        | {"block0/matched_iou": 0.5}
        for i in range(3)
    ]
    loss, iou = charts(cfg, records, [])
    assert (loss.title, iou.title) == ("Loss per block", "IoU of matched boxes, per block")
    assert loss.description == "Loss per block. Last values: block 0 3."
    assert ">iteration<" in loss.svg and ">epoch<" not in loss.svg


def test_long_curves_are_thinned():
    x = np.arange(3.0 * MAX_POINTS)
    points = _thinned(np.stack([x, x**2])[:, ::-1])
    assert points.shape == (2, MAX_POINTS)
    assert points[:, 0].tolist() == [1.0, (0 + 1 + 4) / 3]
    short = np.stack([x, x])[:, :MAX_POINTS]
    assert np.array_equal(_thinned(short), short)


def test_no_image_is_among_the_best_and_the_worst():
    for count in range(1, 20):
        best, worst = _ends(range(count))
        assert not set(best) & set(worst)
        assert len(best) + len(worst) == min(count, 2 * SHOWN)
        assert best[0] == 0 and (count == 1 or worst[0] == count - 1)


def test_duration_leaves_evaluations_out(tmp_path):
    cfg = tiny_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 1000, 4
    facts = dict(about(cfg, tmp_path, [{"iteration": 999, "time": 0.5}]))
    assert facts["Duration"].startswith("0:08:20") and facts["Images per second"] == "8.0"


def browse(browser, path):
    """The page's text after its scripts have run, and what its console says."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    done = subprocess.run(
        [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_real_browser_opens_the_page_without_errors(detector, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)})")
    path = write_report(detector, images=4)
    html, console = browse(browser, path)
    assert console == []
    # the script has run to its end: every header of the table sorts it
    assert html.count('<button type="button">') == 4
    assert html.count("<img ") == 4
    # and errors would be seen
    broken = tmp_path / "broken.html"
    broken.write_text(path.read_text().replace('"use strict";', '"use strict"; nothing();'))
    _, console = browse(browser, broken)
    assert any("nothing is not defined" in line for line in console)
