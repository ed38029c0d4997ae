"""The explorer: its content and size, and a browser whose sliders move the boxes."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from flowdet.data.detection.builtin import register_voc
from flowdet.detection.boxes import to_absolute
from flowdet.engine import FlowDetCheckpointer, resolve_config
from flowdet.inference import explorer
from flowdet.inference.explorer_entry import MAX_ENTRY, explorer_entry, picture_uri
from flowdet.inference.explorer_truth import TrueBox, known_ground_truth
from flowdet.inference.predictor import Predictor
from flowdet.visualization.explorer import page as explorer_page
from tests.detection.tiny import tiny_cfg
from tests.reporting.test_report import UNSAFE, StrictParser, browse, phone_widths

NAMES = ("$x_{$<i>.png", "b&'\"<script>.png")
SCRIPT = explorer_page.files("flowdet.visualization.explorer").joinpath("explorer.js")


def make_predictor(folder, **keys):
    torch.manual_seed(0)
    cfg = tiny_cfg(**keys)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    model = build_model(resolve_config(cfg, training=False))
    FlowDetCheckpointer(model, str(folder)).save("model")
    predictor = Predictor(cfg, str(folder / "model.pth"))
    # without a dataset they are numbers
    predictor.class_names = list(UNSAFE)
    return predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return make_predictor(tmp_path_factory.mktemp("weights"), NUM_STEPS=5, STABILITY_SAMPLES=1)


@pytest.fixture
def records(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / name)
    return [{"file_name": str(tmp_path / name), "image_id": i} for i, name in enumerate(NAMES)]


def write(predictor, records, path, truth=lambda record: None, **settings):
    settings = {"title": UNSAFE[2], "threshold": 0.2, "num_seeds": 2} | settings
    return explorer.write_explorer(predictor, records, path, ground_truth=truth, **settings)


def data_of(path):
    """The data in a page, as a browser reads them."""
    text = path.read_text(encoding="utf-8")
    scripts = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    return [json.loads(script) for script in scripts]


def test_page_needs_no_other_file_and_escapes_names(predictor, records, tmp_path):
    def truth(record):
        return [TrueBox("</script>", (1.04, 2, 30, 40), True)] if record["image_id"] else None

    path = tmp_path / "out" / "page.html"
    count, outcome = write(predictor, records, path, truth)
    assert (count, outcome.exit_status) == (2, 0)
    text = path.read_text(encoding="utf-8")
    parser = StrictParser()
    parser.feed(text)
    assert parser.errors + parser.open == []
    # the address is the name of the SVG language, which is not loaded
    assert re.findall(r"https?://[^\s\"]*|@import|\bNaN\b", text) == ["http://www.w3.org/2000/svg"]
    assert text.count("<script") == text.count("</script>") == 4
    labeled = {a.get("for") for tag, a in parser.tags if tag == "label"}
    for tag, attributes in parser.tags:
        if tag in ("select", "svg") or attributes.get("type") == "range":
            assert "aria-label" in attributes or attributes["id"] in labeled
    page, first, second = data_of(path)
    assert page["classes"] == list(UNSAFE) and page["images"] == list(NAMES)
    assert (page["seeds"], page["blocks"], page["stability"]) == ([0, 1], 3, True)
    assert "truth" not in first and second["truth"] == [["</script>", 1, 2, 30, 40, 1]]
    assert [first["name"], second["name"]] == list(NAMES)
    assert all(len(json.dumps(x)) < MAX_ENTRY and x["limit"] is None for x in (first, second))


def test_broken_images_are_skipped(predictor, records, tmp_path, capsys):
    (tmp_path / NAMES[0]).write_bytes(b"no image")
    count, outcome = write(predictor, records, tmp_path / "page.html")
    assert (count, outcome.exit_status) == (1, 1)
    assert data_of(tmp_path / "page.html")[0]["images"] == [NAMES[1]]
    assert NAMES[0] in capsys.readouterr().err
    (tmp_path / NAMES[1]).write_bytes(b"no image")
    assert write(predictor, records, tmp_path / "none.html")[0] == 0
    assert not (tmp_path / "none.html").exists()


def test_ctrl_c_keeps_the_finished_images(predictor, records, tmp_path):
    def truth(record):
        if record["image_id"] == 1:
            raise KeyboardInterrupt
        return []

    count, outcome = write(predictor, records, tmp_path / "page.html", truth)
    assert (count, outcome.exit_status) == (1, 130)
    assert len(data_of(tmp_path / "page.html")) == 2


def test_equal_names_get_their_folders():
    files = ["/x/a/1.jpg", "/x/b/1.jpg", "/y/b/1.jpg", "/x/2.jpg"]
    assert explorer._short_names(files) == ["a/1.jpg", "x/b/1.jpg", "y/b/1.jpg", "2.jpg"]
    assert explorer._short_names(["/1.jpg", "/1.jpg"]) == ["//1.jpg", "//1.jpg"]


def test_more_than_100_images_are_refused(predictor, records, tmp_path):
    with pytest.raises(ValueError, match=r"101 images is too large \(at most 100\)"):
        write(predictor, records[:1] * 101, tmp_path / "page.html")


def test_boxes_are_left_out_of_large_entries(predictor, monkeypatch):
    """Those with the lowest scores, and the page says how many remain."""
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    (result,) = predictor([pixels], analyses=[explorer.transport_runs([0])])
    whole = explorer_entry(result)
    monkeypatch.setattr("flowdet.inference.explorer_entry.MAX_ENTRY", len(whole) - 1)
    text = explorer_entry(result)
    smaller = json.loads(text)
    assert len(text) < len(whole) and smaller["limit"] < 18
    step, whole_step = (x["runs"][0]["steps"][0] for x in (smaller, json.loads(whole)))
    assert step["ensemble"] == whole_step["ensemble"][: smaller["limit"]] != whole_step["ensemble"]
    scores = [row[2] for row in whole_step["ensemble"]]
    assert scores == sorted(scores, reverse=True)
    # coordinates of large images have no decimals
    assert all(type(x) is int for row in step["ensemble"] for x in row[3:7])
    monkeypatch.setattr("flowdet.inference.explorer_entry.MAX_ENTRY", 1000)
    with pytest.raises(ValueError, match="use fewer steps or noise seeds"):
        explorer_entry(result)


def test_pictures_of_any_content_are_small():
    rng = np.random.default_rng(0)
    for size in [(1500, 2000), (3, 4000), (1, 1)]:
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        assert len(picture_uri(image)) <= 80_000


def test_ground_truth_of_the_test_dataset(voc_folder):
    register_voc("pets", voc_folder({"a": [((5, 6, 20, 30), "dog", 1)]}), "train", ["cat", "dog"])
    cfg = tiny_cfg()
    cfg.DATASETS.TEST, cfg.MODEL.CLASS_NAMES = ("gone", "pets"), ["cat", "dog"]
    look_up = known_ground_truth(cfg)
    (known,) = DatasetCatalog.get("pets")
    (box,) = look_up({"file_name": known["file_name"]})
    assert box.name == "dog" and box.ignored and list(box.box) == [5, 6, 20, 30]
    assert look_up({"file_name": "elsewhere.jpg"}) is None
    # the classes of the dataset may be others than the model's by now
    cfg.MODEL.CLASS_NAMES = ["owl"]
    assert known_ground_truth(cfg)({"file_name": known["file_name"]})[0].name == "dog"


def test_too_many_seeds_are_refused_before_anything_is_computed(predictor, records, tmp_path):
    with pytest.raises(ValueError, match="^33 noise seeds are too many for one page"):
        write(predictor, records, tmp_path / "new" / "page.html", num_seeds=33)
    assert not (tmp_path / "new").exists()


def test_too_many_steps_are_refused_before_anything_is_computed(records, tmp_path):
    predictor = make_predictor(tmp_path, NUM_STEPS=201)
    with pytest.raises(ValueError, match="^a page with 603 steps per image is too large"):
        write(predictor, records, tmp_path / "new" / "page.html", num_seeds=3)
    assert not (tmp_path / "new").exists()


def test_an_image_that_is_too_large_is_skipped(predictor, records, tmp_path, monkeypatch, capsys):
    def entry(result, truth):
        if result["file_name"] == records[1]["file_name"]:
            raise ValueError("the page of it would need 200 KB")
        return explorer_entry(result, truth)

    monkeypatch.setattr(explorer, "explorer_entry", entry)
    count, outcome = write(predictor, records, tmp_path / "page.html")
    assert count == len(records) - 1 and outcome.skipped == 1
    assert f"{records[1]['file_name']}: the page of it would need" in capsys.readouterr().err


def test_a_detector_without_blocks(records, tmp_path):
    predictor = make_predictor(tmp_path, file="digits_backprop.yaml")
    write(predictor, records, tmp_path / "page.html")
    page, entry, _ = data_of(tmp_path / "page.html")
    assert (page["seeds"], page["blocks"]) == ([None], 0)
    (run,) = entry["runs"]
    assert run["seed"] is None and run["stable"] is None and len(run["steps"]) == 3
    assert all(list(step) == ["estimate"] for step in run["steps"])


def test_the_script_is_valid():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    subprocess.run([node, "--check", str(SCRIPT)], check=True)


# Drives the page as a reader does, and writes what it shows into the page.
DRIVER = """
<script>
{
const log = [];
const find = (id) => document.getElementById(id);
function set(id, value) {
  const control = find(id);
  if (control.type === "checkbox") control.checked = value; else control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
}
function key(name, shiftKey = false, target = document.body) {
  target.dispatchEvent(new KeyboardEvent("keydown", { key: name, shiftKey, bubbles: true }));
}
function record(name) {
  const boxes = [...document.querySelectorAll("#boxes g")].map((group) => {
    const [x, y, width, height] = ["x", "y", "width", "height"].map(
      (side) => Number(group.querySelector(".line").getAttribute(side)));
    const text = group.querySelector("text")?.textContent ?? "";
    return { kind: group.getAttribute("class"), query: Number(group.dataset.query),
      box: [x, y, x + width, y + height], text };
  });
  const [time, rows] = ["time-text", "rows"].map((id) => find(id).textContent);
  const alt = find("picture").getAttribute("aria-label");
  log.push({ name, boxes, time, alt, image: find("image").value, rows });
}
set("others", true);
for (const seed of [0, 1]) {
  find("seed").selectedIndex = seed;
  set("seed", find("seed").value);
  for (let i = 0; i <= Number(find("time").max); i += 1) { set("time", i); record(`${seed} ${i}`); }
}
set("others", false); set("states", false); set("stability", false); record("no stability");
set("score", 0.9); record("high threshold"); set("score", 0.2);
set("agreement", true); record("agreement"); set("agreement", false);
set("time", 0); set("block-2", true); record("block"); set("block-2", false);
set("ensemble", true); record("ensemble"); set("ensemble", false);
key("ArrowRight"); record("right"); key("ArrowLeft"); record("left");
key("+"); record("plus"); key("-");
// a slider that has the focus keeps only its own arrows
find("score").focus();
key("+", false, find("score")); record("plus on slider"); key("-", false, find("score"));
key("ArrowRight", false, find("score")); record("right on slider");
key("ArrowRight", true, find("score")); record("next image");
// the arrows scroll a table that is wider than its window
const table = document.querySelector(".scroll");
table.style.width = "2000px";
key("ArrowRight", false, table); record("right on table");
table.style.width = "50px";
key("ArrowRight", false, table); record("right on wide table");
const shown = document.createElement("pre");
shown.id = "log";
shown.textContent = JSON.stringify(log);
document.body.append(shown);
}
</script>
"""


def test_page_is_not_wider_than_a_phone(browser, predictor, records, tmp_path):
    write(predictor, records, tmp_path / "page.html")
    screen, page = phone_widths(browser, tmp_path / "page.html")
    assert page <= screen <= 500


@pytest.mark.parametrize("size", [(2000, 20), (20, 2000)])
def test_a_panorama_can_be_seen_on_a_phone(browser, predictor, size, tmp_path):
    Image.new("RGB", size).save(tmp_path / "panorama.png")
    record = {"file_name": str(tmp_path / "panorama.png"), "image_id": 0}
    write(predictor, [record], tmp_path / "page.html", num_seeds=1)
    sizes = (
        "<script>{ const { width, height } = "
        "document.getElementById('pixels').getBoundingClientRect();"
        "document.documentElement.dataset.picture = `${width} ${height}`; }</script>"
    )
    path = tmp_path / "sized.html"
    path.write_text((tmp_path / "page.html").read_text().replace("</body>", sizes + "</body>"))
    html, console = browse(browser, path, "--window-size=390,844")
    assert console == []
    shown = [float(x) for x in re.search(r'data-picture="(\S+) (\S+)"', html).groups()]
    assert min(shown) == pytest.approx(40, abs=1)
    screen, width = phone_widths(browser, tmp_path / "page.html")
    assert width <= screen


def drive(browser, path):
    """What the page shows during `DRIVER`, by the name of the record."""
    driven = path.with_name("driven.html")
    driven.write_text(path.read_text(encoding="utf-8").replace("</body>", DRIVER + "</body>"))
    text, console = browse(browser, driven)
    assert console == []
    log = json.loads(html.unescape(re.search(r'<pre id="log">(.*?)</pre>', text)[1]))
    return {x.pop("name"): x for x in log}


def boxes_of(shown, *kinds):
    return {x["query"]: x["box"] for x in shown["boxes"] if x["kind"] in kinds}


def expected_states(predictor, record, seed):
    """The decoded states before every step and at the end, by the detector itself."""
    model = predictor.model
    x = predictor.mapper(record)
    with torch.no_grad():
        tokens = model.encode([x])
        solution = model.solve(tokens, model.initial_noise(1, seed), trajectory=True)
        return [to_absolute(model.heads.boxes(z[0]), (60, 80)) for z in solution.states]


def test_sliders_move_the_boxes_along_the_trajectory(browser, predictor, records, tmp_path):
    write(predictor, records, tmp_path / "page.html", lambda record: [TrueBox("a", (1, 2, 30, 40))])
    shown = drive(browser, tmp_path / "page.html")
    per_step = 3
    for seed in (0, 1):
        states = expected_states(predictor, records[0], seed)
        assert len(states) == 6
        for k, expected in enumerate(states):
            drawn = boxes_of(shown[f"{seed} {k * per_step}"], "state", "other")
            assert sorted(drawn) == list(range(6))
            found = torch.tensor([drawn[query] for query in range(6)])
            torch.testing.assert_close(found, expected, atol=0.06, rtol=0)
    (result,) = predictor([records[0]["file_name"]], trajectory=True)
    for k, detections in enumerate(result["trajectory"]):
        visible = detections[detections.scores >= 0.2]
        assert len(visible) > 0
        # the last position, t = 1, still shows the last estimate
        for i in (k * per_step, k * per_step + 2, 15 if k == 4 else k * per_step):
            drawn = [x["box"] for x in shown[f"0 {i}"]["boxes"] if x["kind"] == "estimate"]
            expected = visible.pred_boxes.tensor
            torch.testing.assert_close(torch.tensor(drawn), expected, atol=0.06, rtol=0)
    check_choices(shown, len(visible))


def check_choices(shown, count):
    assert boxes_of(shown["no stability"], "state") == {}
    kinds = {name: [x["kind"] for x in shown[name]["boxes"]] for name in shown}
    assert kinds["0 15"].count("truth") == 1
    # a score is at most 1, so it is higher without the factor
    assert kinds["no stability"].count("estimate") >= count
    assert "estimate" not in kinds["high threshold"]
    assert shown["high threshold"]["alt"].endswith("0 detections")
    labels = [x["text"] for x in shown["agreement"]["boxes"] if x["kind"] == "estimate"]
    assert all("±" in label for label in labels) and "±" not in str(shown["0 15"])
    assert "block" in kinds["block"] and "block" not in kinds["ensemble"]
    assert "ensemble" in kinds["ensemble"]
    assert [shown[x]["time"][:8] for x in ("right", "left")] == ["t = 0.11", "t = 0.00"]
    assert kinds["plus"].count("estimate") < kinds["left"].count("estimate")
    assert kinds["plus on slider"] == kinds["plus"] and shown["right on slider"] == shown["left"]
    assert (shown["left"]["image"], shown["next image"]["image"]) == NAMES
    times = [shown[x]["time"][:8] for x in ("right on table", "right on wide table")]
    assert times == ["t = 0.11", "t = 0.11"] and shown["next image"]["time"][:8] == "t = 0.00"
    assert any(name in shown["no stability"]["rows"] for name in UNSAFE)
    assert shown["0 0"]["alt"].startswith(f"{NAMES[0]}, t = 0.00, step 1 of 5: ")
