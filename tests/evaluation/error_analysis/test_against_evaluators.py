"""The AP of the error analysis equals that of the evaluators of VOC and COCO."""

import math

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import Boxes, Instances

from flowdet.config import add_flowdet_config
from flowdet.evaluation.detection import build_evaluator
from flowdet.evaluation.error_analysis import analyze_dataset, analyze_saved
from flowdet.evaluation.error_analysis.matching import COCO_DETECTIONS
from flowdet.evaluation.saved_detections import FILE_NAME, SavedDetections
from tests.evaluation.error_analysis.random_data import (
    random_detections,
    random_objects,
    record,
    saved,
)

CLASSES = ["a", "b", "../x<script>"]


def register(kind, year, objects, tmp_path):
    """Registers a dataset in memory (VOC) or as a COCO file; returns its name."""
    flag = "difficult" if kind == "pascal_voc" else "iscrowd"
    records = [record(image_id, of_image, flag) for image_id, of_image in objects.items()]
    if kind == "pascal_voc":
        DatasetCatalog.register("random", lambda: records)
        MetadataCatalog.get("random").set(evaluator_type=kind, thing_classes=CLASSES, year=year)
        return "random"
    for i, r in enumerate(records):
        r |= {"file_name": f"{r['image_id']}.jpg", "image_id": i}
    DatasetCatalog.register("source", lambda: records)
    MetadataCatalog.get("source").set(thing_classes=CLASSES)
    convert_to_coco_json("source", str(tmp_path / "coco.json"))
    register_coco_instances("random", {}, str(tmp_path / "coco.json"), str(tmp_path))
    return "random"


def evaluate(name, detections, folder=None):
    """The metrics of flowdet's evaluator; it also saves the detections into a folder."""
    cfg = get_cfg()
    add_flowdet_config(cfg)
    evaluator = build_evaluator(cfg, name, folder)
    evaluator.reset()
    for image_id, of_image in detections.items():
        fields = {
            "pred_boxes": Boxes(torch.tensor([b for b, *_ in of_image]).reshape(-1, 4)),
            "pred_classes": torch.tensor([c for _, c, _ in of_image], dtype=torch.long),
            "scores": torch.tensor([s for *_, s in of_image], dtype=torch.float32),
        }
        evaluator.process(
            [{"image_id": image_id}], [{"instances": Instances((100, 100), **fields)}]
        )
    return evaluator.evaluate()["bbox"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind, year", [("pascal_voc", 2007), ("pascal_voc", 2012), ("coco", 0)])
def test_ap_equals_that_of_the_evaluator(kind, year, seed, tmp_path):
    rng = np.random.default_rng(seed)
    objects = random_objects(rng, 20)
    detections = random_detections(rng, objects)
    name = register(kind, year, objects, tmp_path)
    if kind == "coco":
        detections = dict(enumerate(detections.values()))
        DatasetCatalog.get(name)
    metrics = evaluate(name, detections, str(tmp_path / "inference"))
    analysis = analyze_saved(tmp_path / "inference" / FILE_NAME, name)
    assert analysis.ap50 == pytest.approx(metrics["AP50"], abs=1e-6)
    assert 10 < analysis.ap50 < 90
    if kind == "pascal_voc":
        for curve in analysis.curves:
            assert curve.ap == pytest.approx(metrics[f"AP50-{curve.name}"], abs=1e-6)
    assert analysis.images == 20 and analysis.class_names == CLASSES


@pytest.mark.parametrize("annotated", ["area", "segmentation"])
def test_sizes_are_those_of_coco(annotated, tmp_path):
    """Large boxes of thin objects: by the area of the box no object would be small or medium."""
    box = [10.0, 10.0, 110.0, 110.0]
    widths = (5.0, 60.0, 100.0)
    polygons = [[10, 10, 10 + w, 10, 10 + w, 110, 10, 110] for w in widths]
    records = [record(i, [(box, 0)], "iscrowd") for i in range(len(widths))]
    for r, polygon, width in zip(records, polygons, widths):
        r |= {"height": 120, "width": 120, "file_name": f"{r['image_id']}.jpg"}
        r["annotations"][0]["segmentation"] = [polygon]
        if annotated == "area":
            r["annotations"][0]["area"] = 100 * width
    DatasetCatalog.register("thin", lambda: records)
    MetadataCatalog.get("thin").set(thing_classes=["a"], evaluator_type="coco")
    convert_to_coco_json("thin", str(tmp_path / "coco.json"))
    MetadataCatalog.get("thin").json_file = str(tmp_path / "coco.json")
    # the medium object is not found
    detections = {i: [(box, 0, 0.9)] if i != 1 else [] for i in range(3)}
    metrics = evaluate("thin", detections)
    groups = analyze_dataset(saved(detections, "thin")).by_size[:3]
    assert [group.objects for group in groups] == [1, 1, 1]
    aps = [metrics[name] for name in ("APs", "APm", "APl")]
    assert aps == pytest.approx([100, 0, 100])
    assert [group.ap for group in groups] == pytest.approx(aps)


def test_only_the_best_100_of_a_class_count_in_coco(tmp_path):
    objects = {0: [([10, 10, 50, 50], 0)], 1: [([10, 10, 50, 50], 0)]}
    name = register("coco", 0, objects, tmp_path)
    wrong = [([60.0, 60.0, 90.0, 90.0], 0, 0.9 - i / 1000) for i in range(COCO_DETECTIONS)]
    detections = {0: [*wrong, ([10.0, 10.0, 50.0, 50.0], 0, 0.1)], 1: []}
    DatasetCatalog.get(name)
    assert evaluate(name, detections)["AP50"] == 0
    analysis = analyze_dataset(saved(detections, name))
    assert analysis.ap50 == 0 and analysis.detections == COCO_DETECTIONS


def test_saved_detections_are_read_back(tmp_path):
    detections = saved({"a": [([1, 2, 30, 40], 1, 0.5)], 7: []}, "pets", np.float32([0.25]))
    path = tmp_path / "new" / FILE_NAME
    detections.save(path)
    read = SavedDetections.load(path)
    assert read.dataset == "pets" and read.image_ids == ["a", 7]
    for field in ("images", "boxes", "classes", "scores", "stability"):
        np.testing.assert_array_equal(getattr(read, field), getattr(detections, field))
    assert [p.name for p in path.parent.iterdir()] == [FILE_NAME]


def test_detections_of_other_images_are_refused(tmp_path):
    name = register("pascal_voc", 2012, {"a": [([10, 10, 50, 50], 0)]}, tmp_path)
    saved({"b": []}, name).save(tmp_path / FILE_NAME)
    with pytest.raises(ValueError, match="image b of the saved detections is not in dataset"):
        analyze_saved(tmp_path / FILE_NAME, name)
    with pytest.raises(ValueError, match="has detections for 'random', not for 'other'"):
        analyze_saved(tmp_path / FILE_NAME, "other")


def test_dataset_without_detections(tmp_path):
    name = register("pascal_voc", 2012, {"a": [([10, 10, 50, 50], 0)], "b": []}, tmp_path)
    evaluate(name, {"a": [], "b": []}, str(tmp_path))
    analysis = analyze_saved(tmp_path / FILE_NAME, name)
    assert analysis.ap50 == 0 and analysis.tide["missed"].count == 1
    assert analysis.tide["missed"].dap == 100
    assert math.isnan(analysis.calibration["scores"].error)
    assert analysis.misses[0].error == "missed" and analysis.confident == []
