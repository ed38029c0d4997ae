"""Loaders of classification: batches, seeding, sizes, augmentation, bad inputs."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from flowdet.config import add_flowdet_config
from flowdet.data.classification.augmentation import NUM_NUMBERS, BatchAugmentation, crop_batch
from flowdet.data.classification.datasets import register_image_folder
from flowdet.data.classification.images import fit
from flowdet.data.classification.loaders import (
    build_test_loader,
    build_train_loader,
    count_training_images,
    labels_of,
)

COUNT = 10
EVERYTHING = {
    "INPUT.CROP_PADDING": 2,
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.AUTO_AUGMENT": "cifar10",
    "INPUT.RANDOM_ERASING": 0.7,
    "INPUT.RANDOM_ROTATION": 20.0,
}


@pytest.fixture
def register():
    """Registers dicts as a dataset of two classes, for the time of a test."""
    names = []

    def add(name, records, classes=("even", "odd")):
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=list(classes))
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(register):
    """Ten noise images of 12 x 12 pixels in batches of 4."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 12, 12, 3), dtype=np.uint8)
    records = [{"image_id": 100 + i, "label": i % 2, "image": x} for i, x in enumerate(pixels)]
    cfg = get_cfg()
    add_flowdet_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (register("noise", records),)
    cfg.INPUT.FIXED_SIZE = [12, 12]
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.TEST.BATCH_SIZE = 4
    cfg.SEED = 11
    return cfg


def set_keys(cfg, keys):
    cfg.merge_from_list([word for pair in keys.items() for word in pair])


def batches(cfg, count, start_iter=0):
    return list(itertools.islice(build_train_loader(cfg, start_iter), count))


def ids(found):
    return [record["image_id"] for batch in found for record in batch]


def assert_same(found, expected):
    assert ids(found) == ids(expected)
    for a, b in zip(sum(found, []), sum(expected, []), strict=True):
        assert a.get("label") == b.get("label")
        assert torch.equal(a["image"], b["image"])


def pixels_of(name):
    return {r["image_id"]: torch.tensor(r["image"]) for r in DatasetCatalog.get(name)}


def write_folder(folder, sizes, suffix="png"):
    """One image of each (width, height), in alternating classes a and b."""
    rng = np.random.default_rng(1)
    for i, (width, height) in enumerate(sizes):
        path = folder / "ab"[i % 2] / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    register_image_folder("folder", folder)
    return "folder"


def test_batches_hold_the_images_and_labels_of_the_dataset(cfg):
    source = pixels_of("noise")
    for record in sum(batches(cfg, 5), []):
        assert set(record) == {"image", "label", "image_id"}
        assert record["image"].dtype == torch.uint8 and record["image"].is_contiguous()
        assert torch.equal(record["image"], source[record["image_id"]].permute(2, 0, 1))
        assert record["label"] == record["image_id"] % 2 == labels_of("noise")[record["image_id"]]


def test_every_image_once_per_epoch_in_another_order(cfg):
    # 2.5 batches per epoch
    order = ids(batches(cfg, 5))
    first, second = order[:COUNT], order[COUNT:]
    assert sorted(first) == sorted(second) == sorted(labels_of("noise"))
    assert first != second
    cfg.SEED = 12
    assert ids(batches(cfg, 5)) != order


def test_without_a_seed_every_loader_is_different(cfg):
    cfg.SEED = -1
    assert ids(batches(cfg, 5)) != ids(batches(cfg, 5))


def test_batch_may_be_larger_than_the_dataset(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 3 * COUNT
    assert sorted(ids(batches(cfg, 1))) == sorted(list(labels_of("noise")) * 3)


def test_resumed_loader_continues_exactly(cfg):
    set_keys(cfg, EVERYTHING)
    assert_same(batches(cfg, 3, start_iter=4), batches(cfg, 7)[4:])


def test_batches_do_not_depend_on_workers(cfg):
    set_keys(cfg, EVERYTHING)
    alone = batches(cfg, 5)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(batches(cfg, 5), alone)


@pytest.mark.parametrize("resized_crop", [0.0, 0.5])
def test_ranks_share_the_batch_of_one_process(cfg, monkeypatch, resized_crop):
    set_keys(cfg, EVERYTHING | {"INPUT.RESIZED_CROP_AREA": resized_crop})
    alone = batches(cfg, 3)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(batches(cfg, 3))
    assert_same([a + b for a, b in zip(*shares)], alone)


def test_augmentation_differs_between_epochs_and_images(cfg):
    set_keys(cfg, {"INPUT.CROP_PADDING": 4})
    cfg.SOLVER.IMS_PER_BATCH = COUNT
    first, second = ({r["image_id"]: r["image"] for r in batch} for batch in batches(cfg, 2))
    changed = sum(not torch.equal(first[i], second[i]) for i in first)
    assert changed >= COUNT - 2


def test_loaders_leave_the_global_generator(cfg):
    set_keys(cfg, EVERYTHING | {"INPUT.RESIZED_CROP_AREA": 0.5})
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(cfg, 3)
    list(build_test_loader(cfg, "noise"))
    assert torch.equal(torch.rand(3), expected)


def test_crop_offsets_by_hand():
    image = torch.tensor([[1, 2], [3, 4]]).expand(4, 1, 2, 2)
    offsets = torch.tensor([[1, 1], [0, 0], [2, 1], [1, 2]])
    found = crop_batch(image, 1, offsets)[:, 0].tolist()
    # itself, moved down and right, moved up, moved left
    assert found == [[[1, 2], [3, 4]], [[0, 0], [0, 1]], [[3, 4], [0, 0]], [[2, 0], [4, 0]]]


def test_numbers_decide_crop_and_flip(cfg):
    set_keys(cfg, {"INPUT.CROP_PADDING": 1, "INPUT.RANDOM_FLIP": "horizontal"})
    images = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(3, 3, 2, 2)
    numbers = torch.zeros(3, NUM_NUMBERS, dtype=torch.int64)
    # modulo 3 an offset, modulo 2 a flip
    numbers[:, :3] = torch.tensor([[4, 1, 2], [1, 1, 5], [0, 2, 1]])
    found = BatchAugmentation(cfg)(images, numbers)
    assert found[:, 2].tolist() == [[[1, 2], [3, 4]], [[2, 1], [4, 3]], [[0, 0], [0, 2]]]
    assert found.dtype == torch.uint8


def test_flips_are_half_of_the_images(cfg):
    set_keys(cfg, {"INPUT.RANDOM_FLIP": "horizontal"})
    source = {i: x.permute(2, 0, 1) for i, x in pixels_of("noise").items()}
    records = sum(batches(cfg, 100), [])
    flipped = sum(torch.equal(r["image"], source[r["image_id"]].flip(-1)) for r in records)
    same = sum(torch.equal(r["image"], source[r["image_id"]]) for r in records)
    assert flipped + same == 400 and 150 < flipped < 250


def test_crops_reach_every_offset(cfg):
    set_keys(cfg, {"INPUT.CROP_PADDING": 1})
    source = pixels_of("noise")[100].permute(2, 0, 1)
    offsets = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    crops = crop_batch(source.expand(9, -1, -1, -1), 1, offsets)
    found = [r["image"] for r in sum(batches(cfg, 200), []) if r["image_id"] == 100]
    counts = [sum(torch.equal(crop, image) for image in found) for crop in crops]
    assert sum(counts) == len(found) == 80 and min(counts) > 0


@pytest.mark.parametrize(
    "key", ["INPUT.AUTO_AUGMENT", "INPUT.RANDOM_ERASING", "INPUT.RANDOM_ROTATION"]
)
def test_each_transform_follows_its_key(cfg, key):
    plain = batches(cfg, 5)
    set_keys(cfg, {key: EVERYTHING[key]})
    found = batches(cfg, 5)
    assert ids(found) == ids(plain)
    pairs = [(a["image"], b["image"]) for a, b in zip(sum(found, []), sum(plain, []))]
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    assert 5 < sum(not torch.equal(a, b) for a, b in pairs)


def test_erasing_sets_a_rectangle_to_zero(cfg, register):
    white = np.full((12, 12), 255, dtype=np.uint8)
    cfg.DATASETS.TRAIN = (register("white", [{"image_id": 0, "label": 0, "image": white}]),)
    set_keys(cfg, {"INPUT.RANDOM_ERASING": 1.0})
    for record in sum(batches(cfg, 3), []):
        rows, columns = (record["image"][0] == 0).nonzero().T
        assert 0 < len(rows) == len(rows.unique()) * len(columns.unique()) < 60


def test_resized_crops_come_from_the_image_as_read(cfg, tmp_path):
    """Crops of a wide gradient differ in slope; of the square centre they would be cut off."""
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (40, 1))
    for i in range(2):
        path = tmp_path / "x" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(ramp[:, : 120 - i]).save(path)
    register_image_folder("ramps", tmp_path)
    cfg.DATASETS.TRAIN = ("ramps",)
    set_keys(cfg, {"INPUT.RESIZED_CROP_AREA": 0.2})
    images = [r["image"] for r in sum(batches(cfg, 20), [])]
    assert {tuple(image.shape) for image in images} == {(3, 12, 12)}
    assert min(int(x.min()) for x in images) < 40 and max(int(x.max()) for x in images) > 195
    spans = {int(x.max()) - int(x.min()) for x in images}
    assert len(spans) > 5


def test_grey_images_get_three_equal_channels(cfg):
    cfg.DATASETS.TRAIN = ("sklearn_digits_train",)
    cfg.INPUT.FIXED_SIZE = [8, 8]
    source = pixels_of("sklearn_digits_train")
    for record in batches(cfg, 1)[0]:
        assert torch.equal(record["image"], source[record["image_id"]].expand(3, 8, 8))


def test_small_images_are_enlarged(cfg):
    cfg.DATASETS.TRAIN = ("sklearn_digits_train",)
    cfg.INPUT.FIXED_SIZE = [32, 32]
    source = pixels_of("sklearn_digits_train")
    for record in batches(cfg, 1)[0]:
        assert record["image"].shape == (3, 32, 32)
        coarse = record["image"][0].float().reshape(8, 4, 8, 4).mean((1, 3))
        assert (coarse - source[record["image_id"]]).abs().mean() < 20
    # enlarged after augmentation: a crop moves by pixels of the small image
    set_keys(cfg, {"INPUT.CROP_PADDING": 8})
    assert batches(cfg, 1)[0][0]["image"].shape == (3, 32, 32)


def test_fit_resizes_the_shortest_edge_and_crops_the_centre():
    ramp = torch.arange(0, 240, 4, dtype=torch.uint8).expand(1, 3, 20, 60)
    found = fit(ramp, (10, 10))
    assert found.shape == (1, 3, 10, 10)
    # columns 20 to 39 of the original, two of them in each
    expected = (ramp[0, 0, 0, 20:40:2].int() + ramp[0, 0, 0, 21:40:2].int()) // 2
    assert (found[0, 0, 5].int() - expected).abs().max() <= 1
    assert fit(ramp, (20, 60)) is ramp
    for size in ((7, 31), (64, 3), (1, 1), (61, 60)):
        assert fit(ramp, size).shape[-2:] == size


def test_shrinking_averages_pixels():
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(16).expand(3, 32, 32)
    inner = fit(stripes, (8, 8))[:, :, 1:-1].int()
    assert (inner - 100).abs().max() <= 2


def test_channels_follow_the_format(cfg):
    rgb = batches(cfg, 1)[0]
    cfg.INPUT.FORMAT = "BGR"
    bgr = batches(cfg, 1)[0]
    assert all(torch.equal(a["image"], b["image"].flip(0)) for a, b in zip(rgb, bgr))
    tested = sum(build_test_loader(cfg, "noise"), [])
    source = pixels_of("noise")
    assert torch.equal(tested[3]["image"], source[103].permute(2, 0, 1).flip(0))


@pytest.mark.parametrize("sizes", [[(20, 14)] * 5, [(20, 14), (14, 20), (12, 12), (30, 9)]])
@pytest.mark.parametrize("resized_crop", [0.0, 0.5])
def test_streamed_images_are_those_in_memory(cfg, tmp_path, sizes, resized_crop):
    cfg.DATASETS.TRAIN = (write_folder(tmp_path, sizes),)
    set_keys(cfg, EVERYTHING | {"INPUT.RESIZED_CROP_AREA": resized_crop})
    kept, kept_test = batches(cfg, 3), list(build_test_loader(cfg, "folder"))
    cfg.DATALOADER.IN_MEMORY_GIB = 0.0
    assert_same(batches(cfg, 3), kept)
    assert_same(list(build_test_loader(cfg, "folder")), kept_test)


def test_images_in_memory_are_decoded_once(cfg, tmp_path, monkeypatch):
    import flowdet.data.classification.images as images

    cfg.DATASETS.TRAIN = (write_folder(tmp_path, [(12, 12)] * 6),)
    read, files = images.read_image, []
    monkeypatch.setattr(images, "read_image", lambda *a: files.append(a[0]) or read(*a))
    batches(cfg, 4)
    batches(cfg, 2, start_iter=4)
    assert len(files) == len(set(files)) == 6
    # six images take 2.4e-6 GiB
    cfg.DATALOADER.IN_MEMORY_GIB = 2e-6
    batches(cfg, 2, start_iter=1000)
    assert len(files) == 6 + 8


def test_images_are_turned_as_their_exif_says(cfg, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    image = Image.fromarray(np.repeat(np.array([[0], [200]], np.uint8), [6, 6], 0).repeat(20, 1))
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise: the dark upper half goes to the right
    for i in range(2):
        image.save(folder / f"{i}.png", exif=exif)
    register_image_folder("turned", tmp_path)
    cfg.INPUT.FIXED_SIZE = [20, 12]
    for record in sum(build_test_loader(cfg, "turned"), []):
        assert record["image"][0, :, :6].eq(200).all() and record["image"][0, :, 6:].eq(0).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_gives_every_image_once_in_order_without_label(cfg, workers):
    set_keys(cfg, EVERYTHING)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, "noise")
    found = list(loader)
    assert len(loader) == 3 and [len(batch) for batch in found] == [4, 4, 2]
    assert ids(found) == list(labels_of("noise"))
    source = pixels_of("noise")
    for record in sum(found, []):
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


def test_datasets_are_joined(cfg, register):
    records = [{**r, "image_id": f"more{r['image_id']}"} for r in DatasetCatalog.get("noise")]
    cfg.DATASETS.TRAIN = ("noise", register("more", records))
    assert count_training_images(cfg) == 2 * COUNT
    assert len(set(ids(batches(cfg, 5)))) == 2 * COUNT


def test_different_classes_are_one_clear_error(cfg):
    cfg.DATASETS.TRAIN = ("noise", "sklearn_digits_test")
    for function in (build_train_loader, count_training_images):
        with pytest.raises(ValueError, match="'noise' and 'sklearn_digits_test' have different"):
            function(cfg)


def test_unknown_empty_and_no_datasets(cfg, register):
    for function in (build_train_loader, count_training_images):
        cfg.DATASETS.TRAIN = ("sklearn_digit_train",)
        with pytest.raises(ValueError, match="near names: sklearn_digits_train"):
            function(cfg)
        cfg.DATASETS.TRAIN = ()
        with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
            function(cfg)
    with pytest.raises(ValueError, match="near names: sklearn_digits_test"):
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
        ("INPUT.AUTO_AUGMENT", "cifar", "INPUT.AUTO_AUGMENT 'cifar': use .*'cifar10'"),
        ("INPUT.RANDOM_FLIP", "vertical", "INPUT.RANDOM_FLIP 'vertical': use .*'horizontal'"),
        ("INPUT.RANDOM_ERASING", 1.5, "INPUT.RANDOM_ERASING must be in 0 to 1, got 1.5"),
        ("INPUT.RESIZED_CROP_AREA", -0.1, "INPUT.RESIZED_CROP_AREA must be in 0 to 1"),
        ("INPUT.CROP_PADDING", -1, "INPUT.CROP_PADDING must not be negative"),
        ("INPUT.RANDOM_ROTATION", -1.0, "INPUT.RANDOM_ROTATION must not be negative"),
        ("SOLVER.IMS_PER_BATCH", 0, "SOLVER.IMS_PER_BATCH must be a positive multiple"),
    ],
)
def test_bad_keys_are_named(cfg, key, value, message):
    set_keys(cfg, {key: value})
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)


def test_batch_size_must_fit_the_processes(cfg, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="multiple of the number of processes, 3, got 4"):
        build_train_loader(cfg)
    cfg.TEST.BATCH_SIZE = 0
    with pytest.raises(ValueError, match="TEST.BATCH_SIZE"):
        build_test_loader(cfg, "noise")


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_broken_file_is_named_with_its_id(cfg, tmp_path, limit):
    cfg.DATASETS.TRAIN = (write_folder(tmp_path, [(12, 12)] * 4),)
    cfg.DATALOADER.IN_MEMORY_GIB = limit
    broken = tmp_path / "b" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])  # the header is there
    with pytest.raises(OSError, match=r"b.3.png \(image id b/3.png\)"):
        batches(cfg, 1)
    broken.write_bytes(b"no image")
    register_image_folder("folder", tmp_path)
    with pytest.raises(OSError, match=r"b.3.png \(image id b/3.png\)"):
        build_train_loader(cfg)


def test_wrong_pixels_are_refused(cfg, register):
    for name, image in (("real", np.zeros((4, 4))), ("deep", np.zeros((4, 4, 4), np.uint8))):
        register(name, [{"image_id": 9, "label": 0, "image": image}])
        with pytest.raises(ValueError, match="image 9 must be uint8"):
            build_test_loader(cfg, name)
