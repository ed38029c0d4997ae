import re
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.config import add_flowdet_config
from flowdet.engine import load_config
from flowdet.experiments.ablation import Study

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))
FILES = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*STUDIES})


def leaves(node, prefix=""):
    """{dotted key: value} of a nested mapping."""
    found = {}
    for name, value in node.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def detectron2_and_ours():
    cfg = get_cfg()
    theirs = leaves(cfg)
    add_flowdet_config(cfg)
    return theirs, leaves(cfg)


def added_keys():
    theirs, all_keys = detectron2_and_ours()
    return sorted(set(all_keys) - set(theirs))


def source():
    files = [*(ROOT / "flowdet").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    lines = [line for f in files for line in f.read_text().splitlines()]
    # defaults and comments name keys without reading them
    return "\n".join(line for line in lines if not re.match(r"\s*(#|node\.[A-Z_]+ = )", line))


def test_every_key_is_read_somewhere():
    text, unread = source(), []
    for key in added_keys():
        section, name = f"cfg.{key}".split(".")[-2:]
        # cfg.SOLVER.OPTIMIZER, flow_cfg.NUM_BLOCKS, node.BLOCK_LAYERS, solver.MAX_EPOCHS
        if not re.search(rf"\b({section}|flow_cfg|node|{section.lower()})\.{name}\b", text):
            unread.append(key)
    assert len(added_keys()) > 30 and unread == []


def test_adding_the_keys_changes_none_of_detectron2():
    theirs, all_keys = detectron2_and_ours()
    assert {key: all_keys[key] for key in theirs} == theirs


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_config_loads_and_overrides_existing_keys(path):
    cfg = load_config(str(path))
    _, known = detectron2_and_ours()
    own = leaves(yaml.safe_load(path.read_text()))
    own.pop("_BASE_", None)
    assert sorted(set(own) - set(known)) == []
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    for key, value in own.items():
        loaded = leaves(cfg)[key]
        if not isinstance(value, str):
            assert type(value)(loaded) == value, key


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_of_every_study_is_a_config(path):
    study = Study.read(path)
    for variant in study.variants:
        cfg = load_config(variant.config_file, list(variant.overrides))
        assert len(cfg.DATASETS.TEST) == 1, variant.name
    slugs = [variant.slug for variant in study.variants]
    assert len(set(slugs)) == len(slugs)


def test_voc_flow_r50_is_the_paper():
    cfg = load_config(str(ROOT / "configs" / "voc_flow_r50.yaml"))
    flow, solver = cfg.MODEL.FLOW_DET, cfg.SOLVER
    # D.1
    assert (flow.HIDDEN_DIM, flow.NUM_HEADS, flow.NUM_QUERIES, flow.NUM_BLOCKS) == (128, 4, 20, 4)
    assert (flow.FLOW_WEIGHT, flow.CLASS_WEIGHT) == (0.1, 1.0)
    assert (flow.BBOX_WEIGHT, flow.GIOU_WEIGHT, flow.BACKGROUND_WEIGHT) == (5.0, 2.0, 0.1)
    assert (flow.INFERENCE_MODE, flow.NUM_STEPS) == ("multi_step", 0)
    assert flow.SCORE_THRESHOLD == 0.05
    assert cfg.MODEL.RESNETS.DEPTH == 50 and cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert tuple(cfg.INPUT.FIXED_SIZE) == (256, 256)
    assert cfg.DATASETS.TRAIN == ("voc_2007_trainval",)
    assert cfg.DATASETS.TEST == ("voc_2007_test",)
    assert solver.OPTIMIZER == "AdamW" and solver.WEIGHT_DECAY == solver.WEIGHT_DECAY_NORM == 1e-4
    assert solver.BASE_LR == 1e-4
    assert solver.BASE_LR * solver.BACKBONE_MULTIPLIER == pytest.approx(1e-5)
    assert solver.IMS_PER_BATCH == 16 and solver.MAX_EPOCHS == 50
    assert solver.STEP_EPOCHS == [20] and solver.GAMMA == 0.1 and solver.WARMUP_ITERS == 0
    clip = solver.CLIP_GRADIENTS
    assert clip.ENABLED and (clip.CLIP_TYPE, clip.CLIP_VALUE) == ("full_model", 1.0)
    # eq. 1-4, 14, Algorithm 1: none of the measured recipe
    assert (flow.PREDICTION, flow.TRAINING_STATES) == ("velocity", "interpolated")
    assert not flow.LEARN_AT_START
    assert (flow.NOISE_SCALE, flow.BOX_HEAD) == (1.0, "linear")
    assert flow.LEARN_TARGET and not flow.NORMALIZE_TARGET
    assert not (flow.ANCHORED_QUERIES or flow.SELF_CONDITIONING or flow.BOX_ANCHORED_ATTENTION)


def test_the_paper_recipe_on_the_digits_is_the_same():
    def settings(name):
        cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"))
        return leaves(cfg.MODEL.FLOW_DET)

    # what depends on the images, the backbone and its grid of tokens
    depends = {"POSITION_MAX_FREQUENCY", "IN_FEATURES"}
    digits, voc = settings("digits_flow_paper"), settings("voc_flow_r50")
    assert {k: v for k, v in digits.items() if voc[k] != v and k not in depends} == {}


# file, epochs, batch size, T, d, kind of block, learning rate, backbone's learning rate (D.2)
PAPER_ROWS = [
    ("cifar10_flow_vit_paper", 50, 128, 5, 128, "residual_mlp", 5e-4, 5e-4),
    ("cifar100_flow_vit_paper", 300, 512, 6, 192, "residual_mlp", 5e-4, 5e-4),
    ("tiny_imagenet_flow_vit_paper", 1500, 256, 7, 240, "residual_mlp", 5e-4, 5e-4),
    ("mnist_flow_cnn_paper", 200, 128, 3, 512, "residual_mlp", 5e-4, 5e-4),
    ("cifar10_flow_cnn_paper", 200, 128, 3, 512, "residual_mlp", 5e-4, 5e-4),
    ("cifar100_flow_cnn_sequential_paper", 200, 128, 3, 512, "light_mlp", 5e-4, 5e-4),
    ("cifar10_flow_vit_b16_paper", 20, 32, 4, 768, "encoder", 1e-4, 1e-6),
    ("cifar100_flow_vit_b16_paper", 10, 32, 4, 768, "encoder", 1e-4, 1e-6),
    ("imagenet_r_flow_vit_b16_paper", 50, 64, 4, 768, "encoder", 1e-3, 1e-6),
]


@pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda row: row[0])
def test_classification_configs_are_the_paper_s(row):
    name, *expected = row
    cfg = load_config(str(ROOT / "configs" / "cls" / f"{name}.yaml"))
    node, solver = cfg.MODEL.FLOW_CLS, cfg.SOLVER
    backbone_lr = solver.BASE_LR * solver.BACKBONE_MULTIPLIER
    found = [solver.MAX_EPOCHS, solver.IMS_PER_BATCH, node.NUM_BLOCKS, node.HIDDEN_DIM, node.BLOCK]
    assert [*found, solver.BASE_LR, pytest.approx(backbone_lr)] == expected
    assert (node.PREDICTION, node.TRAINING_STATES) == ("velocity", "interpolated")
    assert not node.LEARN_AT_START
    assert (node.NOISE_SCALE, node.FLOW_WEIGHT, node.LEARN_TARGET) == (1.0, 1.0, True)
    assert solver.CLIP_GRADIENTS.CLIP_VALUE == 1.0 and solver.WEIGHT_DECAY == 1e-4
    assert solver.EMA_DECAY == (0.995 if "cnn" in name else 0.0)


FLOW_CLS_FILES = [f for f in FILES if f.parent.name == "cls" and "_flow_" in f.name]


@pytest.mark.parametrize("path", FLOW_CLS_FILES, ids=lambda path: path.stem)
def test_every_flow_classifier_has_a_backprop_twin(path):
    stem = (
        path.stem.removesuffix("_paper").removesuffix("_sequential").replace("_flow_", "_backprop_")
    )
    flow = leaves(load_config(str(path)))
    twin = leaves(load_config(str(path.with_name(f"{stem}.yaml"))))
    differing = {key for key in flow if flow[key] != twin[key]}
    recipe = {
        *("PREDICTION", "SELF_CONDITIONING", "TRAINING_STATES", "LEARN_AT_START", "NOISE_SCALE"),
        *("NORMALIZE_TARGET", "LEARN_TARGET", "FLOW_WEIGHT", "TOPOLOGY"),
    }
    allowed = {"MODEL.META_ARCHITECTURE", "OUTPUT_DIR", *(f"MODEL.FLOW_CLS.{k}" for k in recipe)}
    # blocks of one stage each are smaller (D.2)
    if "_sequential" in path.stem:
        allowed |= {"MODEL.FLOW_CLS.BLOCK", "MODEL.FLOW_CLS.BLOCK_DIM"}
    # a wider head, to have as many parameters
    if "_vit_b16" in path.stem:
        allowed |= {"MODEL.FLOW_CLS.BLOCK_DIM"}
    assert differing <= allowed
