"""Classification datasets: what is read from files that the tests write, and downloads."""

import pickle
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from flowdet.data.classification.datasets import (
    CIFAR10_CLASSES,
    _read_torchvision,
    download,
    get_classification_dicts,
    register_classification_datasets,
    register_image_folder,
)
from flowdet.data.detection.builtin import datasets_root
from flowdet.engine.resolve import dataset_classes


@pytest.fixture
def root(tmp_path):
    """An empty folder, registered as the folder of all datasets."""
    register_classification_datasets(tmp_path)
    yield tmp_path
    register_classification_datasets(datasets_root())


def write_images(folder, *names):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (i, 0, 0)).save(path)


def ids(name):
    return [record["image_id"] for record in get_classification_dicts(name)]


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def test_digits_need_no_files_and_have_fixed_splits():
    splits = {s: get_classification_dicts(f"sklearn_digits_{s}") for s in ("train", "test")}
    assert {s: len(records) for s, records in splits.items()} == {"train": 1437, "test": 360}
    train, test = (Counter(r["label"] for r in records) for records in splits.values())
    assert all(abs(train[c] - 4 * test[c]) <= 4 for c in range(10))
    image_ids = {s: {r["image_id"] for r in records} for s, records in splits.items()}
    assert image_ids["train"] | image_ids["test"] == set(range(1797))
    assert [r["image_id"] for r in splits["test"][:4]] == [21, 24, 28, 34]
    assert MetadataCatalog.get("sklearn_digits_test").thing_classes == list("0123456789")
    assert MetadataCatalog.get("sklearn_digits_test").evaluator_type == "classification"


def test_digits_are_gray_images_with_the_whole_range_of_values():
    images = [r["image"] for r in get_classification_dicts("sklearn_digits_train")]
    assert {(image.shape, image.dtype.name) for image in images} == {((8, 8), "uint8")}
    assert (np.min(images), np.max(images)) == (0, 255)


def test_mnist_is_read_from_its_idx_files(root):
    rng = np.random.default_rng(0)
    written = {}
    for prefix, count in (("train", 5), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        write_idx(root / "MNIST/raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(root / "MNIST/raw" / f"{prefix}-labels-idx1-ubyte", labels)
        written[prefix] = images, labels
    for split, prefix in (("train", "train"), ("test", "t10k")):
        records = get_classification_dicts(f"mnist_{split}")
        images, labels = written[prefix]
        assert [r["image_id"] for r in records] == list(range(len(images)))
        assert [r["label"] for r in records] == labels.tolist()
        assert np.array_equal([r["image"] for r in records], images)
    assert dataset_classes("mnist_train")[3] == "3 - three"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_files(root, monkeypatch, name):
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        name
    ]
    names = list(CIFAR10_CLASSES) if name == "cifar10" else ["apple", "fish", "baby"]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    labels = {"labels" if name == "cifar10" else "fine_labels": [2, 0]}
    folder = root / kind.base_folder
    folder.mkdir()
    for file, _ in [*kind.train_list, *kind.test_list]:
        content = {"data": pixels.reshape(2, -1), **labels}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    with pytest.raises(FileNotFoundError, match="differ from the original ones"):
        get_classification_dicts(f"{name}_test")
    # accept files without the right checksum
    check = "torchvision.datasets.cifar.check_integrity"
    monkeypatch.setattr(check, lambda path, md5: Path(path).is_file())
    records = get_classification_dicts(f"{name}_test")
    assert [r["label"] for r in records] == [2, 0]
    assert np.array_equal(records[1]["image"], pixels[1].transpose(1, 2, 0))
    assert len(get_classification_dicts(f"{name}_train")) == 2 * len(kind.train_list)
    assert dataset_classes(f"{name}_train") == names


@pytest.mark.parametrize("content", [b"", b"no array of numbers"])
def test_damaged_files_of_mnist_are_one_line(tmp_path, content):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for kind in ("images-idx3", "labels-idx1"):
        (folder / f"train-{kind}-ubyte").write_bytes(content)
        (folder / f"t10k-{kind}-ubyte").write_bytes(content)
    with pytest.raises(FileNotFoundError, match="MNIST/raw is missing, or its files differ"):
        _read_torchvision(torchvision.datasets.MNIST, tmp_path, train=True)


def test_fixed_class_names_need_no_files(root):
    assert dataset_classes("cifar10_train") == list(CIFAR10_CLASSES)
    assert len(dataset_classes("mnist_test")) == 10


def test_image_folder(tmp_path):
    write_images(tmp_path / "pets", "dog/b.png", "cat/2.jpg", "cat/10.jpg", "cat/deep/1.png")
    (tmp_path / "pets" / "owl").mkdir()
    register_image_folder("pets", tmp_path / "pets")
    records = get_classification_dicts("pets")
    assert [r["image_id"] for r in records] == [
        "cat/10.jpg",
        "cat/2.jpg",
        "cat/deep/1.png",
        "dog/b.png",
    ]
    assert [r["label"] for r in records] == [0, 0, 0, 1]
    assert all(Path(r["file_name"]).is_file() for r in records)
    assert dataset_classes("pets") == ["cat", "dog", "owl"]
    # registering the name again replaces the dataset
    write_images(tmp_path / "more", "ant/1.png")
    register_image_folder("pets", tmp_path / "more")
    assert dataset_classes("pets") == ["ant"]


def test_tiny_imagenet_as_unpacked(root):
    folder = root / "tiny-imagenet-200"
    write_images(folder, "train/n02/images/n02_0.JPEG", "train/n01/images/n01_0.JPEG")
    write_images(folder, "val/images/val_0.JPEG", "val/images/val_1.JPEG")
    rows = ["val_0.JPEG\tn02\t0\t0\t62\t62\n", "val_1.JPEG\tn01\t3\t3\t42\t30\n"]
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    assert ids("tiny_imagenet_train") == ["n01/images/n01_0.JPEG", "n02/images/n02_0.JPEG"]
    records = get_classification_dicts("tiny_imagenet_val")
    assert [(r["image_id"], r["label"]) for r in records] == [("val_0.JPEG", 1), ("val_1.JPEG", 0)]
    assert all(Path(r["file_name"]).is_file() for r in records)
    assert dataset_classes("tiny_imagenet_train") == dataset_classes("tiny_imagenet_val")


def test_tiny_imagenet_with_validation_images_in_folders(root):
    folder = root / "tiny-imagenet-200" / "val"
    write_images(folder, "n02/val_0.JPEG", "n01/val_1.JPEG")
    (folder / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
    assert ids("tiny_imagenet_val") == ["n01/val_1.JPEG", "n02/val_0.JPEG"]


def test_imagenet_r_is_split_within_each_class_by_file_name(root):
    names = [f"n0{c}/art_{i}.jpg" for c in (1, 2) for i in range(10)]
    write_images(root / "imagenet-r", *names)
    train, test = ids("imagenet_r_train"), ids("imagenet_r_test")
    assert sorted(train + test) == sorted(names)
    assert Counter(name[:3] for name in test) == {"n01": 2, "n02": 2}
    # the two lowest of `printf n01/art_0.jpg | sha256sum`, ..., and of n02
    assert test == ["n01/art_7.jpg", "n01/art_8.jpg", "n02/art_2.jpg", "n02/art_3.jpg"]
    assert (
        dataset_classes("imagenet_r_train") == dataset_classes("imagenet_r_test") == ["n01", "n02"]
    )


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cifar10_train", "cifar-10-batches-py"),
        ("cifar100_test", "cifar-100-python"),
        ("mnist_train", "MNIST/raw"),
        ("tiny_imagenet_val", "tiny-imagenet-200/val"),
        ("imagenet_r_test", "imagenet-r"),
    ],
)
def test_missing_dataset_names_its_folder_and_the_key_to_set(root, name, folder):
    with pytest.raises(FileNotFoundError) as error:
        get_classification_dicts(name)
    for text in (name, str(root / folder), "DATASETS.DOWNLOAD True"):
        assert text in str(error.value)


def test_dataset_that_cannot_be_downloaded_says_how_to_get_it(root):
    match = "cifar10_subset.train.*make it with datasets/make_image_folder.py"
    with pytest.raises(FileNotFoundError, match=match):
        get_classification_dicts("cifar10_subset_train")
    with pytest.raises(ValueError, match=match):
        download(["cifar10_subset_train"])
    download(["sklearn_digits_train"])
    with pytest.raises(ValueError, match="'cifar11_train' is not registered; .*cifar10_train"):
        download(["cifar11_train"])


def test_archive_is_downloaded_once_and_unpacked_completely(root, monkeypatch):
    calls = []

    def fetch(url, download_root, extract_root, md5):
        calls.append((url.rsplit("/", 1)[1], len(md5), Path(download_root)))
        write_images(Path(extract_root) / "imagenet-r", *(f"n01/{i}.jpg" for i in range(5)))

    monkeypatch.setattr("flowdet.data.classification.datasets.download_and_extract_archive", fetch)
    download(["imagenet_r_train", "imagenet_r_test"])
    assert calls == [("imagenet-r.tar", 32, root)]
    assert len(ids("imagenet_r_train")) == 4
    assert [path.name for path in root.iterdir()] == ["imagenet-r"]


def test_torchvision_downloads_its_datasets(root, monkeypatch):
    calls = []
    fetch = "torchvision.datasets.cifar.download_and_extract_archive"
    monkeypatch.setattr(fetch, lambda url, root, **kw: calls.append(Path(root)))
    # because nothing was downloaded
    with pytest.raises(OSError, match="cifar10_test.*could not be downloaded"):
        download(["cifar10_test"])
    assert calls == [root]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "has no image"),
        ([{"image_id": 0}], "need a 'label'"),
        ([{"image_id": 7, "label": 2}], "image 7 has label 2, but there are 2 classes"),
        ([{"image_id": 0, "label": 1}] * 2, "two images with the same image_id"),
    ],
)
def test_malformed_datasets_are_an_error(records, message):
    DatasetCatalog.register("bad", lambda: records)
    MetadataCatalog.get("bad").thing_classes = ["a", "b"]
    with pytest.raises(ValueError, match=f"'bad'.*{message}"):
        get_classification_dicts("bad")


def test_detection_datasets_and_unknown_names_are_an_error(voc_dataset):
    name = voc_dataset({"a": [((0, 0, 9, 9), "cat", 0)]})
    with pytest.raises(ValueError, match="'pets' is not for classification"):
        get_classification_dicts(name)
    with pytest.raises(ValueError, match="similar names: .*sklearn_digits_train"):
        get_classification_dicts("digits_trian")


def test_image_folder_loses_no_picture_silently(tmp_path, caplog):
    folder = tmp_path / "animals"
    write_images(folder, "cat/a.gif", "cat/b.webp", "dog/c.png", "beside.png", "cat/.hidden.png")
    write_images(folder, ".ipynb_checkpoints/c.png")
    (folder / "dog" / "d.heic").write_bytes(b"")
    (folder / "dog" / "e.png ").write_bytes(b"")
    (folder / "cat" / "all").symlink_to(folder)
    (folder / "cat" / "gone.png").symlink_to(tmp_path / "nothing")
    register_image_folder("animals", folder)
    assert ids("animals") == ["cat/a.gif", "cat/b.webp", "cat/gone.png", "dog/c.png"]
    assert dataset_classes("animals") == ["cat", "dog"]
    assert "passed over: d.heic: convert it to jpg or png" in caplog.text
    assert "they are in no subfolder: beside.png" in caplog.text
    assert "left out: 1 file without the suffix of an image ('e.png ')" in caplog.text
