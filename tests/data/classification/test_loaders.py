"""Classification loaders: batches, seeds, workers, processes, memory, errors."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

import flowdet.data.classification.images as images_module
from flowdet.data.classification.datasets import register_image_folder
from flowdet.data.classification.loaders import (
    build_test_loader,
    build_train_loader,
    count_training_images,
    labels_of,
)
from tests.data.classification.batches import (
    ALL_AUGMENTATIONS,
    COUNT,
    assert_same,
    batches,
    ids,
    pixels_of,
    set_keys,
    write_folder,
)


def test_batches_contain_the_images_and_labels_of_the_dataset(cfg):
    source = pixels_of("noise")
    for record in sum(batches(cfg, 5), []):
        assert set(record) == {"image", "label", "image_id"}
        assert record["image"].dtype == torch.uint8 and record["image"].is_contiguous()
        assert torch.equal(record["image"], source[record["image_id"]].permute(2, 0, 1))
        assert record["label"] == record["image_id"] % 2 == labels_of("noise")[record["image_id"]]


@pytest.mark.parametrize(
    ("classes", "labels", "texts"),
    [
        (("a", "b"), [0, 1], []),
        (("a", "b", "c"), [0, 2], ["classes without training images, which cannot be learned: b"]),
        (("a",), [0, 0], ["all training images are of the class a"]),
    ],
)
def test_classes_that_cannot_be_learned_are_told(cfg, register, caplog, classes, labels, texts):
    image = torch.zeros(12, 12, 3, dtype=torch.uint8).numpy()
    records = [{"image_id": i, "label": x, "image": image} for i, x in enumerate(labels)]
    cfg.DATASETS.TRAIN = (register("+".join(classes), records, classes),)
    build_train_loader(cfg)
    told = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(told) == len(texts)
    assert all(text in message for text, message in zip(texts, told))


def test_every_image_once_per_epoch_in_a_different_order(cfg):
    # 2.5 batches per epoch
    order = ids(batches(cfg, 5))
    first, second = order[:COUNT], order[COUNT:]
    assert sorted(first) == sorted(second) == sorted(labels_of("noise"))
    assert first != second
    cfg.SEED = 12
    assert ids(batches(cfg, 5)) != order


def test_without_a_seed_every_loader_has_another_order(cfg):
    cfg.SEED = -1
    assert ids(batches(cfg, 5)) != ids(batches(cfg, 5))


def test_batch_may_be_larger_than_the_dataset(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 3 * COUNT
    assert sorted(ids(batches(cfg, 1))) == sorted(list(labels_of("noise")) * 3)


def test_resumed_loader_continues_exactly(cfg):
    set_keys(cfg, ALL_AUGMENTATIONS)
    assert_same(batches(cfg, 3, start_iter=4), batches(cfg, 7)[4:])


def test_batches_do_not_depend_on_the_number_of_workers(cfg):
    set_keys(cfg, ALL_AUGMENTATIONS)
    without_workers = batches(cfg, 5)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(batches(cfg, 5), without_workers)


@pytest.mark.parametrize("resized_crop", [0.0, 0.5])
def test_processes_split_the_batch_of_one_process(cfg, monkeypatch, resized_crop):
    set_keys(cfg, ALL_AUGMENTATIONS | {"INPUT.RESIZED_CROP_AREA": resized_crop})
    one_process = batches(cfg, 3)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(batches(cfg, 3))
    assert_same([a + b for a, b in zip(*parts)], one_process)


def test_augmentation_differs_between_epochs_and_images(cfg):
    set_keys(cfg, {"INPUT.CROP_PADDING": 4})
    cfg.SOLVER.IMS_PER_BATCH = COUNT
    first, second = ({r["image_id"]: r["image"] for r in batch} for batch in batches(cfg, 2))
    changed = sum(not torch.equal(first[i], second[i]) for i in first)
    assert changed >= COUNT - 2


@pytest.mark.parametrize("resized_crop", [0.0, 0.5])
def test_second_view_is_the_same_image_in_another_augmentation(cfg, resized_crop):
    set_keys(cfg, {"INPUT.RANDOM_FLIP": "horizontal", "INPUT.RESIZED_CROP_AREA": resized_crop})
    one_view = batches(cfg, 5)
    set_keys(cfg, {"INPUT.SECOND_VIEW": True})
    two_views = batches(cfg, 5)
    # the first view does not depend on the key
    assert_same(two_views, one_view)
    records = sum(two_views, [])
    assert all("image2" not in record for record in sum(one_view, []))
    assert all(record["image2"].is_contiguous() for record in records)
    changed = [not torch.equal(record["image"], record["image2"]) for record in records]
    assert any(changed)
    if not resized_crop:
        source = pixels_of("noise")
        for record in records:
            pixels = source[record["image_id"]].permute(2, 0, 1)
            assert any(torch.equal(record["image2"], x) for x in (pixels, pixels.flip(-1)))
        assert not all(changed)


def test_second_views_are_split_and_resumed_as_the_first(cfg, monkeypatch):
    set_keys(cfg, ALL_AUGMENTATIONS | {"INPUT.SECOND_VIEW": True})
    expected = second_views(batches(cfg, 3))
    assert_same(second_views(batches(cfg, 1, start_iter=2)), expected[2:])
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(second_views(batches(cfg, 3)))
    assert_same([a + b for a, b in zip(*parts)], expected)


def second_views(batches):
    """Returns batches with the second view as the image."""
    return [[{**record, "image": record["image2"]} for record in batch] for batch in batches]


def test_loaders_do_not_draw_from_the_global_generator(cfg):
    set_keys(cfg, ALL_AUGMENTATIONS | {"INPUT.RESIZED_CROP_AREA": 0.5})
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(cfg, 3)
    list(build_test_loader(cfg, "noise"))
    assert torch.equal(torch.rand(3), expected)


def test_small_images_are_enlarged_after_augmentation(cfg):
    cfg.DATASETS.TRAIN = ("sklearn_digits_train",)
    cfg.INPUT.FIXED_SIZE = [32, 32]
    source = pixels_of("sklearn_digits_train")
    for record in batches(cfg, 1)[0]:
        assert record["image"].shape == (3, 32, 32)
        coarse = record["image"][0].float().reshape(8, 4, 8, 4).mean((1, 3))
        assert (coarse - source[record["image_id"]]).abs().mean() < 20
    # the padding counts pixels of the small image: a crop can move all 8 x 8 of them out
    set_keys(cfg, {"INPUT.CROP_PADDING": 8})
    images = [r["image"] for r in sum(batches(cfg, 40), [])]
    assert {tuple(image.shape) for image in images} == {(3, 32, 32)}
    assert any(image.max() == 0 for image in images)


def test_channels_are_in_the_order_of_the_key(cfg):
    rgb = batches(cfg, 1)[0]
    cfg.INPUT.FORMAT = "BGR"
    bgr = batches(cfg, 1)[0]
    assert all(torch.equal(a["image"], b["image"].flip(0)) for a, b in zip(rgb, bgr))
    test_images = sum(build_test_loader(cfg, "noise"), [])
    source = pixels_of("noise")
    assert torch.equal(test_images[3]["image"], source[103].permute(2, 0, 1).flip(0))


@pytest.mark.parametrize("sizes", [[(20, 14)] * 5, [(20, 14), (14, 20), (12, 12), (30, 9)]])
@pytest.mark.parametrize("resized_crop", [0.0, 0.5])
def test_images_read_per_batch_equal_those_in_memory(cfg, tmp_path, sizes, resized_crop):
    cfg.DATASETS.TRAIN = (write_folder(tmp_path, sizes),)
    set_keys(cfg, ALL_AUGMENTATIONS | {"INPUT.RESIZED_CROP_AREA": resized_crop})
    in_memory, test_in_memory = batches(cfg, 3), list(build_test_loader(cfg, "folder"))
    cfg.DATALOADER.IN_MEMORY_GIB = 0.0
    assert_same(batches(cfg, 3), in_memory)
    assert_same(list(build_test_loader(cfg, "folder")), test_in_memory)


def test_images_in_memory_are_decoded_once(cfg, tmp_path, monkeypatch):
    cfg.DATASETS.TRAIN = (write_folder(tmp_path, [(12, 12)] * 6),)
    read, files = images_module.read_image, []
    monkeypatch.setattr(images_module, "read_image", lambda *a: files.append(a[0]) or read(*a))
    batches(cfg, 4)
    batches(cfg, 2, start_iter=4)
    assert len(files) == len(set(files)) == 6
    # six images need 2.4e-6 GiB: two batches of four are read
    cfg.DATALOADER.IN_MEMORY_GIB = 2e-6
    batches(cfg, 2, start_iter=1000)
    assert len(files) == 6 + 8


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_yields_every_image_once_in_order_without_label(cfg, workers):
    set_keys(cfg, ALL_AUGMENTATIONS)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, "noise")
    test_batches = list(loader)
    assert len(loader) == 3 and [len(batch) for batch in test_batches] == [4, 4, 2]
    assert ids(test_batches) == list(labels_of("noise"))
    source = pixels_of("noise")
    for record in sum(test_batches, []):
        assert set(record) == {"image", "image_id"}
        assert torch.equal(record["image"], source[record["image_id"]].permute(2, 0, 1))


def test_test_loader_is_split_over_processes(cfg, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(list(build_test_loader(cfg, "noise")))
    assert [len(ids(part)) for part in parts] == [4, 3, 3]
    assert sum(map(ids, parts), []) == list(labels_of("noise"))


def test_labels_cannot_change_test_inputs(cfg, register):
    records = [{**r, "label": 1 - r["label"]} for r in DatasetCatalog.get("noise")]
    register("swapped", records)
    assert_same(list(build_test_loader(cfg, "swapped")), list(build_test_loader(cfg, "noise")))


def test_several_datasets_are_joined(cfg, register):
    records = [{**r, "image_id": f"more{r['image_id']}"} for r in DatasetCatalog.get("noise")]
    cfg.DATASETS.TRAIN = ("noise", register("more", records))
    assert count_training_images(cfg) == 2 * COUNT
    assert len(set(ids(batches(cfg, 5)))) == 2 * COUNT


def test_datasets_with_different_classes_are_an_error(cfg):
    cfg.DATASETS.TRAIN = ("noise", "sklearn_digits_test")
    for function in (build_train_loader, count_training_images):
        with pytest.raises(ValueError, match="'noise' and 'sklearn_digits_test' have different"):
            function(cfg)


def test_unknown_empty_and_missing_datasets(cfg, register):
    for function in (build_train_loader, count_training_images):
        cfg.DATASETS.TRAIN = ("sklearn_digit_train",)
        with pytest.raises(ValueError, match="similar names: sklearn_digits_train"):
            function(cfg)
        cfg.DATASETS.TRAIN = ()
        with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
            function(cfg)
    with pytest.raises(ValueError, match="similar names: sklearn_digits_test"):
        build_test_loader(cfg, "sklearn_digit_test")
    register("nothing", [])
    with pytest.raises(ValueError, match="'nothing' has no image"):
        build_test_loader(cfg, "nothing")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.FIXED_SIZE", [0, 0], "INPUT.FIXED_SIZE"),
        ("INPUT.FIXED_SIZE", [32], "INPUT.FIXED_SIZE"),
        ("INPUT.FORMAT", "L", "INPUT.FORMAT 'L': use RGB or BGR"),
        ("INPUT.CROP_PADDING", -1, "INPUT.CROP_PADDING must not be negative"),
        ("SOLVER.IMS_PER_BATCH", 0, "SOLVER.IMS_PER_BATCH must be a positive multiple"),
    ],
)
def test_impossible_values_name_the_key(cfg, key, value, message):
    set_keys(cfg, {key: value})
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)


def test_batch_size_must_be_a_multiple_of_the_number_of_processes(cfg, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="multiple of the number of processes, 3, got 4"):
        build_train_loader(cfg)
    cfg.TEST.BATCH_SIZE = 0
    with pytest.raises(ValueError, match="TEST.BATCH_SIZE"):
        build_test_loader(cfg, "noise")


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_broken_file_is_named_with_its_image_id(cfg, tmp_path, limit):
    cfg.DATASETS.TRAIN = (write_folder(tmp_path, [(12, 12)] * 4),)
    cfg.DATALOADER.IN_MEMORY_GIB = limit
    broken = tmp_path / "b" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])  # the header is intact
    with pytest.raises(OSError, match=r"b.3.png \(image id b/3.png\)"):
        batches(cfg, 1)
    broken.write_bytes(b"no image")
    register_image_folder("folder", tmp_path)
    with pytest.raises(OSError, match=r"b.3.png \(image id b/3.png\)"):
        build_train_loader(cfg)
