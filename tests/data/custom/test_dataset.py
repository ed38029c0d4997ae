"""CustomDataset and its registration: names, metadata, what is read when."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.config.errors import ConfigError
from flowdet.data.custom import CustomDataset, dataset_of, register_custom
from tests.data.custom.example_datasets import CAT, TRAIN, VAL, load_coco, save_coco, write_coco


@pytest.fixture
def voc(voc_folder):
    voc_folder(TRAIN, split="train")
    return voc_folder(VAL, split="val")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "pets")


def test_metadata_of_voc(voc):
    names = register_custom(voc)
    assert names == {split: f"custom_voc_{split}" for split in ("train", "val", "test")}
    DatasetCatalog.get("custom_voc_val")
    meta = MetadataCatalog.get("custom_voc_val")
    assert (meta.evaluator_type, meta.year, meta.thing_classes) == (
        "pascal_voc",
        2012,
        ["cat", "dog"],
    )


def test_metadata_of_coco(coco):
    register_custom(coco)
    records = DatasetCatalog.get("custom_pets_val")
    meta = MetadataCatalog.get("custom_pets_val")
    assert (meta.evaluator_type, meta.thing_classes) == ("coco", ["cat", "dog"])
    assert meta.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1}
    # a copy for the evaluation, with the ids of the dataset
    images = json.loads(Path(meta.json_file).read_text(encoding="utf-8"))["images"]
    assert [image["id"] for image in images] == [r["image_id"] for r in records]
    assert meta.evaluation_image_ids is None


def test_evaluator_reads_a_completed_copy_of_an_incomplete_json_file(coco):
    data = load_coco(coco, "val")
    for annotation in data["annotations"]:
        del annotation["area"]
    save_coco(coco, data, "val")
    register_custom(coco)
    DatasetCatalog.get("custom_pets_val")
    copy = MetadataCatalog.get("custom_pets_val").json_file
    assert copy != str(coco / "annotations" / "instances_val.json")
    with open(copy, encoding="utf-8") as file:
        assert '"area": 840' in file.read()
    assert load_coco(coco, "val") == data


def test_files_are_read_once_and_callers_cannot_change_the_dicts(voc, monkeypatch):
    register_custom(voc)
    DatasetCatalog.get("custom_voc_train")
    monkeypatch.setattr("flowdet.data.custom.formats.voc.VOC.read", None)
    DatasetCatalog.get("custom_voc_train")[0]["annotations"].clear()
    assert len(DatasetCatalog.get("custom_voc_train")[0]["annotations"]) == 2
    # registering the folder again reads it again
    monkeypatch.undo()
    (voc / "ImageSets/Main/train.txt").write_text("b\n")
    register_custom(voc)
    assert [r["image_id"] for r in DatasetCatalog.get("custom_voc_train")] == ["b"]


def test_missing_folder_is_registered_and_is_an_error_when_it_is_read(voc):
    shutil.rmtree(voc)
    names = register_custom(voc)
    assert names == {split: f"custom_voc_{split}" for split in ("train", "val", "test")}
    with pytest.raises(FileNotFoundError, match=f"no folder {voc} "):
        DatasetCatalog.get("custom_voc_train")


def test_two_folders_of_one_name_are_an_error(coco, tmp_path):
    register_custom(coco)
    with pytest.raises(ValueError, match="same dataset name 'custom_pets_train': rename one"):
        register_custom(write_coco(tmp_path / "more" / "pets"))


def test_missing_split_names_the_others(coco):
    with pytest.raises(FileNotFoundError, match="has no split 'test'; its splits are train, val"):
        CustomDataset(coco).read("test")


def undivided(voc_folder, count=10):
    """Writes a VOC dataset without lists; returns its folder."""
    root = voc_folder({f"{i:02}": [CAT] for i in range(count)})
    shutil.rmtree(root / "ImageSets")
    return root


def ids_of(dataset, split):
    return [record["image_id"] for record in dataset.read(split).records]


def test_a_fifth_is_held_out_of_an_undivided_dataset(voc_folder, caplog):
    root = undivided(voc_folder)
    dataset = CustomDataset(root)
    assert dataset.splits == ["train", "val"] and dataset.evaluated_split == "val"
    train, val = ids_of(dataset, "train"), ids_of(dataset, "val")
    assert len(val) == 2 and sorted(train + val) == [f"{i:02}" for i in range(10)]
    again = CustomDataset(root)
    assert (ids_of(again, "train"), ids_of(again, "val")) == (train, val)
    assert any(ids_of(CustomDataset(root, hold_out_seed=seed), "val") != val for seed in (1, 2))
    dataset.load("train"), dataset.load("val")
    notes = [text for text in caplog.messages if "2 of 10 images are held out" in text]
    assert len(notes) == 1 and "HOLD_OUT 0.2, HOLD_OUT_SEED 0" in notes[0]


def test_the_selection_changes_little_when_images_are_added(voc_folder):
    val = set(ids_of(CustomDataset(undivided(voc_folder, 40)), "val"))
    larger = set(ids_of(CustomDataset(undivided(voc_folder, 41)), "val"))
    assert len(val - larger) <= 1


def test_nothing_is_held_out_on_request(voc_folder):
    dataset = CustomDataset(undivided(voc_folder), hold_out=0.0)
    assert dataset.splits == ["train"] and dataset.evaluated_split == ""
    assert len(dataset.read("train").records) == 10 and dataset.held_out_note() == ""


def test_the_classes_of_an_undivided_dataset_are_those_of_all_images(voc_folder):
    root = undivided(voc_folder)
    xml = root / "Annotations" / f"{ids_of(CustomDataset(root), 'val')[0]}.xml"
    xml.write_text(xml.read_text().replace("cat", "owl"))
    assert CustomDataset(root).class_names == ["cat", "owl"]


def test_all_ids_of_a_file_are_on_the_same_side(tmp_path):
    images = {f"{i}": [CAT] for i in range(8)}
    root = write_coco(tmp_path / "pets", train=images)
    data = load_coco(root)
    twice = [{**image, "id": image["id"] + 100} for image in data["images"]]
    data["images"] += twice
    save_coco(root, data)
    (root / "annotations" / "instances_val.json").unlink()
    dataset = CustomDataset(root)
    files = {
        split: {record["file_name"] for record in dataset.read(split).records}
        for split in ("train", "val")
    }
    assert len(files["val"]) == 2 and not files["val"] & files["train"]
    assert len(dataset.read("val").records) == 4


def test_a_dataset_with_one_image_has_no_image_to_hold_out(voc_folder):
    dataset = CustomDataset(undivided(voc_folder, 1))
    assert len(dataset.read("train").records) == 1
    with pytest.raises(ValueError, match="the split has no image"):
        dataset.read("val")


@pytest.mark.parametrize("annotated", [True, False])
def test_a_test_split_is_evaluated_if_it_is_annotated(coco, annotated):
    data = load_coco(coco, "val")
    if not annotated:
        data["annotations"] = []
    save_coco(coco, data, "test")
    (coco / "annotations" / "instances_val.json").unlink()
    dataset = CustomDataset(coco)
    assert dataset.evaluated_split == ("test" if annotated else "val")
    assert dataset.holds_out != annotated
    assert len(dataset.read("train").records) == (2 if annotated else 1)
    assert len(dataset.read("test").records) == 2
    register_custom(coco)
    DatasetCatalog.get("custom_pets_test")
    with open(MetadataCatalog.get("custom_pets_test").json_file, encoding="utf-8") as file:
        assert ("annotations" in json.load(file)) == annotated


def test_a_validation_split_needs_objects(coco):
    save_coco(coco, load_coco(coco, "val") | {"annotations": []}, "val")
    with pytest.raises(ValueError, match="no object; images without annotations can be a test"):
        CustomDataset(coco).read("val")


def test_dataset_of_a_registered_name(coco):
    names = register_custom(coco, on_problem="skip")
    assert dataset_of(names["train"]).folder == coco
    assert dataset_of("coco_2017_train") is None and dataset_of("unknown") is None


@pytest.mark.parametrize(
    "name, message",
    [
        ("\ud83dx", r"class name '.ud83dx' has a control character, or half of a character"),
        ("a\x1b[2J", r"class name 'a.x1b\[2J' has a control character"),
        ("\u202eabc", r"class name '.u202eabc' has a control character"),
        (
            "x" * 10**6,
            r"class name 'x{20}'\.\.\. has 1,000,000 characters, but at",
        ),
    ],
)
def test_a_class_name_that_cannot_be_used_is_a_problem(coco, name, message):
    for split in ("train", "val"):
        data = load_coco(coco, split)
        data["categories"][0]["name"] = name
        save_coco(coco, data, split)
    with pytest.raises(ValueError, match=message) as raised:
        CustomDataset(coco).read("train")
    assert len(str(raised.value)) < 500


def test_a_category_id_that_a_checkpoint_cannot_have_is_a_problem(coco):
    data = load_coco(coco, "train")
    data["categories"].append({"id": "a\nb", "name": "fox"})
    save_coco(coco, data, "train")
    with pytest.raises(ValueError, match="category id of class 'fox' has a control character"):
        CustomDataset(coco).read("train")


@pytest.mark.parametrize("name", ["esc\x1b[31m", "two\nlines", "no\udcfftext", "right\u202eleft"])
def test_folder_names_that_no_line_can_have_are_refused(tmp_path, coco, name):
    (tmp_path / name).symlink_to(coco)
    with pytest.raises(
        ConfigError, match=r"name of the folder .*--data, DATASETS.PATH.* rename it"
    ):
        CustomDataset(tmp_path / name)
    (tmp_path / name).unlink()
    coco.rename(tmp_path / name)
    # the dataset is named after the folder itself
    coco.symlink_to(tmp_path / name)
    with pytest.raises(ConfigError, match="rename it"):
        register_custom(coco)


@pytest.mark.parametrize("name", ["a" * 300, "/".join(["b" * 200] * 25), "loop"])
def test_folder_names_that_cannot_exist(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    register_custom(name)
    with pytest.raises(FileNotFoundError, match="there is no folder .*DATASETS.PATH"):
        CustomDataset(name).read("train")


def test_images_whose_ids_are_not_utf_8_are_held_out_too(coco):
    data = load_coco(coco, "val")
    for entry in [*data["images"], *data["annotations"]]:
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = f"\udcff{entry[key]}"
    save_coco(coco, data, "val")
    (coco / "annotations" / "instances_train.json").unlink()
    (coco / "annotations" / "instances_val.json").rename(coco / "labels.json")
    dataset = CustomDataset(coco)
    assert [len(dataset.read(split).records) for split in ("train", "val")] == [1, 1]
