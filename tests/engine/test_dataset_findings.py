"""What a training tells about its datasets, in the log and for the report."""

import pytest

from flowdet.engine import load_config, resolve_config
from flowdet.engine.dataset_findings import (
    FILE_NAME,
    log_dataset_remarks,
    read_findings,
    save_findings,
)
from tests.data.custom.example_datasets import load_coco, save_coco, write_coco


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


def config_of(root, *overrides):
    words = ["DATASETS.PATH", repr(str(root)), "MODEL.DEVICE", "cpu", *overrides]
    return resolve_config(load_config("digits_flow", words))


def test_objects_that_do_not_suit_the_config_are_logged(root, caplog):
    log_dataset_remarks(config_of(root, "INPUT.FIXED_SIZE", "(96, 96)"))
    assert "more objects than" not in caplog.text
    log_dataset_remarks(config_of(root, "MODEL.FLOW_DET.NUM_QUERIES", "1"))
    assert "3 images have more objects than the 1 queries" in caplog.text


def test_an_ordinary_dataset_leaves_no_file(root, tmp_path):
    (tmp_path / FILE_NAME).write_text("{}")
    save_findings(config_of(root), tmp_path)
    assert not (tmp_path / FILE_NAME).exists() and read_findings(tmp_path) == {}


def test_what_is_left_out_and_repaired_is_saved(root, tmp_path):
    data = load_coco(root)
    data["annotations"][0]["bbox"] = [-3, 3, 30, 30]
    data["annotations"][1]["bbox"] = None
    save_coco(root, data)
    (root / "annotations" / "instances_val.json").unlink()
    save_findings(config_of(root, "DATASETS.ON_PROBLEM", "skip"), tmp_path)
    lists = read_findings(tmp_path)[str(root)]
    assert lists["left out"][0] == "unreadable annotation: 1"
    assert lists["repaired"][0] == "box clipped to the image: 1"
    assert "1 of 2 images are held out" in lists["notes"][0]


@pytest.mark.parametrize(
    "content", ["", "[1]", "5", '{"a": "b"}', '{"a": {"notes": 5}}', "[" * 99_999]
)
def test_a_file_of_somebody_else_is_one_line(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match="has no findings of a training") as error:
        read_findings(tmp_path)
    assert "\n" not in str(error.value)
