"""datasets/make_image_folder.py: writes an archive or a registered dataset to folders."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from flowdet.data.classification.datasets import (
    CIFAR10_CLASSES,
    get_classification_dicts,
    register_image_folder,
)
from tests.data.scripts.loading import load_script, run_script


@pytest.fixture(scope="module")
def script():
    return load_script("make_image_folder")


def write_archive(path, tmp_path, labels):
    """Writes an archive of JPEG files, image i with gray value 10 * i; returns their bytes."""
    arrays, files = {}, {}
    for split in ("train", "test"):
        files[split] = []
        for i in range(len(labels)):
            Image.new("RGB", (8, 8), (10 * i,) * 3).save(tmp_path / "one.jpg")
            files[split].append((tmp_path / "one.jpg").read_bytes())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files[split]), dtype=np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files[split])])
        arrays[f"{split}_labels"] = np.array(labels, dtype=np.uint8)
    np.savez(path, **arrays)
    return files


def test_archive_is_written_to_folders_with_the_same_bytes(tmp_path, script, monkeypatch, capsys):
    files = write_archive(tmp_path / "a.npz", tmp_path, labels=[3, 9, 3, 0, 9])
    output = tmp_path / "cifar10_subset"
    words = ("--archive", tmp_path / "a.npz", "--train", 4, "--test", 2, "--output", output)
    run_script(script, monkeypatch, *words)
    assert "train: 4 images of 10 classes, 0 to 2 each" in capsys.readouterr().out
    for split, expected in (
        ("train", ["airplane/00003.jpg", "cat/00000.jpg", "cat/00002.jpg", "truck/00001.jpg"]),
        ("test", ["cat/00000.jpg", "truck/00001.jpg"]),
    ):
        register_image_folder(split, output / split)
        assert [r["image_id"] for r in get_classification_dicts(split)] == expected
        assert MetadataCatalog.get(split).thing_classes == list(CIFAR10_CLASSES)
    assert (output / "train/cat/00002.jpg").read_bytes() == files["train"][2]
    with pytest.raises(SystemExit, match="cifar10_subset exists: remove it"):
        run_script(script, monkeypatch, *words)


def test_registered_dataset_is_written_to_folders(tmp_path, script, monkeypatch):
    output = tmp_path / "out"
    counts = ("--train", 30, "--test", 20)
    run_script(script, monkeypatch, "--dataset", "sklearn_digits", *counts, "--output", output)
    register_image_folder("written", output / "test")
    records = get_classification_dicts("written")
    source = get_classification_dicts("sklearn_digits_test")[:20]
    assert len(records) == 20
    for record in records:
        original = source[int(Path(record["file_name"]).stem)]
        assert record["label"] == original["label"]
        assert np.array_equal(np.asarray(Image.open(record["file_name"])), original["image"])


def test_too_few_images_leave_nothing_behind(tmp_path, script, monkeypatch):
    write_archive(tmp_path / "a.npz", tmp_path, labels=[1, 2])
    output = tmp_path / "new" / "out"
    words = ("--archive", tmp_path / "a.npz", "--train", 2, "--test", 3, "--output", output)
    with pytest.raises(SystemExit, match="test of .* has 2 images, fewer than 3"):
        run_script(script, monkeypatch, *words)
    assert list(output.parent.iterdir()) == []
