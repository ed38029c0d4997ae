"""DATASETS.PATH: from a folder to a resolved config."""

import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from flowdet.data.detection import build_train_loader
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from flowdet.engine.resolve import resolve_model
from flowdet.inference.predictor import Predictor
from tests.data.custom.small import CAT, DOG, TRAIN, VAL, load, save, write_coco

CONFIG = Path(__file__).parents[2] / "configs" / "digits_flow.yaml"


@pytest.fixture
def voc(voc_folder):
    voc_folder(TRAIN, split="train")
    return voc_folder(VAL, split="val")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "pets")


def own(folder, *words):
    return load_config(str(CONFIG), ["DATASETS.PATH", repr(str(folder)), *words])


@pytest.mark.parametrize("kind", ["pascal_voc", "coco"])
def test_classes_evaluator_and_epochs_come_from_the_folder(voc, coco, kind):
    folder, name = (voc, "own_voc") if kind == "pascal_voc" else (coco, "own_pets")
    words = ("SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_EPOCHS", "3")
    cfg = resolve_config(own(folder, *words))
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((f"{name}_train",), (f"{name}_val",))
    assert cfg.MODEL.CLASS_NAMES == ["cat", "dog"]
    assert cfg.MODEL.FLOW_DET.NUM_CLASSES == 2 and cfg.SOLVER.MAX_ITER == 6
    assert MetadataCatalog.get(f"{name}_val").evaluator_type == kind


def test_a_saved_config_needs_no_flag(voc, tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text(resolve_config(own(voc)).dump())
    cfg = resolve_config(load_config(str(saved)))
    assert cfg.DATASETS.TRAIN == ("own_voc_train",) and cfg.MODEL.CLASS_NAMES == ["cat", "dog"]
    # and to use the model, no dataset
    shutil.rmtree(voc)
    cfg = resolve_model(load_config(str(saved)))
    assert cfg.MODEL.CLASS_NAMES == ["cat", "dog"]
    with pytest.raises(FileNotFoundError, match=f"no folder {voc} "):
        resolve_config(cfg)


def test_other_splits_can_be_asked_for(voc_folder, voc):
    voc_folder({"e": [CAT, DOG]}, split="test")
    cfg = resolve_config(own(voc, "DATASETS.TEST", "('own_voc_test',)"))
    assert cfg.DATASETS.TEST == ("own_voc_test",) and cfg.DATASETS.TRAIN == ("own_voc_train",)
    assert [r["image_id"] for r in get_detection_dicts("own_voc_test", True)] == ["e"]


def test_without_val_the_test_split_is_evaluated(voc):
    lists = voc / "ImageSets" / "Main"
    (lists / "val.txt").rename(lists / "test.txt")
    assert resolve_config(own(voc)).DATASETS.TEST == ("own_voc_test",)


def test_files_are_read_once_and_dicts_cannot_be_spoilt(voc, monkeypatch):
    resolve_config(own(voc))
    monkeypatch.setattr("flowdet.data.custom.dataset.read_voc", None)
    first = DatasetCatalog.get("own_voc_train")
    first[0]["annotations"].clear()
    assert len(DatasetCatalog.get("own_voc_train")[0]["annotations"]) == 2
    # a config that is loaded later sees what the folder holds then
    monkeypatch.undo()
    (voc / "ImageSets/Main/train.txt").write_text("b\n")
    assert resolve_config(own(voc)).SOLVER.MAX_ITER > 0
    assert len(DatasetCatalog.get("own_voc_train")) == 1


def test_difficult_objects_follow_the_key(voc_folder):
    voc_folder({"a": [(*CAT[:2], 1), DOG]}, split="train")
    resolve_config(own(voc_folder(VAL, split="val")))
    for keep, count in ((True, 2), (False, 1)):
        assert len(get_detection_dicts("own_voc_train", keep)[0]["annotations"]) == count


def test_a_loader_gives_images_and_boxes(coco):
    cfg = resolve_config(own(coco, "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"))
    batch = next(iter(build_train_loader(cfg)))
    assert sorted(len(x["instances"]) for x in batch) == [2, 2]


def test_mistakes_in_the_data_are_raised(coco):
    data = load(coco)
    data["annotations"][0]["bbox"][2] = 0
    save(coco, data)
    with pytest.raises(ValueError, match="annotation 1 of a.png.*no area.*tools/check_data.py"):
        resolve_config(own(coco))


def test_other_classes_than_a_run_had(voc, coco, tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text(resolve_config(own(voc)).dump())
    for split in ("train", "val"):
        data = load(coco, split)
        data["categories"][1]["name"] = "owl"
        save(coco, data, split)
    cfg = load_config(str(saved), ["DATASETS.PATH", str(coco)])
    assert cfg.DATASETS.TEST == ("own_pets_val",)
    with pytest.raises(ValueError, match="class 1 is 'dog' in the one and 'owl' in the other"):
        resolve_config(cfg)


def test_two_folders_of_one_name(coco, tmp_path):
    own(coco)
    own(coco)
    with pytest.raises(ValueError, match="both be dataset 'own_pets_train' .*rename a folder"):
        own(write_coco(tmp_path / "more" / "pets"))


def test_detections_have_the_ids_of_the_categories(coco, tmp_path):
    words = ("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path))
    resolved = resolve_config(own(coco, *words))
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved.dump())
    FlowDetCheckpointer(build_model(resolved), str(tmp_path)).save("model")
    predictor = Predictor(load_config(str(saved)), str(tmp_path / "model.pth"))
    rows = predictor.coco_results(predictor([str(coco / "val" / "c.png")])[0])
    assert rows and all(r["category_id"] == {"cat": 2, "dog": 5}[r["category_name"]] for r in rows)
