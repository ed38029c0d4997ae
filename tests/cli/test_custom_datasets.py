"""Custom datasets: written, checked, trained on, evaluated and drawn, with one command each."""

import json
import shutil

import pytest
from PIL import Image

from tests.cli.commands import FOUR_IMAGES, NO_REPORT, SMALL
from tests.cli.conftest import ROOT

CONFIG = ("--config-file", ROOT / "configs" / "digits_flow.yaml")


@pytest.fixture(scope="module")
def datasets(run, tmp_path_factory):
    """A folder with the same dataset in VOC format (voc) and in COCO format (coco)."""
    folder = tmp_path_factory.mktemp("datasets")
    words = ("--output", folder, "--train", 6, "--val", 3)
    status, output = run("datasets/make_custom_datasets.py", *words)
    assert status == 0, output
    status, output = run("datasets/make_custom_datasets.py", *words)
    assert status == 1 and "voc exists: remove it" in output
    return folder


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_check_train_evaluate_and_draw(run, datasets, tmp_path, kind):
    data = ("--data", datasets / kind)
    sheet = tmp_path / "sheet.png"
    status, output = run("tools/check_data.py", *data, *CONFIG, "--sheet", sheet, "--images", 4)
    assert status == 0, output
    assert f"{kind.upper()} format, 10 classes" in output and "no problems" in output
    assert Image.open(sheet).width > 2 * 320

    words = (*data, *SMALL, *FOUR_IMAGES, *NO_REPORT, "SOLVER.MAX_EPOCHS", 2)
    status, output = run("tools/train_net.py", *CONFIG, *words, "OUTPUT_DIR", tmp_path)
    assert status == 0, output
    assert "6 training images, 1.5 iterations per epoch, 3 iterations in all" in output
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["dataset"] for row in rows} == {f"custom_{kind}_val"}

    trained = ("--config-file", tmp_path / "config.yaml")
    weights = tmp_path / "model_final.pth"
    status, output = run("tools/train_net.py", *trained, "--eval-only", "MODEL.WEIGHTS", weights)
    assert status == 0, output
    again = json.loads((tmp_path / "eval" / "results.json").read_text())["rows"]
    # the checkpoint records its iteration, and the config does not say its epochs
    assert [row.pop("epochs") for row in rows] == [2] * len(rows)
    assert again == rows

    image, detections = next((datasets / kind).rglob("val*.[pj][pn]g")), tmp_path / "x.json"
    words = ("--weights", weights, "--input", image, "--json", detections)
    # an untrained model has low scores
    words += ("--score-threshold", 0)
    status, output = run("tools/demo.py", *trained, *words)
    assert status == 0, output
    names = {row["category_name"] for row in json.loads(detections.read_text())}
    assert names and names <= {
        *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    }


def test_a_training_reports_the_first_problem_and_a_check_all(run, datasets, tmp_path):
    shutil.copytree(datasets / "coco", tmp_path / "coco")
    broken = tmp_path / "coco" / "annotations" / "instances_val.json"
    data = json.loads(broken.read_text())
    data["annotations"][0]["bbox"] = [90, 90, 50, 50]
    data["annotations"][1]["category_id"] = 77
    broken.write_text(json.dumps(data))
    words = (*CONFIG, "--data", tmp_path / "coco")

    status, output = run("tools/train_net.py", *words, *SMALL, "OUTPUT_DIR", tmp_path / "out")
    assert status == 1 and "Starting training" not in output
    last = output.splitlines()[-1]
    assert last.startswith("error: ") and "category 77 is unknown" in last
    assert f"tools/check_data.py --data {tmp_path / 'coco'} lists all problems" in last

    clean = tmp_path / "clean"
    status, output = run("tools/check_data.py", *words, "--skip-images", "--write-clean", clean)
    assert status == 1
    assert output.index("box outside the image: 1") < output.index("| split")
    assert "unknown class: 1" in output and output.splitlines()[-1] == "2 problems"
    status, output = run("tools/check_data.py", "--data", clean, "--skip-images")
    assert status == 0 and "no problems" in output


def test_a_training_can_leave_problems_out_and_tells_it(run, datasets, tmp_path):
    shutil.copytree(datasets / "coco", tmp_path / "coco")
    broken = tmp_path / "coco" / "annotations" / "instances_train.json"
    data = json.loads(broken.read_text())
    data["annotations"][0]["bbox"] = [90, 90, 50, 50]
    data["annotations"][1]["bbox"] = [-3, 10, 40, 40]
    broken.write_text(json.dumps(data))
    words = ("--data", tmp_path / "coco", *SMALL, *FOUR_IMAGES, "TEST.REPORT_IMAGES", 0)
    words += ("SOLVER.MAX_ITER", 1, "DATASETS.ON_PROBLEM", "skip", "OUTPUT_DIR", tmp_path / "out")
    status, output = run("tools/train_net.py", *CONFIG, *words)
    assert status == 0, output
    assert ": 1 left out" in output and "box clipped to the image: 1" in output
    report = (tmp_path / "out" / "report.html").read_text()
    assert "box outside the image: 1" in report and "box clipped to the image: 1" in report


def test_a_check_survives_a_dataset_of_which_nothing_can_be_read(run, datasets, tmp_path):
    shutil.copytree(datasets / "voc", tmp_path / "voc")
    for xml in (tmp_path / "voc" / "Annotations").iterdir():
        xml.write_bytes(b"<annotation>\n\xff\xfe</annotation>")
    (tmp_path / "voc" / "classes.txt").unlink()
    words = ("--sheet", tmp_path / "sheet.png")
    status, output = run("tools/check_data.py", "--data", tmp_path / "voc", *CONFIG, *words)
    assert status == 1 and "Traceback" not in output
    assert "no image can be drawn" in output and output.splitlines()[-1] == "9 problems"


def test_wrong_flags_are_refused(run, tmp_path):
    words = ("SOLVER.MAX_ITER", 2, "--data", tmp_path)
    status, output = run("tools/train_net.py", *CONFIG, *words)
    assert status == 2 and "--data: flags go before the KEY VALUE pairs" in output
    status, output = run("tools/check_data.py", "--data", tmp_path)
    assert status == 1 and output.startswith(f"error: {tmp_path} contains no dataset, but nothing")
    status, output = run("tools/check_data.py", "--data", tmp_path, "--sheet", "sheet.txt")
    assert status == 2 and "must be the name of a picture" in output
    status, output = run("tools/check_data.py", "--data", tmp_path, "MODEL.DEVICE", "cpu")
    assert status == 2 and "give --config-file" in output
