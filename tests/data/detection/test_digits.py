import json

import numpy as np
import pytest

from flowdet.data.detection.digits import (
    _LUMA,
    CLASS_NAMES,
    DigitBank,
    _paint,
    compose_scene,
    make_digits,
)
from flowdet.data.detection.voc import load_voc_dicts

SMALL = {"num_train": 6, "num_test": 3, "image_size": 48}


@pytest.fixture(scope="module")
def train_digits():
    return DigitBank.load("train")


def scene(digits, seed, **settings):
    return compose_scene(np.random.default_rng(seed), digits, **settings)


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_training_and_test_digits_are_disjoint_and_complete(train_digits):
    test = DigitBank.load("test")
    assert not set(train_digits.indices) & set(test.indices)
    assert len(train_digits) + len(test) == 1797
    assert set(train_digits.labels) == set(test.labels) == set(range(10))


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="train, test, not 'val'"):
        DigitBank.load("val")


def test_scene_shapes_and_boxes_inside(train_digits):
    for seed in range(50):
        image, boxes, classes = scene(train_digits, seed, image_size=80)
        assert image.shape == (80, 80, 3) and image.dtype == np.uint8
        assert boxes.shape == (len(classes), 4) and 1 <= len(classes) <= 6
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 80).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert set(classes.tolist()) <= set(range(10))


def test_object_size_is_kept(train_digits):
    sides = [
        (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        for boxes in (scene(train_digits, s, object_size=(20, 30))[1] for s in range(50))
    ]
    sides = np.concatenate(sides)
    assert sides.max() <= 30 and sides.min() >= 20 * 0.85 - 2


def test_boxes_are_tight_around_the_strokes(train_digits, monkeypatch):
    monkeypatch.setattr(
        "flowdet.data.detection.digits._light_and_grain", lambda rng, canvas: canvas
    )
    monkeypatch.setattr(
        "flowdet.data.detection.digits._background",
        lambda rng, n: np.full((n, n, 3), 0.5, np.float32),
    )
    for seed in range(20):
        image, boxes, _ = scene(train_digits, seed, max_objects=1)
        difference = np.abs(image - 0.5).max(axis=2)
        rows, columns = np.nonzero(difference > 0.4 * difference.max())
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(boxes[0], tight, atol=1)


def test_digits_stand_out_from_their_ground(train_digits, monkeypatch):
    gaps = []

    def measure(rng, ground, alpha, min_contrast):
        before = ground.copy()
        _paint(rng, ground, alpha, min_contrast)
        strokes = alpha > 0.9
        gaps.append(np.abs(ground[strokes].mean(0) @ _LUMA - before.mean((0, 1)) @ _LUMA))

    monkeypatch.setattr("flowdet.data.detection.digits._paint", measure)
    for seed in range(30):
        scene(train_digits, seed)
    assert min(gaps) > 0.2


def test_digits_hardly_overlap(train_digits):
    for seed in range(50):
        _, boxes, _ = scene(train_digits, seed, max_overlap=0)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert (np.minimum(a[2:], b[2:]) <= np.maximum(a[:2], b[:2])).any()


def test_too_large_digits_are_refused(train_digits):
    with pytest.raises(ValueError, match="do not fit"):
        scene(train_digits, 0, object_size=(20, 200))


def test_same_seed_gives_the_same_files(tmp_path):
    assert make_digits(tmp_path / "a", **SMALL)
    assert make_digits(tmp_path / "b", **SMALL)
    assert make_digits(tmp_path / "c", **SMALL, seed=1)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b and a != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    make_digits(tmp_path / "few", **SMALL)
    make_digits(tmp_path / "more", **{**SMALL, "num_train": 8})
    few, more = files(tmp_path / "few"), files(tmp_path / "more")
    pictures = [p for p in few if p.suffix in (".jpg", ".xml")]
    assert len(pictures) == 18
    assert all(few[p] == more[p] for p in pictures)


def test_second_call_does_nothing_and_changes_are_noticed(tmp_path):
    root = tmp_path / "digits"
    make_digits(root, **SMALL)
    before = files(root)
    assert not make_digits(root, **SMALL)
    with pytest.raises(FileExistsError, match="seed is 0, not 5.*--force"):
        make_digits(root, **SMALL, seed=5)
    next((root / "JPEGImages").iterdir()).write_bytes(b"damaged")
    with pytest.raises(FileExistsError, match="files were changed"):
        make_digits(root, **SMALL)
    assert make_digits(root, **SMALL, force=True)
    assert files(root) == before


def test_foreign_files_are_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="thesis.tex"):
        make_digits(tmp_path, **SMALL, force=True)
    assert (tmp_path / "thesis.tex").exists()


def test_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(root):
        raise KeyboardInterrupt

    monkeypatch.setattr("flowdet.data.detection.digits._digest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path / "digits", **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["num_train", "num_test", "image_size"])
def test_impossible_settings_are_named(tmp_path, key):
    with pytest.raises(ValueError, match=f"{key.removeprefix('num_')} is 0"):
        make_digits(tmp_path / "digits", **{**SMALL, key: 0})


def test_manifest_says_how_it_was_made(tmp_path):
    make_digits(tmp_path / "digits", **SMALL, seed=3)
    manifest = json.loads((tmp_path / "digits" / "manifest.json").read_text())
    assert manifest["seed"] == 3 and manifest["train"] == 6 and manifest["image_size"] == 48
    assert len(manifest["sha256"]) == 64


def test_written_boxes_come_back(tmp_path):
    make_digits(tmp_path / "digits", **SMALL)
    digits = DigitBank.load("test")
    records = load_voc_dicts(tmp_path / "digits", "test", CLASS_NAMES, keep_difficult=False)
    for i, record in enumerate(records):
        _, boxes, classes = scene(digits, [0, 1, i], image_size=48)
        assert (record["height"], record["width"]) == (48, 48)
        assert [a["bbox"] for a in record["annotations"]] == boxes.tolist()
        assert [a["category_id"] for a in record["annotations"]] == classes.tolist()
