"""The keys of flowdet/config/: every key is read, and means the same in both tasks."""

import argparse
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from flowdet.cli import run_training
from flowdet.config import add_flowdet_config, flat_items, inference_settings, state_settings
from flowdet.engine import Trainer, load_config, resolve_config
from flowdet.flow import InferencePlan
from tests.detection.tiny import tiny_cfg
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg


def leaves(cfg):
    return {key: value for key, value in flat_items(cfg) if not isinstance(value, CfgNode)}


def all_keys():
    """detectron2's keys, and those with flowdet's."""
    cfg = get_cfg()
    before = leaves(cfg)
    add_flowdet_config(cfg)
    return before, leaves(cfg)


def test_adding_the_keys_changes_none_of_detectron2():
    before, after = all_keys()
    assert len(after) > len(before) + 100
    assert {key: after[key] for key in before} == before


class RecordingConfig(CfgNode):
    """A config that records which keys are read; merging does not count.

    Attributes:
        read: the keys, written with dots.
    """

    read: set = set()

    def __init__(self, init_dict=None, key_list=None, new_allowed=False):
        super().__init__(init_dict, key_list, new_allowed)
        self.__dict__["path"] = key_list or []

    def __getitem__(self, name):
        self.read.add(".".join([*self.__dict__.get("path", []), name]))
        return super().__getitem__(name)

    def get(self, name, default=None):
        return self[name] if name in self else default

    def merge_from_other_cfg(self, other):
        before = set(self.read)
        super().merge_from_other_cfg(other)
        self.read.intersection_update(before)

    def merge_from_list(self, words):
        before = set(self.read)
        super().merge_from_list(words)
        self.read.intersection_update(before)


@pytest.fixture
def recorded(monkeypatch):
    """The keys that are read in configs that are loaded from now on."""

    def complete_config():
        cfg = get_cfg()
        add_flowdet_config(cfg)
        return RecordingConfig(cfg)

    monkeypatch.setattr("flowdet.engine.config.get_cfg", complete_config)
    monkeypatch.setattr("flowdet.engine.config.add_flowdet_config", lambda cfg: None)
    monkeypatch.setattr(RecordingConfig, "read", set())
    yield RecordingConfig.read


def test_recording_counts_reads_of_every_kind_and_no_merges(recorded):
    cfg = load_config("digits_flow", ["MODEL.FLOW_DET.DROPOUT", 0.5])
    recorded.clear()
    node = cfg.clone().MODEL.FLOW_DET
    assert (node.DROPOUT, node["BLOCK"], node.get("NOISE_SCALE")) == (0.5, "transformer", 0.3)
    assert node.get("NO_KEY", 7) == 7
    cfg.merge_from_list(["MODEL.FLOW_CLS.NUM_BLOCKS", 2])
    expected = {f"MODEL.FLOW_DET.{name}" for name in ("DROPOUT", "BLOCK", "NOISE_SCALE")}
    assert recorded == {"MODEL", "MODEL.FLOW_DET"} | expected


def train_command(cfg_words, folder, monkeypatch):
    """`flowdet-train` without the logging that it sets up for the process."""

    def write_config(cfg, *args, **kwargs):
        (Path(cfg.OUTPUT_DIR) / "config.yaml").write_text(cfg.dump())

    monkeypatch.setattr(run_training, "start_run", write_config)
    monkeypatch.setattr(run_training, "open_log_file", lambda folder, rank: None)
    words = [*cfg_words, "OUTPUT_DIR", str(folder)]
    args = argparse.Namespace(
        config_file="digits_flow",
        opts=words,
        eval_only=False,
        resume=False,
        run_dir="",
        trust_config=False,
    )
    run_training.train(args)


def small_training(dataset):
    """Overrides of a training of one iteration."""
    return [
        *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATALOADER.NUM_WORKERS", 0),
        *("DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (dataset,)),
        *("INPUT.FIXED_SIZE", [48, 64], "TEST.CLASS_SUBSET", ["cat"]),
        *("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 0),
        *("TEST.SAMPLE_IMAGES", 1, "TEST.REPORT_IMAGES", 1),
        *("MODEL.FLOW_DET.HIDDEN_DIM", 32, "MODEL.FLOW_DET.NUM_QUERIES", 4),
        *("MODEL.SMALL_RESNET.CHANNELS", [8, 8, 16]),
    ]


def few_digits():
    """A classification dataset of the first digits; returns its name."""
    name, source = "few_digits", "sklearn_digits_train"
    records = DatasetCatalog.get(source)[:8]
    DatasetCatalog.register(name, lambda: records)
    classes = MetadataCatalog.get(source).thing_classes
    MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="classification")
    return name


def test_every_key_is_read(recorded, voc_dataset, tmp_path, monkeypatch):
    """Detection and classification are trained, and the models of further kinds are built."""
    dataset = voc_dataset({f"image{i}": [((4, 4, 30, 40), "cat", 0)] for i in range(2)})
    train_command(small_training(dataset), tmp_path / "run", monkeypatch)
    assert (tmp_path / "run" / "report.html").is_file()
    load_config("digits_flow", ["DATASETS.PATH", MetadataCatalog.get(dataset).dirname])
    build_model(tiny_cfg("digits_backprop.yaml"))
    build_model(tiny_cfg("voc_flow_r18_frozen.yaml", FEATURE_CACHE_GIB=0.1))
    build_model(tiny_cfg("peers/voc_fcos_r18_frozen.yaml"))
    build_model(tiny_cfg("peers/voc_box_diffusion_r18_frozen.yaml"))
    assert not {key for key in recorded if key.startswith("MODEL.FLOW_CLS.")}

    name = few_digits()
    sizes = {"NUM_CLASSES": 0, "NUM_BLOCKS": 2}
    cfg = tiny_classifier_cfg("mnist_flow_cnn", "DATASETS.TRAIN", (name,), **sizes)
    cfg.DATASETS.TEST = (name,)
    cfg = resolve_config(cfg)
    Trainer.build_model(cfg)
    Trainer.build_train_loader(cfg)
    build_model(tiny_classifier_cfg(BLOCK="residual_mlp"))
    for method in ("symba", "collab", "sff", "cff", "softhebb", "noprop_dt"):
        build_model(tiny_classifier_cfg(f"baselines/digits_{method}_cnn"))
    learned = ("MODEL.NOPROP.EMBEDDING", "learned")
    build_model(tiny_classifier_cfg("baselines/digits_noprop_ct_cnn", *learned))

    before, after = all_keys()
    assert sorted(set(after) - set(before) - recorded) == []


def shared_names():
    cfg = get_cfg()
    add_flowdet_config(cfg)
    detection, classification = cfg.MODEL.FLOW_DET, cfg.MODEL.FLOW_CLS
    return detection, classification, sorted(set(detection) & set(classification))


def test_keys_of_both_tasks_have_the_same_type():
    detection, classification, names = shared_names()
    assert {"SINGLE_STEP_BLOCK", "STATES_TRAIN_FEATURES", "LEARN_AT_START"} <= set(names)
    for name in names:
        assert type(detection[name]) is type(classification[name]), name
    assert detection.SINGLE_STEP_BLOCK == classification.SINGLE_STEP_BLOCK == 0


def test_keys_of_both_tasks_have_the_same_meaning():
    """The same values give the same settings of the training states and of the inference."""
    detection, classification, names = shared_names()
    values = {
        "TRAINING_STATES": "rollout",
        "ROLLOUT_STEPS": [2, 3],
        "STATE_NOISE": 0.5,
        "LEARN_AT_START": True,
        "STATES_TRAIN_FEATURES": False,
        "NUM_BLOCKS": 3,
        "INFERENCE_MODE": "single_step",
        "NUM_STEPS": 0,
        "SINGLE_STEP_BLOCK": -1,
        "NOISE_SEED": 9,
    }
    assert set(values) <= set(names)
    for name, value in values.items():
        detection[name] = classification[name] = value
    assert state_settings(detection) == state_settings(classification)
    assert inference_settings(detection) == inference_settings(classification)
    # no steps are one per block, and negative blocks count from the end
    assert inference_settings(detection).plan == InferencePlan("single_step", 3, 2)
