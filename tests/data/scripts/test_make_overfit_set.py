"""datasets/make_overfit_set.py: a few images of a VOC dataset, the same for train and val."""

import pytest

from flowdet.data.detection.voc import load_voc_dicts
from tests.data.scripts.loading import load_script, run_script

IMAGES = {f"[{i}]": [((i, 2, 30, 33), "cat", 0)] for i in range(5)}


@pytest.fixture(scope="module")
def script():
    return load_script("make_overfit_set")


def test_train_and_val_have_the_same_chosen_images(voc_folder, script, tmp_path, monkeypatch):
    source, output = voc_folder(IMAGES), tmp_path / "few"
    words = ("--source", source, "--images", 3, "--output", output)
    run_script(script, monkeypatch, *words)
    train, val = (load_voc_dicts(output, split, ["cat"], True) for split in ("train", "val"))
    assert train == val and len(train) == 3
    chosen = {r["image_id"]: r["annotations"] for r in train}
    original = {
        r["image_id"]: r["annotations"] for r in load_voc_dicts(source, "train", ["cat"], True)
    }
    assert chosen.items() <= original.items()
    assert sorted(p.stem for p in (output / "JPEGImages").iterdir()) == sorted(chosen)


def test_too_few_images_and_a_missing_split_are_an_error(voc_folder, script, tmp_path, monkeypatch):
    words = ("--source", voc_folder(IMAGES), "--output", tmp_path / "few")
    with pytest.raises(SystemExit, match="train.txt lists 5 images, fewer than 6"):
        run_script(script, monkeypatch, *words, "--images", 6)
    with pytest.raises(SystemExit, match="val.txt does not exist: give a folder in VOC layout"):
        run_script(script, monkeypatch, *words, "--split", "val")
