"""VOC and COCO evaluation: average precision by hand and compared with detectron2."""

import json
import logging
import math
import shutil
import warnings

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from flowdet.config import add_flowdet_config
from flowdet.data.custom import register_custom
from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.clean import write_clean
from flowdet.data.detection.builtin import register_voc
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.evaluation.detection import (
    VOCEvaluator,
    build_evaluator,
    metric_name,
    warn_without_objects,
)
from tests.data.custom.example_datasets import load_coco, save_coco, write_coco

IMAGES = {
    "a": [((2, 3, 30, 33), "cat", 0), ((40, 10, 60, 40), "dog", 0)],
    "b": [((10, 10, 25, 45), "cat", 0), ((0, 0, 8, 8), "cat", 1)],
    "c": [],
}


@pytest.fixture
def pets(voc_dataset):
    return voc_dataset(IMAGES)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_flowdet_config(cfg)
    return cfg


def output(detections):
    """The output of a detector; detections are (xyxy box, class id, score)."""
    result = Instances((48, 64))
    result.pred_boxes = Boxes(torch.tensor([b for b, _, _ in detections]).reshape(-1, 4).float())
    result.pred_classes = torch.tensor([c for _, c, _ in detections], dtype=torch.long)
    result.scores = torch.tensor([s for _, _, s in detections], dtype=torch.float32)
    return {"instances": result}


def evaluate(evaluator, detections):
    """The results for detections by image id; warnings are errors."""
    evaluator.reset()
    for image_id, of_image in detections.items():
        evaluator.process([{"image_id": image_id}], [output(of_image)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluator.evaluate()["bbox"]


def ground_truth(name, keep_difficult=False):
    """The annotated objects as detections with score 0.9, by image id."""
    return {
        record["image_id"]: [(a["bbox"], a["category_id"], 0.9) for a in record["annotations"]]
        for record in get_detection_dicts(name, keep_difficult)
    }


def test_perfect_detections(pets):
    results = evaluate(VOCEvaluator(pets), ground_truth(pets))
    assert results["AP"] == results["AP50"] == results["AP75"] == pytest.approx(100)
    assert results["AP50-cat"] == results["AP50-dog"] == pytest.approx(100)


@pytest.mark.parametrize("metric", [2007, 2012])
def test_one_of_two_cats(voc_folder, metric):
    register_voc("pets", voc_folder(IMAGES), "train", ["cat", "dog", "owl"], metric)
    detections = ground_truth("pets") | {"b": []}
    half = {2007: 100 * 6 / 11, 2012: 50}[metric]
    assert evaluate(VOCEvaluator("pets"), detections)["AP50-cat"] == pytest.approx(half)


@pytest.mark.parametrize("metric", [2007, 2012])
def test_equals_detectron2(voc_folder, metric):
    register_voc("pets", voc_folder(IMAGES), "train", ["cat", "dog"], metric)
    detections = ground_truth("pets", keep_difficult=True)
    detections["c"] = [([5, 5, 20, 20], 0, 0.95)]
    detections["a"][1] = ([42, 14, 60, 40], 1, 0.3)
    ours = evaluate(VOCEvaluator("pets"), detections)
    theirs = evaluate(PascalVOCDetectionEvaluator("pets"), detections)
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs)
    assert 0 < ours["AP"] < ours["AP50"] < 100


def test_difficult_objects_are_ignored(pets):
    with_difficult = evaluate(VOCEvaluator(pets), ground_truth(pets, keep_difficult=True))
    assert with_difficult["AP50-cat"] == pytest.approx(100)


def test_class_without_objects_is_left_out_and_logged_once(pets, caplog):
    detections = ground_truth(pets)
    detections["c"].append(([1, 1, 9, 9], 2, 0.99))
    with caplog.at_level(logging.INFO, logger="flowdet"):
        results = evaluate(VOCEvaluator(pets, ["cat", "owl"]), detections)
    assert math.isnan(results["AP50-owl"])
    assert results["AP50"] == results["AP50-subset"] == pytest.approx(100)
    assert sum("left out of the means: owl" in r.message for r in caplog.records) == 1
    assert sum("VOC 2007 11-point" in r.message for r in caplog.records) == 1


def test_class_with_only_difficult_objects_is_left_out(voc_dataset):
    name = voc_dataset({"a": [((2, 3, 30, 33), "cat", 1), ((9, 9, 30, 30), "dog", 0)]})
    results = evaluate(VOCEvaluator(name), ground_truth(name))
    assert math.isnan(results["AP50-cat"]) and results["AP50"] == pytest.approx(100)


def test_no_object_at_all_is_nan_and_told(voc_dataset, caplog):
    name = voc_dataset({"a": []})
    assert math.isnan(evaluate(VOCEvaluator(name), {"a": []})["AP50"])
    assert f"{name} has no object that counts, of any class: its AP is nan" in caplog.text
    caplog.clear()
    # also that of COCO's evaluator, which has no result without detections
    warn_without_objects(name, {"AP": math.nan})
    assert name in caplog.text
    caplog.clear()
    warn_without_objects(name, {"AP": 0.0})
    warn_without_objects(name, {})
    assert not caplog.records


def test_class_without_detections_is_zero(pets):
    cats = {k: [d for d in v if d[1] == 0] for k, v in ground_truth(pets).items()}
    results = evaluate(VOCEvaluator(pets), cats)
    assert results["AP50-dog"] == 0 and results["AP50"] == pytest.approx(50)
    assert evaluate(VOCEvaluator(pets), {"a": []})["AP50"] == 0


def register(kind, ids, box=(2, 3, 30, 33), category=0):
    """Registers a dataset with an object in the image of every id, as users do."""
    annotation = {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": category}
    annotation |= {"difficult": 0, "iscrowd": 0}
    size = {"height": 48, "width": 64, "annotations": [annotation]}
    records = [{"image_id": i, "file_name": f"{n}.jpg", **size} for n, i in enumerate(ids)]
    if "users" in DatasetCatalog:
        DatasetCatalog.remove("users")
        MetadataCatalog.remove("users")
    DatasetCatalog.register("users", lambda: records)
    MetadataCatalog.get("users").set(thing_classes=["cat", "dog"], evaluator_type=kind, year=2012)
    return "users"


KINDS = pytest.mark.parametrize("kind", ["pascal_voc", "coco"])


@KINDS
def test_two_images_with_the_same_id_are_refused(cfg, tmp_path, kind):
    """The boxes of one of them would be those of both, and perfect detections have an AP of 50."""
    name = register(kind, [3, 5, 3])
    with pytest.raises(ValueError, match="has 2 images with the image id 3, and cannot be eval"):
        build_evaluator(cfg, name, str(tmp_path))


def test_an_image_that_a_list_names_twice_is_refused(voc_folder):
    folder = voc_folder(IMAGES)
    (folder / "ImageSets/Main/train.txt").write_text("a\nb\na\n")
    register_voc("pets", folder, "train", ["cat", "dog"], 2007)
    with pytest.raises(ValueError, match="has 2 images with the image id 'a'"):
        VOCEvaluator("pets")


@KINDS
@pytest.mark.parametrize("category", [-1, 2])
def test_a_class_index_outside_of_the_classes_is_refused(cfg, tmp_path, kind, category):
    name = register(kind, [1, 2], category=category)
    with pytest.raises(ValueError, match=f"image 1 has the class index {category}, but there are"):
        build_evaluator(cfg, name, str(tmp_path))


def test_annotations_that_have_changed_are_converted_anew(cfg, tmp_path):
    box = (10, 5, 60, 20)
    for expected in ((2, 3, 30, 33), box):
        # a run in the same folder, in another process
        evaluator = build_evaluator(cfg, register("coco", [1, 2], expected), str(tmp_path))
        results = evaluate(evaluator, {1: [(expected, 0, 0.9)], 2: [(expected, 0, 0.9)]})
        assert results["AP50"] == pytest.approx(100)


def test_subset_means(pets):
    detections = ground_truth(pets) | {"b": []}
    results = evaluate(VOCEvaluator(pets, ["dog"]), detections)
    assert {"AP-subset", "AP50-subset", "AP75-subset"} < set(results)
    assert results["AP50-subset"] == pytest.approx(100) and results["AP50"] < 100
    assert not [key for key in evaluate(VOCEvaluator(pets), detections) if "subset" in key]


def test_close_scores_are_not_ties(pets):
    # the false positive scores higher by less than a thousandth, and is later in the list
    detections = {"a": [((40, 10, 60, 40), 1, 0.90001), ((1, 1, 5, 5), 1, 0.90002)]}
    assert evaluate(VOCEvaluator(pets), detections)["AP50-dog"] == pytest.approx(50)


def test_fractional_corners_and_missing_tags_can_be_evaluated(voc_folder):
    root = voc_folder(IMAGES)
    path = root / "Annotations" / "a.xml"
    text = path.read_text().replace("<xmin>3<", "<xmin>3.2<")
    path.write_text(text.replace("<pose>Unspecified</pose>", ""))
    register_voc("pets", root, "train", ["cat", "dog", "owl"])
    assert evaluate(VOCEvaluator("pets"), ground_truth("pets"))["AP"] == pytest.approx(100)


def test_image_ids_may_have_spaces(cfg, voc_folder):
    images = {"photo 1": IMAGES["a"], "photo 2": IMAGES["b"]}
    voc_folder(images, split="train")
    names = register_custom(voc_folder(images, split="val"))
    detections = ground_truth(names["val"])
    evaluator = build_evaluator(cfg, names["val"])
    assert evaluate(evaluator, detections)["AP"] == pytest.approx(100)
    assert metric_name(names["val"]).startswith("area under the curve")
    detections["photo 1"] = []
    assert evaluate(evaluator, detections)["AP50-dog"] == 0


@pytest.mark.parametrize("name", ["caf\udce9_0", "control\x01_0", "a&b <0>"])
def test_file_names_may_have_any_characters(cfg, voc_folder, name):
    source = voc_folder({"a": IMAGES["a"]})
    root = source.parent / "folders"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        shutil.copy(source / "JPEGImages" / "a.jpg", root / split / f"{name}.jpg")
        shutil.copy(source / "Annotations" / "a.xml", root / split / f"{name}.xml")
    names = register_custom(root)
    detections = ground_truth(names["val"])
    assert evaluate(build_evaluator(cfg, names["val"]), detections)["AP"] == pytest.approx(100)
    checked = check_dataset(root)
    write_clean(checked, root, source.parent / "clean")
    copy = check_dataset(source.parent / "clean")
    assert copy.problems == [] and [len(rows) for rows in copy.records.values()] == [1, 1]


def test_coco_files_of_other_tools_are_evaluated(cfg, tmp_path):
    """Annotations without areas, and with an id 0, which COCO's evaluation takes for no match."""
    root = write_coco(tmp_path / "pets")
    data = load_coco(root, "val")
    del data["info"]
    for number, annotation in enumerate(data["annotations"]):
        annotation["id"] = number
        del annotation["area"], annotation["iscrowd"]
    save_coco(root, data, "val")
    names = register_custom(root)
    detections = ground_truth(names["val"])
    results = evaluate(build_evaluator(cfg, names["val"]), detections)
    assert [results[k] for k in ("AP", "AP-cat", "AP-dog")] == pytest.approx([100] * 3)


def test_class_subset_of_the_config(cfg, pets):
    cfg.TEST.CLASS_SUBSET = ["cat"]
    assert evaluate(build_evaluator(cfg, pets), ground_truth(pets))["AP-subset"] == pytest.approx(
        100
    )
    cfg.TEST.CLASS_SUBSET = ["cat", "emu"]
    with pytest.raises(ValueError, match="CLASS_SUBSET: emu is not in .*'pets'.*cat, dog, owl"):
        build_evaluator(cfg, pets)


def test_error_names_the_unknown_evaluator_type(cfg):
    MetadataCatalog.get("panorama").evaluator_type = "sem_seg"
    with pytest.raises(ValueError, match="'panorama' has evaluator_type 'sem_seg'"):
        build_evaluator(cfg, "panorama")
    with pytest.raises(ValueError, match="evaluator_type None"):
        build_evaluator(cfg, "unheard_of")


def test_coco_datasets_use_the_coco_evaluator(cfg, tmp_path):
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 30, 20], "area": 600}
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.jpg", "height": 48, "width": 64}],
        "annotations": [{**box, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    register_coco_instances("coco_pets", {}, str(tmp_path / "coco.json"), str(tmp_path))
    DatasetCatalog.get("coco_pets")
    evaluator = build_evaluator(cfg, "coco_pets", str(tmp_path))
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [output([((2, 3, 32, 23), 0, 0.9)])])
    assert evaluator.evaluate()["bbox"]["AP50"] == pytest.approx(100)
    cfg.TEST.CLASS_SUBSET = ["cat"]
    with pytest.raises(ValueError, match="CLASS_SUBSET is for VOC"):
        build_evaluator(cfg, "coco_pets")
    DatasetCatalog.remove("coco_pets")


@pytest.mark.parametrize("size", [1.5, 3.0, 8.0, 60.0])
@pytest.mark.parametrize("kind", ["pascal_voc", "coco"])
def test_detections_equal_to_the_ground_truth_have_ap_100(kind, size, cfg, tmp_path):
    """Random fractional corners, of objects of every size; two classes with unusual names."""
    rng = np.random.default_rng(int(10 * size))
    names = ["car/truck", "../R&D <x>"]
    records = []
    for image in range(12):
        corners = rng.uniform(0, 200 - 2 * size, (3, 2))
        boxes = np.hstack([corners, corners + rng.uniform(0.7, 1.3, (3, 2)) * size])
        objects = [
            {"bbox": box, "category_id": int(rng.integers(2)), "difficult": 0, "iscrowd": 0}
            for box in boxes.tolist()
        ]
        annotations = [{**o, "bbox_mode": BoxMode.XYXY_ABS} for o in objects]
        file = {"file_name": f"{image}.jpg", "image_id": image, "height": 200, "width": 200}
        records.append({**file, "annotations": annotations})
    DatasetCatalog.register("fractional", lambda: records)
    meta = MetadataCatalog.get("fractional")
    meta.set(thing_classes=names, evaluator_type=kind, year=2012)
    if kind == "coco":
        meta.set(json_file=str(tmp_path / "gt.json"))
        convert_to_coco_json("fractional", meta.json_file)
        meta.set(thing_dataset_id_to_contiguous_id={0: 0, 1: 1})
    evaluator = build_evaluator(cfg, "fractional", str(tmp_path))
    detections = {
        r["image_id"]: [(a["bbox"], a["category_id"], 0.9) for a in r["annotations"]]
        for r in records
    }
    results = evaluate(evaluator, detections)
    # up to an IoU of 0.95
    assert results["AP"] == pytest.approx(100)


# values as annotation tools write them; every object is one to detect
UNUSUAL = {
    "no ids": {"id": ...},
    "id 0 and repeated ids": {"id": 0},
    "text ids": {"id": "a"},
    "crowd as text": {"iscrowd": "0"},
    "crowd null": {"iscrowd": None},
    "crowd false": {"iscrowd": "false"},
    "area null": {"area": None},
    "area text": {"area": "large"},
    "area 0": {"area": 0},
    "area negative": {"area": -1},
    "nothing": {"id": ..., "iscrowd": ..., "area": ...},
}
IMAGE_IDS = {
    "integers": lambda i: 7 * i,
    "text": lambda i: f"scan/{i}",
    "mixed": lambda i: i if i % 2 else str(i),
}


@pytest.mark.parametrize("image_ids", IMAGE_IDS)
@pytest.mark.parametrize("values", UNUSUAL)
def test_unusual_values_of_coco_files_do_not_change_the_evaluation(
    values, image_ids, cfg, tmp_path
):
    root = write_coco(tmp_path / "pets")
    data = load_coco(root, "val")
    for annotation in data["annotations"]:
        for key, value in UNUSUAL[values].items():
            annotation.pop(key, None)
            if value is not ...:
                annotation[key] = value
        annotation["image_id"] = IMAGE_IDS[image_ids](annotation["image_id"])
    for image in data["images"]:
        image["id"] = IMAGE_IDS[image_ids](image["id"])
    save_coco(root, data, "val")
    name = register_custom(root)["val"]
    records = DatasetCatalog.get(name)
    evaluator = build_evaluator(cfg, name, str(tmp_path / "out"))
    perfect = {
        r["image_id"]: [(a["bbox"], a["category_id"], 0.9) for a in r["annotations"]]
        for r in records
    }
    assert evaluate(evaluator, perfect)["AP"] == pytest.approx(100)
    rows = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert {row["image_id"] for row in rows} == {r["image_id"] for r in records}
    nothing = evaluate(evaluator, {image_id: [] for image_id in perfect})
    assert nothing["AP"] == nothing["AP50"] == 0 and nothing["AP-cat"] == 0


@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize("ids", [(2, 5), ("2", "5"), ("cat", 5)])
def test_result_files_have_the_ids_of_the_dataset(ids, annotated, cfg, tmp_path):
    root = write_coco(tmp_path / "pets")
    for split in ("train", "val"):
        data = load_coco(root, split)
        for entry in (*data["categories"], *data["annotations"]):
            key = "category_id" if "category_id" in entry else "id"
            entry[key] = {2: ids[0], 5: ids[1]}[entry[key]]
        for image in data["images"]:
            image["id"] = f"scan/{image['id']}"
        for annotation in data["annotations"]:
            annotation["image_id"] = f"scan/{annotation['image_id']}"
        save_coco(
            root, data if annotated or split == "train" else data | {"annotations": []}, split
        )
    if not annotated:
        (root / "annotations" / "instances_val.json").rename(
            root / "annotations" / "instances_test.json"
        )
    name = register_custom(root)["val" if annotated else "test"]
    records = DatasetCatalog.get(name)
    cat = MetadataCatalog.get(name).thing_classes.index("cat")
    evaluator = build_evaluator(cfg, name, str(tmp_path / "out"))
    evaluator.reset()
    for record in records:
        evaluator.process([record], [output([([2, 3, 30, 33], cat, 0.9)])])
    assert bool(evaluator.evaluate()) == annotated
    rows = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert {row["category_id"] for row in rows} == {ids[0]}
    assert [row["image_id"] for row in rows] == ["scan/1", "scan/2"]
