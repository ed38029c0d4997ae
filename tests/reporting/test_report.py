"""The report of a run: its content, that it needs no other file, and that a browser opens it."""

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

from flowdet.data.custom import register_custom
from flowdet.data.detection.builtin import register_voc
from flowdet.engine import FlowDetCheckpointer, resolve_config
from flowdet.reporting.report import write_report
from flowdet.reporting.report.charts import MAX_POINTS, _thinned, charts
from flowdet.reporting.report.evaluations import last_metrics, metric_groups
from flowdet.reporting.report.gallery import SHOWN, _best_and_worst, is_annotated
from flowdet.reporting.report.summary import run_facts
from tests.data.custom.example_datasets import load_coco, save_coco, write_coco
from tests.detection.tiny import tiny_cfg
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg

# class names that must be escaped in a page
UNSAFE = ("<b>", "cat & \"dog\" 'owl'", "</script><script>alert(1)</script>")
# the page next to the report that it links to
EXPLORER = "report_explorer.html"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class StrictParser(HTMLParser):
    """Collects the errors of a page: unmatched tags, duplicate ids, external addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.errors, self.texts, self.tags = [], set(), [], [], []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name == "id":
                self.errors += [f"duplicate id {value}"] if value in self.ids else []
                self.ids.add(value)
            address = name in ("src", "href", "xlink:href", "action")
            if address and not value.startswith(("data:", "#", EXPLORER)):
                self.errors.append(f"external address {tag} {name}={value[:40]}")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> does not match an open tag")

    def handle_data(self, data):
        self.texts.append(data)

    def has(self, tag, **attributes):
        return sum(t == tag and attributes.items() <= a.items() for t, a in self.tags)


def parsed(path):
    text = path.read_text(encoding="utf-8")
    page = StrictParser()
    page.feed(text)
    page.close()
    errors = page.errors + page.open
    references = {name for tag, a in page.tags for name in re.findall(r"#([\w-]+)\)", str(a))}
    references |= {a["xlink:href"][1:] for _, a in page.tags if "xlink:href" in a}
    errors += [f"unknown id #{name}" for name in references - page.ids]
    errors += re.findall(r"https?://\S{0,40}|@import|\bnan\b", text)
    assert errors == []
    # what screen readers need
    assert page.has("h1") == 1 and page.has("html", lang="en")
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert page.has("th") == page.has("th", scope="row") + page.has("th", scope="col")
    return page, " ".join(" ".join(page.texts).split())


def write_run(folder, cfg, records=(), model=True):
    """Writes the folder of a training with a resolved config."""
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
    """A finished run of a detector whose class and image names must be escaped."""
    images = {
        f"a&b<i>{i}": [((4, 4, 40, 30), UNSAFE[i % 3], 0), ((2, 20, 50, 44), UNSAFE[1], i % 2)]
        for i in range(5)
    }
    register_voc("unsafe", voc_folder(images), "train", UNSAFE)
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("unsafe",)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.MAX_EPOCHS = 5, 20, 0
    cfg = resolve_config(cfg)
    metrics = {"bbox/AP50": 40.0, "bbox/AP75": 20.0, "bbox/AP": 25.0, "bbox_ema/AP50": 41.5}
    metrics |= {f"bbox/AP50-{name}": 10.0 * i for i, name in enumerate(UNSAFE)}
    metrics |= {f"bbox_ema/AP50-{UNSAFE[0]}": float("nan")}
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


def test_page_of_a_detector(detector):
    path = write_report(detector, images=4)
    assert path == detector / "report.html"
    page, text = parsed(path)
    for name in UNSAFE:
        assert name in text
    assert "Task detection, 3 classes" in text
    for words in ("40.0 AP50 ", "41.5 AP50, averaged weights", "20 iterations", "finished"):
        assert words in text
    assert "10 s (without evaluations)" in text and "10.0" in text and "701 MiB" in text
    assert "4 of the 5 images of unsafe" in text
    assert "true positive" in text and "false negative" in text and "false positive" in text
    # without difficult ones: 5 objects of the three classes in turn, and 3 of the second class
    objects = [int(n) for n in re.findall(r"(\d+) [\d.]+ –?", text.split("AP50, averaged")[-1])]
    assert objects[:3] == [2, 5, 1]
    assert page.has("img") == 4
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links == [EXPLORER, *(f"{EXPLORER}#image={i}" for i in (1, 2, 3, 4))]
    explorer = (detector / EXPLORER).read_text()
    captions = [x.split(": F1")[0] for x in page.texts if ": F1" in x]
    shown = re.search(r'"images": (\[.*?\])', explorer)[1]
    assert json.loads(shown) == captions and explorer.count('class="image-data"') == 4
    assert all(a["src"].startswith("data:image/jpeg") for tag, a in page.tags if tag == "img")
    assert page.has("svg") == page.has("div", role="img") == 5
    assert "MAX_ITER: 20" in text


def test_page_of_a_classifier(classifier):
    page, text = parsed(write_report(classifier, images=10))
    assert "90.0 top-1" in text and "multi_step-4 90.0 99.0 –" in text
    assert "probe, averaged weights 88.8" in text
    assert "Task classification, 10 classes" in text
    assert "21 iterations" in text and "not finished: 100 iterations are configured" in text
    assert "10 of the 30 images of few" in text and "probability" in text
    assert page.has("img") == 10


def test_page_of_a_run_without_results(detector, tmp_path):
    shutil.copytree(detector, tmp_path / "new")
    for name in ("metrics.json", "model_final.pth", "last_checkpoint"):
        (tmp_path / "new" / name).unlink()
    page, text = parsed(write_report(tmp_path / "new", tmp_path / "out" / "page.html"))
    assert (tmp_path / "out" / "page.html").is_file()
    assert "No evaluation has been recorded yet." in text and "There is no checkpoint yet" in text
    assert "contains no iteration yet" in text and "too few iterations" in text
    assert page.has("svg") == page.has("img") == 0


@pytest.mark.parametrize("task", ["detector", "classifier"])
def test_a_dataset_with_other_classes_by_now(task, request, caplog):
    """Such as after a folder of a class was renamed: the labels of the page would be others."""
    run = request.getfixturevalue(task)
    meta = MetadataCatalog.get({"detector": "unsafe", "classifier": "few"}[task])
    classes = meta.thing_classes[::-1]
    del meta.thing_classes
    meta.thing_classes = classes
    page, text = parsed(write_report(run, images=4))
    assert "The test dataset has other classes than the model." in text
    assert page.has("img") == 0 and page.has("svg") > 0
    assert "but the model has" in caplog.text and "false positive" not in text


def test_missing_images_and_dataset(detector, tmp_path, caplog):
    shutil.rmtree(tmp_path / "voc" / "JPEGImages")
    page, text = parsed(write_report(detector))
    assert "The test images or the checkpoint cannot be read." in text and page.has("img") == 0
    # the log names the missing file, the page does not name folders of the machine
    assert "JPEGImages" in caplog.text and str(tmp_path / "voc") not in text
    # the annotations still exist
    assert "Objects" in text and page.has("svg") == 5
    DatasetCatalog.remove("unsafe")
    MetadataCatalog.remove("unsafe")
    _, text = parsed(write_report(detector))
    assert f"{UNSAFE[1]} – 10.0" in text


def test_report_without_explorer(detector):
    config = detector / "config.yaml"
    config.write_text(config.read_text().replace("REPORT_EXPLORER: true", "REPORT_EXPLORER: false"))
    page, _ = parsed(write_report(detector, images=2))
    assert page.has("a") == 0 and not (detector / EXPLORER).exists()


def test_report_without_images(detector):
    page, text = parsed(write_report(detector, images=0))
    assert page.has("img") == 0 and "This report was written without images." in text
    with pytest.raises(ValueError, match="negative"):
        write_report(detector, images=-1)


def test_folder_that_is_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run"):
        write_report(tmp_path)


def test_metrics_of_several_datasets_and_weights():
    cfg = tiny_cfg()
    cfg.DATASETS.TEST = ("day", "night")
    records = [{"day/bbox/AP50": 1.0, "night/bbox_ema/AP50-a/b": 3.0}, {"day/bbox/AP50": 2.0}]
    groups = metric_groups(cfg, records)
    assert [group.label for group in groups] == ["day", "night, averaged weights"]
    metrics = [last_metrics(records, group) for group in groups]
    assert metrics == [{"AP50": 2.0}, {"AP50-a/b": 3.0}]


def test_curves_of_every_mode():
    cfg = tiny_classifier_cfg()
    cfg.DATASETS.TEST = ("few",)
    names = ("classification/top1", "classification/top1-multi_step-4", "classification_ema/top1")
    others = ("classification/top10", "classification/top5-probe", "classification/top10-probe")
    records = [{"iteration": 1} | dict.fromkeys((*names, *others), 50.0)]
    (chart,) = charts(cfg, records, metric_groups(cfg, records))
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


def test_long_curves_are_averaged_in_bins():
    x = np.arange(3.0 * MAX_POINTS)
    points = _thinned(np.stack([x, x**2])[:, ::-1])
    assert points.shape == (2, MAX_POINTS)
    assert points[:, 0].tolist() == pytest.approx([1.0, (0 + 1 + 4) / 3])
    short = np.stack([x, x])[:, :MAX_POINTS]
    assert np.array_equal(_thinned(short), short)


def test_no_image_is_both_among_the_best_and_the_worst():
    for count in range(1, 20):
        best, worst = _best_and_worst(range(count))
        assert not set(best) & set(worst)
        assert len(best) + len(worst) == min(count, 2 * SHOWN)
        assert best[0] == 0 and (count == 1 or worst[0] == count - 1)


def test_duration_and_speed(tmp_path):
    cfg = tiny_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 1000, 4
    facts = dict(run_facts(cfg, tmp_path, [{"iteration": 999, "time": 0.5}]))
    assert facts["Duration"].startswith("0:08:20") and facts["Images per second"] == "8.0"


def browse(browser, path, *flags):
    """The HTML of the page after its scripts have run, and the messages of its console."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *flags)
    done = subprocess.run(
        [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_browser_opens_the_page_without_errors(browser, detector, tmp_path):
    path = write_report(detector, images=4)
    html, console = browse(browser, path)
    assert console == []
    # the script has run: every header of the table has a button that sorts it
    assert html.count('<button type="button">') == 4
    assert html.count("<img ") == 4
    # an error in the script would be reported
    broken = tmp_path / "broken.html"
    broken.write_text(path.read_text().replace('"use strict";', '"use strict"; nothing();'))
    _, console = browse(browser, broken)
    assert any("nothing is not defined" in line for line in console)


def phone_widths(browser, path):
    """The widths of a phone's screen, in pixels, and of the page that is opened on it."""
    measured = path.with_name("measured.html")
    script = (
        "<script>document.documentElement.dataset.widths = "
        "`${window.innerWidth} ${document.documentElement.scrollWidth}`</script>"
    )
    measured.write_text(path.read_text(encoding="utf-8").replace("</body>", script + "</body>"))
    html, _ = browse(browser, measured, "--window-size=390,844")
    return [int(x) for x in re.search(r'data-widths="(\d+) (\d+)"', html).groups()]


def test_page_is_not_wider_than_a_phone(browser, detector):
    screen, page = phone_widths(browser, write_report(detector, images=4))
    assert page <= screen <= 500


@pytest.mark.parametrize("annotated", [True, False])
def test_images_without_annotations_are_not_ranked(tmp_path, annotated):
    root = write_coco(tmp_path / "pets")
    data = load_coco(root, "val")
    save_coco(root, data if annotated else data | {"annotations": []}, "test")
    names = register_custom(root)
    assert is_annotated(names["test"]) == annotated
    assert is_annotated(names["val"]) and is_annotated("unknown")
