"""What a check of a whole dataset finds and says."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from flowdet.config import add_flowdet_config
from flowdet.data.custom.check import check_dataset, problem_lines
from flowdet.data.custom.problems import Problem
from flowdet.data.custom.statistics import class_table, query_remarks, size_table, split_table
from flowdet.visualization.ground_truth import ground_truth_sheet
from tests.data.custom.small import CAT, TRAIN, VAL, load, save, write_coco, write_image


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_flowdet_config(cfg)
    cfg.INPUT.FIXED_SIZE = [24, 32]
    return cfg


def test_nothing_is_wrong(root):
    checked = check_dataset(root)
    assert (checked.kind, checked.class_names) == ("coco", ["cat", "dog"])
    assert checked.problems == checked.remarks == []


def test_several_mistakes_are_found_at_once(root):
    data = load(root)
    data["annotations"][0]["bbox"] = [2, 3, 0, 30]
    data["annotations"][1]["category_id"] = 9
    save(root, data)
    (root / "train" / "b.png").unlink()
    kinds = [p.kind for p in check_dataset(root).problems]
    assert kinds == ["missing image", "box without area", "unknown class", "empty split"]


def test_images_are_opened(root):
    write_image(root / "train" / "a.png", (64, 48))
    (root / "val" / "c.png").write_bytes((root / "val" / "c.png").read_bytes()[:60])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(root / "val" / "d.png", exif=exif)
    a, c, d = sorted(check_dataset(root).problems, key=lambda p: p.where)
    assert str(a).endswith("a.png: its annotation says 64x48, the image is 48x64")
    assert c.kind == "unreadable image" and c.where.endswith("c.png")
    assert str(d).endswith("the image is 48x64 once it is turned as its EXIF data say")
    assert check_dataset(root, open_images=False).problems == []


def test_remarks(root, voc_folder):
    write_image(root / "train" / "spare.png")
    data = load(root, "val")
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] == 2]
    save(root, data, "val")
    unused, absent = check_dataset(root).remarks
    assert "1 images in" in unused and unused.endswith("train are in no split, e.g. spare.png")
    assert absent == "val holds no object of dog"

    voc_folder(TRAIN, split="train")
    shared = voc_folder(VAL | {"a": [CAT]}, split="val")
    assert check_dataset(shared).remarks == ["1 images are in both train and val"]


def test_tables(root, cfg):
    records = check_dataset(root).records
    rows = split_table(records, 1).splitlines()
    assert [x.strip() for x in rows[2].split("|")[1:-1]] == ["train", "2", "0", "4", "2", "2", "2"]
    assert [x.split() for x in class_table(records, ["0", "1"]).splitlines()[2:]] == [
        ["|", "0", "|", "2", "|", "2", "|"],
        ["|", "1", "|", "2", "|", "1", "|"],
    ]
    # the boxes are 28x30 and 20x30 pixels in images of 48x64, halved in the input
    table = size_table(records, cfg)
    assert "| 29 " in table and "| 52.3 %" in table and "| 14 " in table
    assert "input" not in size_table(records, None)
    assert size_table({"train": []}, cfg) == "no boxes"


def test_what_a_config_cannot_find(root, cfg):
    records = check_dataset(root).records
    assert query_remarks(records, cfg) == []
    cfg.MODEL.FLOW_DET.NUM_QUERIES = 1
    cfg.INPUT.FIXED_SIZE = [12, 16]
    queries, small = query_remarks(records, cfg)
    assert "3 images hold more objects than the 1 queries" in queries
    assert "NUM_QUERIES to 2 or more" in queries
    assert small.startswith("100% of the boxes are smaller than 8x8 pixels in the input")


def test_problems_are_grouped_and_cut():
    problems = [Problem("rare", "a", "x"), *(Problem("often", str(i), "y") for i in range(5))]
    assert problem_lines(problems, 2) == [
        "often: 5",
        "  0: y",
        "  1: y",
        "  ... and 3 more (--examples 5 shows all)",
        "rare: 1",
        "  a: x",
    ]


def test_sheet_shows_the_boxes(root):
    checked = check_dataset(root)
    sheet = np.asarray(ground_truth_sheet(checked.records, checked.class_names, 3))
    assert sheet.shape[1] > 2 * 320
    # grey images: what has a colour are boxes and labels
    assert (np.ptp(sheet.astype(int), axis=2) > 100).sum() > 1000
    bare = {split: [{**r, "annotations": []} for r in rs] for split, rs in checked.records.items()}
    sheet = np.asarray(ground_truth_sheet(bare, checked.class_names, 3))
    assert (np.ptp(sheet.astype(int), axis=2) > 100).sum() == 0
