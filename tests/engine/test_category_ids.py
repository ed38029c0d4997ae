"""Category ids: from the dataset into the config, the checkpoint and the detections."""

import json
import logging
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from flowdet.engine.category_ids import category_ids_of
from flowdet.engine.checkpoint_notes import read_notes
from flowdet.engine.resolve import resolve_model
from flowdet.inference.predictor import Predictor
from tests.data.custom.example_datasets import TRAIN, VAL, load_coco, save_coco, write_coco
from tests.detection.tiny import tiny_cfg
from tests.engine.test_custom_datasets import CONFIG, config_of

SMALL = ["MODEL.FLOW_DET.HIDDEN_DIM", 32, "MODEL.SMALL_RESNET.CHANNELS", "[8,8,16]"]
SMALL += ["MODEL.DEVICE", "cpu"]


def register(name, ids=None, classes=("cat", "dog"), **metadata):
    """Registers a dataset without images; `ids` are category ids by class index."""
    DatasetCatalog.register(name, list)
    by_id = {} if ids is None else {"thing_dataset_id_to_contiguous_id": ids}
    MetadataCatalog.get(name).set(thing_classes=list(classes), **by_id, **metadata)
    return name


@pytest.fixture
def cfg():
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    return cfg


def resolved(cfg, *datasets):
    cfg.DATASETS.TRAIN = datasets
    return resolve_config(cfg, training=False).MODEL.CATEGORY_IDS


def test_ids_of_a_coco_dataset(cfg):
    assert resolved(cfg, register("one", {90: 1, 0: 0}, evaluator_type="coco")) == [0, 90]


def test_ids_that_are_known_only_once_the_dataset_is_read(cfg):
    def read():
        MetadataCatalog.get("late").thing_dataset_id_to_contiguous_id = {5: 0, 3: 1}
        return []

    DatasetCatalog.register("late", read)
    MetadataCatalog.get("late").set(thing_classes=["cat", "dog"], evaluator_type="coco")
    assert resolved(cfg, "late") == [5, 3]


def test_without_ids_they_are_the_class_indices(cfg):
    assert resolved(cfg, register("voc", evaluator_type="pascal_voc")) == [0, 1]


def test_the_first_dataset_with_all_ids_counts(cfg, caplog):
    """A validation file may lack categories, or have other ids."""
    names = [register("part", {4: 1}), register("voc"), register("whole", {7: 0, 4: 1})]
    names += [register("other", {1: 0, 2: 1})]
    with caplog.at_level(logging.WARNING):
        assert resolved(cfg, *names) == [7, 4]
    assert "dataset 'other' has other category ids" in caplog.text
    assert "class 'cat' has the id 1 there, and 7 in MODEL.CATEGORY_IDS" in caplog.text
    assert "dataset 'part'" not in caplog.text


def test_a_class_without_an_id_is_an_error(cfg):
    with pytest.raises(ValueError, match="'part' has no category id for class 'cat'"):
        resolved(cfg, register("part", {4: 1}))


def test_ids_of_the_config_stay(cfg, caplog):
    cfg.MODEL.CATEGORY_IDS = [3, 4]
    with caplog.at_level(logging.WARNING):
        assert resolved(cfg, register("edited", {1: 0, 2: 1})) == [3, 4]
    assert "dataset 'edited' has other category ids" in caplog.text


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1], "MODEL.CATEGORY_IDS has 1 ids, but MODEL.CLASS_NAMES has 2 names"),
        ([1, 2, 3], "MODEL.CATEGORY_IDS has 3 ids"),
        ([1, 2.5], "MODEL.CATEGORY_IDS contains 2.5: give integers or texts"),
        ([1, True], "MODEL.CATEGORY_IDS contains True"),
        (["a", "a"], "MODEL.CATEGORY_IDS contains 'a' twice"),
        # a checkpoint with it could be written, but not read
        (["a", "b\n"], r"MODEL.CATEGORY_IDS contains 'b.n', but an id must .*no control"),
        ([1, 10**1000], "MODEL.CATEGORY_IDS contains 10{49}, but an id must .*1000 characters"),
    ],
)
def test_wrong_ids_are_refused(cfg, ids, message):
    cfg.MODEL.CATEGORY_IDS = ids
    with pytest.raises(ValueError, match=message):
        resolved(cfg.clone(), register("pets"))
    cfg.MODEL.CLASS_NAMES, cfg.MODEL.FLOW_DET.NUM_CLASSES = ["cat", "dog"], 2
    with pytest.raises(ValueError, match=message):
        resolve_model(cfg)


def test_a_classifier_has_no_category_ids():
    cfg = load_config(str(CONFIG.parent / "cls" / "digits_flow_vit.yaml"))
    assert resolve_config(cfg, training=False).MODEL.CATEGORY_IDS == []


def earlier_run(cfg, *datasets):
    """The config of a run that did not save its category ids."""
    cfg.MODEL.CLASS_NAMES, cfg.DATASETS.TEST = ["cat", "dog"], datasets
    return cfg


def test_ids_of_an_earlier_run_come_from_its_dataset(cfg, caplog):
    with caplog.at_level(logging.WARNING):
        run = earlier_run(cfg, register("coco", {5: 0, 3: 1}, evaluator_type="coco"))
        assert category_ids_of(run) == [5, 3]
    assert "has no MODEL.CATEGORY_IDS" in caplog.text
    assert category_ids_of(earlier_run(cfg, register("voc", evaluator_type="pascal_voc"))) == [0, 1]
    assert category_ids_of(earlier_run(cfg)) == [0, 1]


def test_ids_of_an_earlier_run_without_its_dataset_are_unknown(cfg):
    message = "category ids .* are unknown.*MODEL.CATEGORY_IDS"
    with pytest.raises(ValueError, match=message + ".*'gone' is not registered"):
        category_ids_of(earlier_run(cfg, "gone"))
    with pytest.raises(ValueError, match=message + ".*other classes"):
        category_ids_of(earlier_run(cfg, register("owls", {1: 0}, ["owl"])))


@pytest.fixture
def run_folder(tmp_path):
    """A dataset with the category ids 2 and 5, and the run of an untrained model for it."""
    data = write_coco(tmp_path / "pets", TRAIN, VAL)
    cfg = resolve_config(config_of(data, *SMALL, "OUTPUT_DIR", str(tmp_path)))
    torch.manual_seed(0)
    model = build_model(cfg)
    options = {"class_names": cfg.MODEL.CLASS_NAMES, "category_ids": cfg.MODEL.CATEGORY_IDS}
    FlowDetCheckpointer(model, str(tmp_path), **options).save("model_final", iteration=4)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path


def detected_ids(folder, image, *overrides, config=None):
    cfg = load_config(str(config or folder / "config.yaml"), list(overrides))
    predictor = Predictor(cfg, str(folder / "model_final.pth"))
    rows = predictor.coco_results(predictor([image])[0])
    assert len({row["category_name"] for row in rows}) == 2
    return {row["category_name"]: row["category_id"] for row in rows}


def edit_ids(data):
    for split in ("train", "val"):
        content = load_coco(data, split)
        for category in content["categories"]:
            category["id"] += 10
        for annotation in content["annotations"]:
            annotation["category_id"] += 10
        save_coco(data, content, split)


@pytest.mark.parametrize("change", ["none", "deleted", "image deleted", "edited", "broken"])
def test_detections_have_the_ids_of_the_training(run_folder, change):
    data, image = run_folder / "pets", run_folder / "c.png"
    shutil.copy(data / "val" / "c.png", image)
    if change == "deleted":
        shutil.rmtree(data)
    elif change == "image deleted":
        (data / "val" / "c.png").unlink()
    elif change == "edited":
        edit_ids(data)
    elif change == "broken":
        (data / "annotations" / "instances_val.json").write_text("{")
    assert detected_ids(run_folder, image) == {"cat": 2, "dog": 5}


def test_the_checkpoint_alone_has_names_and_ids(run_folder):
    """With the config of the start of the training, and without its dataset."""
    image = run_folder / "c.png"
    shutil.copy(run_folder / "pets" / "val" / "c.png", image)
    notes = read_notes(run_folder / "model_final.pth")
    assert (notes.class_names, notes.category_ids, notes.iteration) == (["cat", "dog"], [2, 5], 4)
    data = run_folder / "pets"
    edit_ids(data)
    start = ["DATASETS.PATH", repr(str(data)), *SMALL]
    assert detected_ids(run_folder, image, *start, config=CONFIG) == {"cat": 2, "dog": 5}
    shutil.rmtree(data)
    assert detected_ids(run_folder, image, *start, config=CONFIG) == {"cat": 2, "dog": 5}


def test_other_names_than_those_of_the_checkpoint_are_told(run_folder, caplog):
    image = run_folder / "pets" / "val" / "c.png"
    names = ["MODEL.CLASS_NAMES", "['chat', 'chien']"]
    with caplog.at_level(logging.WARNING):
        assert detected_ids(run_folder, image, *names) == {"chat": 2, "chien": 5}
    assert "was trained on 2 classes (cat, dog), but MODEL.CLASS_NAMES has 2" in caplog.text


def test_ids_can_be_set(run_folder):
    image = run_folder / "pets" / "val" / "c.png"
    ids = ["MODEL.CATEGORY_IDS", "['c', 'd']"]
    assert detected_ids(run_folder, image, *ids) == {"cat": "c", "dog": "d"}


def test_ids_of_an_earlier_run_matter_only_for_json(run_folder):
    """Neither its config.yaml nor its checkpoint has category ids; its dataset is gone."""
    path = run_folder / "model_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["category_ids"]
    torch.save(checkpoint, path)
    image = run_folder / "c.png"
    shutil.move(run_folder / "pets" / "val" / "c.png", image)
    shutil.rmtree(run_folder / "pets")
    cfg = load_config(str(run_folder / "config.yaml"), ["MODEL.CATEGORY_IDS", "[]"])
    predictor = Predictor(cfg, str(path))
    (result,) = predictor([image])
    assert len(result["instances"]) > 0
    with pytest.raises(ValueError, match="category ids of the model are unknown"):
        predictor.coco_results(result)
    assert predictor.coco_results(result, [8, 9])[0]["category_id"] in (8, 9)


def test_a_resumed_run_keeps_its_ids(run_folder):
    edit_ids(run_folder / "pets")
    overrides = (*SMALL, "OUTPUT_DIR", str(run_folder))
    cfg = config_of(run_folder / "pets", *overrides)
    assert resolve_config(cfg, resume=True).MODEL.CATEGORY_IDS == [2, 5]
    cfg = config_of(run_folder / "pets", *overrides)
    assert resolve_config(cfg).MODEL.CATEGORY_IDS == [12, 15]


def test_ids_are_saved_as_json_numbers_and_texts(run_folder):
    """A text that looks like a number stays a text."""
    cfg = load_config(str(run_folder / "config.yaml"), ["MODEL.CATEGORY_IDS", "['1', 2]"])
    (run_folder / "config.yaml").write_text(cfg.dump())
    again = load_config(str(run_folder / "config.yaml"))
    assert json.dumps(again.MODEL.CATEGORY_IDS) == '["1", 2]'
