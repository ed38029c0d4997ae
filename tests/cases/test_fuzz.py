"""Random changes of annotation files: one line or a listed repair, never lost or wrong objects."""

from __future__ import annotations

import json
import random
import re

import pytest

from tests.cases.case import CONTENT, STOPS, Case
from tests.cases.checks import assert_perfect_detections_have_ap_100, checked, objects_of
from tests.cases.coco_writer import write_coco
from tests.cases.tool_cases import write_csv_splits, write_cvat, write_labelme
from tests.cases.voc_writer import write_voc
from tests.cases.yolo_cases import write_yolo

NAN, INFINITY = float("nan"), float("inf")
VALUES = [
    None, "", " ", "abc", "1,5", "-1", "nan", [], [1], {}, {"a": 1}, True, -1, 0, 0.5, 1e300,
    10**30, NAN, INFINITY, -INFINITY, "x" * 300, [[]], [None] * 4, "1e5", "٣", "\u0000",
]  # fmt: skip
TEXTS = ["", " ", "abc", "1,5", "-70", "nan", "inf", "1e300", "0x1", "--1", "1 2", "<", "&", "]]>"]
# numbers that a box may have
SMALL_NUMBERS = (True, -1, 0, 0.5)
# keys and tags with values that change the meaning of an object
MEANING = ("iscrowd", "name", "difficult")
ROUNDS = 40
EXPECTED = Case(write_coco).expected_images()


def assert_nothing_is_lost(folder, change):
    """A changed dataset stops with lines that name a file, or has the objects that it had."""
    outcome, check, told = checked(folder)
    for text in told:
        assert "\n" not in text and "Traceback" not in text, (change, text)
    if outcome == STOPS:
        assert all(str(folder) in text for text in told), (change, told)
        return
    if not told:
        actual = {s: objects_of(r, check.class_names) for s, r in check.records.items()}
        assert actual == EXPECTED, change
    assert_perfect_detections_have_ap_100(folder)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_coco_values(seed, tmp_path):
    """A random value of one entry of the file of one split."""
    rng, changes = random.Random(seed), []
    target = rng.choice(list(CONTENT))

    def edit(data, split):
        if split != target:
            return
        entry = rng.choice(rng.choice([data["images"], data["annotations"], data["categories"]]))
        key = rng.choice([k for k in entry if k not in MEANING])
        value = rng.choice(VALUES)
        if key == "bbox" and rng.random() < 0.7:
            position = rng.randrange(4)
            value = rng.choice([v for v in VALUES if v not in SMALL_NUMBERS])
            value = [*entry[key][:position], value, *entry[key][position + 1 :]]
        changes.append((split, key, entry[key], value))
        entry[key] = value

    folder = tmp_path / "shapes"
    write_coco(folder, edit)
    assert_nothing_is_lost(folder, changes)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_voc_texts(seed, tmp_path):
    """A random text in one tag of one xml file, or a tag that is missing."""
    rng, folder = random.Random(seed), tmp_path / "shapes"
    write_voc(folder)
    path = rng.choice(sorted(folder.glob("Annotations/*.xml")))
    text = path.read_text()
    tags = [m for m in re.finditer(r"<(\w+)>([^<>\n]*)</\1>", text) if m[1] not in MEANING]
    tag = rng.choice(tags)
    new = "" if rng.random() < 0.2 else f"<{tag[1]}>{rng.choice(TEXTS)}</{tag[1]}>"
    path.write_text(text[: tag.start()] + new + text[tag.end() :])
    assert_nothing_is_lost(folder, (path.name, tag[0], new))


def changed_word(path, rng, words):
    """Replaces one word of a text file, given by a regular expression, by a random text."""
    text = path.read_text()
    word = rng.choice(list(re.finditer(words, text)))
    new = rng.choice(TEXTS)
    path.write_text(text[: word.start()] + new + text[word.end() :])
    return path.name, word[0], new


@pytest.mark.parametrize("seed", range(ROUNDS // 2))
def test_yolo_words(seed, tmp_path):
    rng, folder = random.Random(seed), tmp_path / "shapes"
    write_yolo(folder)
    path = rng.choice(sorted(folder.glob("labels/*/*.txt")))
    assert_nothing_is_lost(folder, changed_word(path, rng, r"\S+"))


@pytest.mark.parametrize("seed", range(ROUNDS // 2))
def test_csv_numbers(seed, tmp_path):
    rng, folder = random.Random(seed), tmp_path / "shapes"
    write_csv_splits(folder)
    path = rng.choice(sorted(folder.glob("*.csv")))
    assert_nothing_is_lost(folder, changed_word(path, rng, r"(?<=,)\d+(?=,)"))


@pytest.mark.parametrize("seed", range(ROUNDS // 2))
def test_cvat_numbers(seed, tmp_path):
    rng, folder = random.Random(seed), tmp_path / "shapes"
    write_cvat(folder, divided=True)
    pattern = r'(?<=(?:xtl|ytl|xbr|ybr)=")[\d.]+'
    assert_nothing_is_lost(folder, changed_word(folder / "annotations.xml", rng, pattern))


@pytest.mark.parametrize("seed", range(ROUNDS // 2))
def test_labelme_values(seed, tmp_path):
    rng, folder = random.Random(seed), tmp_path / "shapes"
    write_labelme(folder)
    path = rng.choice(sorted(folder.glob("*/*.json")))
    data = json.loads(path.read_text())
    entry = rng.choice([data, *data["shapes"]])
    key = rng.choice([k for k in entry if k not in ("label", "version")])
    old, entry[key] = entry[key], rng.choice([v for v in VALUES if v != []])
    path.write_text(json.dumps(data))
    assert_nothing_is_lost(folder, (path.name, key, old, entry[key]))


@pytest.mark.parametrize("seed", range(ROUNDS // 2))
@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo, write_csv_splits, write_cvat])
def test_damaged_files(write, seed, tmp_path):
    """A file that is cut, has other bytes, is empty or missing: only problems of one line."""
    rng, folder = random.Random(seed), tmp_path / "shapes"
    write(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    path = rng.choice(files)
    data, kind = path.read_bytes(), rng.randrange(4)
    path.unlink()
    if kind == 0:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == 1:
        start = rng.randrange(len(data))
        path.write_bytes(data[:start] + rng.randbytes(8) + data[start + 8 :])
    elif kind == 2:
        path.touch()
    _, check, told = checked(folder)
    for text in told:
        assert "\n" not in text, (path.name, kind, text)
    assert told or check.records
