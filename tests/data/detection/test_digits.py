"""The digits dataset: properties of scenes, reproducible files, what may be overwritten."""

import json
import shutil

import numpy as np
import pytest

from flowdet.data.detection.digits import (
    _LUMA,
    CLASS_NAMES,
    GENERATOR_VERSION,
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small dataset with seed 0; tests only read it."""
    root = tmp_path_factory.mktemp("digits") / "digits"
    assert make_digits(root, **SMALL)
    return root


@pytest.fixture
def copy(dataset, tmp_path):
    """A copy of the small dataset that a test may change."""
    return shutil.copytree(dataset, tmp_path / "digits")


def scene(digits, seed, **settings):
    return compose_scene(np.random.default_rng(seed), digits, **settings)


def files(root):
    """Returns the bytes of all files by relative path."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_every_digit_is_either_in_train_or_in_test(train_digits):
    test = DigitBank.load("test")
    assert not set(train_digits.indices) & set(test.indices)
    assert len(train_digits) + len(test) == 1797
    assert set(train_digits.labels) == set(test.labels) == set(range(10))


def test_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="train, test, not 'val'"):
        DigitBank.load("val")


def test_scene_has_valid_shapes_and_boxes_within_the_image(train_digits):
    for seed in range(50):
        image, boxes, classes = scene(train_digits, seed, image_size=80)
        assert image.shape == (80, 80, 3) and image.dtype == np.uint8
        assert boxes.shape == (len(classes), 4) and 1 <= len(classes) <= 6
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 80).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert set(classes.tolist()) <= set(range(10))


def test_objects_have_the_given_size(train_digits):
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


def test_digits_differ_from_their_background(train_digits, monkeypatch):
    contrasts = []

    def measure(rng, background, alpha, min_contrast):
        before = background.copy()
        _paint(rng, background, alpha, min_contrast)
        digit = background[alpha > 0.9].mean(0) @ _LUMA
        contrasts.append(np.abs(digit - before.mean((0, 1)) @ _LUMA))

    monkeypatch.setattr("flowdet.data.detection.digits._paint", measure)
    for seed in range(30):
        scene(train_digits, seed)
    assert len(contrasts) >= 30 and min(contrasts) > 0.2


def test_digits_do_not_overlap_more_than_allowed(train_digits):
    pairs = 0
    for seed in range(50):
        _, boxes, _ = scene(train_digits, seed, max_overlap=0)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert (np.minimum(a[2:], b[2:]) <= np.maximum(a[:2], b[:2])).any()
                pairs += 1
    assert pairs > 50


def test_too_large_digits_are_an_error(train_digits):
    with pytest.raises(ValueError, match="do not fit"):
        scene(train_digits, 0, object_size=(20, 200))


def test_same_seed_gives_the_same_files(dataset, tmp_path):
    assert make_digits(tmp_path / "same", **SMALL)
    assert make_digits(tmp_path / "other", **SMALL, seed=1)
    assert files(tmp_path / "same") == files(dataset) != files(tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "same"]


def test_an_image_does_not_depend_on_the_number_of_images(dataset, tmp_path):
    make_digits(tmp_path / "more", **{**SMALL, "num_train": 8})
    few, more = files(dataset), files(tmp_path / "more")
    names = [p for p in few if p.suffix in (".jpg", ".xml")]
    assert len(names) == 18
    assert all(few[p] == more[p] for p in names)


def test_existing_dataset_is_kept_and_another_one_is_an_error(copy):
    before = files(copy)
    assert not make_digits(copy, **SMALL)
    assert files(copy) == before
    with pytest.raises(FileExistsError, match="seed is 0, not 5.*--force"):
        make_digits(copy, **SMALL, seed=5)
    next((copy / "JPEGImages").iterdir()).write_bytes(b"damaged")
    with pytest.raises(FileExistsError, match="files were changed"):
        make_digits(copy, **SMALL)
    assert make_digits(copy, **SMALL, force=True)
    assert files(copy) == before


def test_files_of_another_kind_are_never_replaced(tmp_path):
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
def test_impossible_settings_are_an_error(tmp_path, key):
    with pytest.raises(ValueError, match=f"{key.removeprefix('num_')} is 0"):
        make_digits(tmp_path / "digits", **{**SMALL, key: 0})


def test_manifest_has_the_settings(dataset):
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert len(manifest.pop("sha256")) == 64
    assert manifest == {
        "generator_version": GENERATOR_VERSION,
        "seed": 0,
        "image_size": 48,
        "train": 6,
        "test": 3,
    }


def test_boxes_are_read_as_they_were_composed(dataset):
    digits = DigitBank.load("test")
    records = load_voc_dicts(dataset, "test", CLASS_NAMES, keep_difficult=False)
    assert len(records) == 3
    for i, record in enumerate(records):
        _, boxes, classes = scene(digits, [0, 1, i], image_size=48)
        assert (record["height"], record["width"]) == (48, 48)
        assert [a["bbox"] for a in record["annotations"]] == boxes.tolist()
        assert [a["category_id"] for a in record["annotations"]] == classes.tolist()
