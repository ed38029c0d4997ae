"""DATASETS.PATH: a custom dataset sets names, classes, evaluator and epochs of a config."""

import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from flowdet.config.errors import ConfigError
from flowdet.data.detection import build_train_loader
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from flowdet.engine.resolve import resolve_model
from flowdet.inference.predictor import Predictor
from tests.data.custom.example_datasets import (
    CAT,
    DOG,
    TRAIN,
    VAL,
    load_coco,
    save_coco,
    write_coco,
)

CONFIG = Path(__file__).parents[2] / "configs" / "digits_flow.yaml"


@pytest.fixture
def voc(voc_folder):
    voc_folder(TRAIN, split="train")
    return voc_folder(VAL, split="val")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "pets")


def config_of(folder, *overrides):
    return load_config(str(CONFIG), ["DATASETS.PATH", repr(str(folder)), *overrides])


@pytest.mark.parametrize("kind", ["pascal_voc", "coco"])
def test_classes_evaluator_and_epochs_come_from_the_folder(voc, coco, kind):
    folder, name = (voc, "custom_voc") if kind == "pascal_voc" else (coco, "custom_pets")
    overrides = ("SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_EPOCHS", "3")
    cfg = resolve_config(config_of(folder, *overrides))
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((f"{name}_train",), (f"{name}_val",))
    assert cfg.MODEL.CLASS_NAMES == ["cat", "dog"]
    assert cfg.MODEL.FLOW_DET.NUM_CLASSES == 2 and cfg.SOLVER.MAX_ITER == 6
    assert MetadataCatalog.get(f"{name}_val").evaluator_type == kind


def test_a_classifier_is_told_how_to_register_images(tmp_path):
    with pytest.raises(ConfigError, match="--data. is for detectors.*register_image_folder"):
        load_config("cls/digits_flow_vit.yaml", ["DATASETS.PATH", repr(str(tmp_path))])


def test_saved_config_needs_no_flag_and_its_model_no_dataset(voc, tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text(resolve_config(config_of(voc)).dump())
    cfg = resolve_config(load_config(str(saved)))
    assert cfg.DATASETS.TRAIN == ("custom_voc_train",)
    assert cfg.MODEL.CLASS_NAMES == ["cat", "dog"]
    shutil.rmtree(voc)
    cfg = resolve_model(load_config(str(saved)))
    assert cfg.MODEL.CLASS_NAMES == ["cat", "dog"]
    with pytest.raises(FileNotFoundError, match=f"no folder {voc} "):
        resolve_config(cfg)


def test_another_split_can_be_evaluated(voc_folder, voc):
    voc_folder({"e": [CAT, DOG]}, split="test")
    cfg = resolve_config(config_of(voc, "DATASETS.TEST", "('custom_voc_test',)"))
    assert cfg.DATASETS.TEST == ("custom_voc_test",)
    assert cfg.DATASETS.TRAIN == ("custom_voc_train",)
    assert [r["image_id"] for r in get_detection_dicts("custom_voc_test", True)] == ["e"]


def test_without_val_the_test_split_is_evaluated(voc):
    lists = voc / "ImageSets" / "Main"
    (lists / "val.txt").rename(lists / "test.txt")
    assert resolve_config(config_of(voc)).DATASETS.TEST == ("custom_voc_test",)


def test_files_are_read_once_per_config(voc, monkeypatch):
    resolve_config(config_of(voc))
    monkeypatch.setattr("flowdet.data.custom.formats.voc.VOC.read", None)
    assert len(DatasetCatalog.get("custom_voc_train")) == 2
    # a config that is loaded later reads the current files
    monkeypatch.undo()
    (voc / "ImageSets/Main/train.txt").write_text("b\n")
    overrides = ("SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_EPOCHS", "3")
    assert resolve_config(config_of(voc, *overrides)).SOLVER.MAX_ITER == 3
    assert [r["image_id"] for r in DatasetCatalog.get("custom_voc_train")] == ["b"]


def test_difficult_objects_are_kept_on_request(voc_folder):
    voc_folder({"a": [(*CAT[:2], 1), DOG]}, split="train")
    resolve_config(config_of(voc_folder(VAL, split="val")))
    for keep_difficult, count in ((True, 2), (False, 1)):
        records = get_detection_dicts("custom_voc_train", keep_difficult)
        assert len(records[0]["annotations"]) == count


def test_train_loader_yields_images_and_boxes(coco):
    overrides = ("SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0")
    cfg = resolve_config(config_of(coco, *overrides))
    batch = next(iter(build_train_loader(cfg)))
    assert sorted(r["image_id"] for r in batch) == [1, 2]
    for record in batch:
        height, width = record["image"].shape[1:]
        boxes = record["instances"].gt_boxes
        assert len(boxes) == 2 and boxes.inside_box((height, width)).all()


def test_problem_in_the_data_is_raised(coco):
    data = load_coco(coco)
    data["annotations"][0]["bbox"][2] = -9
    save_coco(coco, data)
    with pytest.raises(ValueError, match="annotation 1 of a.png.*order.*tools/check_data.py"):
        resolve_config(config_of(coco))
    resolve_config(config_of(coco, "DATASETS.ON_PROBLEM", "skip"))
    records = get_detection_dicts("custom_pets_train", True)
    assert [len(record["annotations"]) for record in records] == [1, 2]


def test_classes_other_than_those_of_the_run_are_an_error(voc, coco, tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text(resolve_config(config_of(voc)).dump())
    for split in ("train", "val"):
        data = load_coco(coco, split)
        data["categories"][1]["name"] = "owl"
        save_coco(coco, data, split)
    cfg = load_config(str(saved), ["DATASETS.PATH", str(coco)])
    assert cfg.DATASETS.TEST == ("custom_pets_val",)
    with pytest.raises(ValueError, match="class 1 is 'dog' .* 'owl'"):
        resolve_config(cfg)


def test_a_config_can_be_loaded_again_but_not_for_another_folder_of_the_same_name(coco, tmp_path):
    config_of(coco)
    assert config_of(coco).DATASETS.TRAIN == ("custom_pets_train",)
    with pytest.raises(ValueError, match="same dataset name 'custom_pets_train': rename one"):
        config_of(write_coco(tmp_path / "more" / "pets"))


def test_detections_have_the_category_ids_of_the_json_file(coco, tmp_path):
    resolved = resolve_config(config_of(coco, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)))
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved.dump())
    FlowDetCheckpointer(build_model(resolved), str(tmp_path)).save("model")
    predictor = Predictor(load_config(str(saved)), str(tmp_path / "model.pth"))
    rows = predictor.coco_results(predictor([str(coco / "val" / "c.png")])[0])
    assert rows and all(r["category_id"] == {"cat": 2, "dog": 5}[r["category_name"]] for r in rows)
