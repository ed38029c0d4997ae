"""Faster R-CNN and FCOS with the trainer, the evaluator, `flowdet.load` and the analyses."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

import flowdet
from flowdet.data.custom.statistics import config_remarks
from flowdet.engine import FlowDetCheckpointer, Trainer, evaluate, load_trained, resolve_config
from flowdet.engine.config import with_keys
from flowdet.engine.task_builders import has_queries
from flowdet.experiments.measurement import check_has_queries, load_run
from flowdet.export import graph_of
from flowdet.reporting.results import method_of, result_rows
from tests.detection.peers.tiny import PEERS, peer_cfg, tiny_peer
from tests.detection.tiny import tiny_cfg
from tests.engine.runs import assert_resumes_exactly, train
from tests.inference.comparison import assert_same_detections

NAMES = ("cat", "dog", "owl")
IMAGES = {
    f"image{i}": [((4 + i, 4, 30 + i, 40), NAMES[i % 3], 0), ((36, 8, 58, 44), NAMES[i % 2], 0)]
    for i in range(7)
} | {"empty": []}
METHODS = dict(zip(PEERS, ("faster_rcnn", "fcos")))


@pytest.fixture(params=PEERS)
def name(request):
    return request.param


@pytest.fixture
def training_cfg(name, voc_dataset):
    """Six iterations on eight images, one of them without objects."""
    dataset = voc_dataset(IMAGES)
    keys = {
        "DATASETS.TRAIN": (dataset,),
        "DATASETS.TEST": (dataset,),
        "INPUT.FIXED_SIZE": [48, 64],
        "INPUT.RANDOM_FLIP": "horizontal",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.MAX_EPOCHS": 0,
        "SOLVER.CHECKPOINT_EPOCHS": 0,
        "TEST.EVAL_EPOCHS": 0,
        "SOLVER.MAX_ITER": 6,
        "SOLVER.WARMUP_ITERS": 2,
        "SOLVER.CHECKPOINT_PERIOD": 3,
        "TEST.EVAL_PERIOD": 4,
        "TEST.SAMPLE_IMAGES": 0,
        "TEST.BATCH_SIZE": 4,
        "SEED": 3,
    }
    return peer_cfg(name, keys, NUM_CLASSES=0)


def test_classes_come_from_the_dataset(training_cfg, name):
    cfg = resolve_config(training_cfg)
    assert cfg.MODEL.CLASS_NAMES == list(NAMES)
    model = build_model(cfg)
    assert model.num_classes == 3
    head = model.fcos.head.cls_score if name == "FCOSDetector" else None
    head = head or model.roi_heads.box_predictor.cls_score
    # Faster R-CNN has a row for the background
    assert len(head.bias) == (3 if name == "FCOSDetector" else 4)


def test_resumed_training_equals_an_uninterrupted_one(training_cfg, tmp_path):
    training_cfg.SOLVER.EMA_DECAY = 0.5
    assert_resumes_exactly(resolve_config(training_cfg), tmp_path)


def draw_objects(dataset):
    """Fills the boxes of a dataset's images with a color per class."""
    for x in DatasetCatalog.get(dataset):
        pixels = cv2.imread(x["file_name"]) // 4
        for annotation in x["annotations"]:
            left, top, right, bottom = map(round, annotation["bbox"])
            pixels[top:bottom, left:right] = 255 * np.eye(3)[annotation["category_id"]]
        cv2.imwrite(x["file_name"], pixels)


@pytest.mark.slow
def test_a_few_images_are_overfitted(training_cfg, tmp_path):
    (dataset,) = training_cfg.DATASETS.TRAIN
    draw_objects(dataset)
    iterations = 60 if training_cfg.MODEL.META_ARCHITECTURE == "FCOSDetector" else 120
    keys = {"SOLVER.MAX_ITER": iterations, "SOLVER.IMS_PER_BATCH": 8, "SOLVER.BASE_LR": 1e-3}
    keys |= {"TEST.EVAL_PERIOD": iterations, "INPUT.RANDOM_FLIP": "none"}
    cfg = resolve_config(with_keys(training_cfg, keys))
    results = train(cfg, tmp_path / "run")._last_eval_results["bbox"]
    # 99 to 100, depending on how the steps of the optimizer are rounded
    assert results["AP50"] > 95 and results["AP"] > 50


def test_evaluation_of_a_checkpoint_and_of_a_model_without_detections(training_cfg, tmp_path):
    cfg = resolve_config(training_cfg)
    trainer = train(cfg, tmp_path)
    checkpoint = str(tmp_path / "model_final.pth")
    model = Trainer.build_model(cfg)
    load_trained(cfg, model, checkpoint, cfg.MODEL.CLASS_NAMES)
    cfg.OUTPUT_DIR = str(tmp_path / "eval")
    assert evaluate(cfg, model)["bbox"] == trainer._last_eval_results["bbox"]
    silent = with_keys(cfg, {"MODEL.FLOW_DET.SCORE_THRESHOLD": 1.0})
    assert evaluate(silent, Trainer.build_model(silent))["bbox"]["AP50"] == 0


def test_other_classes_reinitialize_exactly_the_class_tensors(name, tmp_path):
    FlowDetCheckpointer(tiny_peer(name, seed=1), str(tmp_path)).save("three")
    model = tiny_peer(name, seed=2, NUM_CLASSES=5)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    three = tiny_peer(name, seed=1).state_dict()
    with pytest.raises(ValueError, match="another number of classes"):
        FlowDetCheckpointer(model).load(str(tmp_path / "three.pth"))
    checkpointer = FlowDetCheckpointer(model, reinit_classes=True)
    checkpointer.load(str(tmp_path / "three.pth"))
    for key, x in model.state_dict().items():
        same = x.shape == three[key].shape
        assert torch.equal(x, three[key] if same else before[key]), key
        assert same != key.startswith(model.class_tensors)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run of each model, with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    for architecture in PEERS:
        cfg = peer_cfg(architecture)
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
        cfg.MODEL.CLASS_NAMES = list(NAMES)
        run = folder / architecture
        run.mkdir()
        FlowDetCheckpointer(tiny_peer(architecture), str(run)).save("model_final")
        (run / "config.yaml").write_text(cfg.dump())
    return folder


def test_load_detects_in_images_of_any_size(name, runs):
    detect = flowdet.load(runs / name, score_threshold=0.0)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 40, 3), dtype=np.uint8)
    one, other = detect([pixels, pixels[:50]])
    assert one.image_size == (90, 40) and len(one)
    assert detect.names(one)[0] in NAMES
    assert_same_detections(detect(pixels), one)
    assert_same_detections(detect(pixels[:50]), other)
    above = flowdet.load(runs / name, score_threshold=float(one.scores[2]))(pixels)
    assert len(above) == 2


def test_options_and_analyses_that_need_queries_are_refused(name, runs):
    with pytest.raises(ValueError, match=f"{name} has no inference modes: leave out steps"):
        flowdet.load(runs / name, steps=4)
    detect = flowdet.load(runs / name)
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=f"{name} has no independent blocks"):
        detect(pixels, disagreement=True)
    with pytest.raises(ValueError, match=f"{name} has no trajectory"):
        detect.predictor([pixels], trajectory=True)
    with pytest.raises(ValueError, match=f"{name} cannot be exported.*with queries"):
        graph_of(detect.predictor.model, (64, 64))
    with pytest.raises(ValueError, match=f"{name} has no queries, which this measurement needs"):
        load_run(runs / name, None, [])
    check_has_queries(tiny_cfg())


def test_result_rows_have_the_method_and_neither_blocks_nor_steps(name):
    cfg = peer_cfg(name)
    assert method_of(cfg) == METHODS[name]
    (row,) = result_rows(cfg, "pets_test", {"bbox": {"AP50": 12.345}})
    assert (row["method"], row["metric"], row["mean"]) == (METHODS[name], "AP50", 12.35)
    assert not {"num_blocks", "mode", "num_steps"} & set(row)


def test_the_number_of_queries_limits_no_objects(name):
    box = {"bbox": (0, 0, 40, 40), "category_id": 0}
    records = {"train": [{"height": 96, "width": 96, "annotations": [box] * 7}]}
    assert not has_queries(peer_cfg(name)) and has_queries(tiny_cfg())
    assert config_remarks(records, peer_cfg(name), has_queries=False) == []
    assert "7 or more" in config_remarks(records, tiny_cfg(), has_queries=True)[0]
