"""Tables of a dataset, and remarks on what a config cannot detect."""

import pytest
from detectron2.config import get_cfg

from flowdet.config import add_flowdet_config
from flowdet.data.custom.statistics import class_table, config_remarks, size_table, split_table
from tests.data.custom.example_datasets import read_all, write_coco


@pytest.fixture
def records(tmp_path):
    return read_all(write_coco(tmp_path / "pets"))


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_flowdet_config(cfg)
    cfg.INPUT.FIXED_SIZE = [24, 32]
    return cfg


def cells(table):
    """Returns the cells of the rows below the head."""
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


def test_images_and_objects_per_split(records):
    train, val = cells(split_table(records, num_queries=1))
    assert train == ["train", "2", "0", "4", "2", "2", "2"]
    assert val == ["val", "2", "0", "3", "1.5", "2", "1"]


def test_objects_per_class(records):
    # class names may be numbers
    assert cells(class_table(records, ["0", "1"])) == [["0", "2", "2"], ["1", "2", "1"]]


def test_box_sizes(records, cfg):
    # the boxes have 28x30 and 20x30 pixels in images of 48x64, half as large in the input
    pixels, share, input_pixels = cells(size_table(records, cfg))
    assert (pixels[0], share[0], input_pixels[0]) == (
        "pixels",
        "share of the image",
        "pixels of the input",
    )
    # the quantiles 1, 10, 50, 90 and 99 %: the smallest box has sqrt(600), the largest sqrt(840)
    assert pixels[1:] == ["24", "24", "29", "29", "29"]
    assert share[1:] == ["44.2 %", "44.2 %", "52.3 %", "52.3 %", "52.3 %"]
    assert input_pixels[1:] == ["12", "12", "14", "14", "14"]
    assert "input" not in size_table(records, None)
    assert size_table({"train": []}, cfg) == "no boxes"


def test_sizes_follow_the_shortest_edge_without_a_fixed_size(records, cfg):
    cfg.INPUT.FIXED_SIZE, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = [0, 0], 96, 1000
    *_, input_pixels = cells(size_table(records, cfg))
    assert input_pixels[1:] == ["49", "49", "58", "58", "58"]


def test_too_many_and_too_small_objects(records, cfg):
    assert config_remarks(records, cfg) == []
    cfg.MODEL.FLOW_DET.NUM_QUERIES = 1
    cfg.INPUT.FIXED_SIZE = [12, 16]
    queries, small = config_remarks(records, cfg)
    assert "3 images have more objects than the 1 queries" in queries
    assert "NUM_QUERIES to 2 or more" in queries
    assert small.startswith("100% of the boxes are smaller than 8x8 pixels in the model input")
