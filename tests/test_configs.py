"""The config files: they load, configs/README.md lists them, the paper's have its values."""

import re
from pathlib import Path

import pytest
import yaml
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.config import flat_items
from flowdet.config.config_files import list_configs
from flowdet.engine import load_config
from flowdet.engine.config import overlay_overrides
from flowdet.experiments.ablation import Study

CONFIGS = Path(__file__).parents[1] / "configs"
STUDIES = sorted((CONFIGS / "ablations").glob("*.yaml"))
OVERLAYS = ("backprop", "backprop_encoder", "paper", "sequential", "sequential_light")
OVERLAYS += ("sequential_paper_vit",)


def load(name, *overlays):
    overrides = [x for overlay in overlays for x in overlay_overrides(f"cls/bases/{overlay}")]
    return load_config(str(CONFIGS / f"{name}.yaml"), overrides)


def leaves(node, prefix=""):
    """{key with dots: value} of a nested mapping."""
    items = {}
    for name, value in node.items():
        items |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
        items |= {} if isinstance(value, dict) else {prefix + name: value}
    return items


def test_readme_lists_every_config():
    text = (CONFIGS / "README.md").read_text()
    listed = re.findall(r"^\| `([\w/]+)` \|", text, flags=re.MULTILINE)
    studies = [f"ablations/{path.stem}" for path in STUDIES]
    assert sorted(listed) == sorted([*list_configs(), *studies])
    overlays = re.findall(r"^- `(\w+)`: ", text, flags=re.MULTILINE)
    assert sorted(overlays) == sorted(OVERLAYS)


@pytest.mark.parametrize("name", list_configs())
def test_config_loads_and_sets_existing_keys(name):
    cfg = load(name)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST and cfg.OUTPUT_DIR.startswith("output/")
    values = dict(flat_items(cfg))
    own = leaves(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))
    own.pop("_BASE_", None)
    assert set(own) <= set(values)
    for key, value in own.items():
        # texts such as ("voc_2007_test",) are evaluated when they are loaded
        if not isinstance(value, str):
            assert type(value)(values[key]) == value, key


def test_output_folders_are_unique():
    folders = [load(name).OUTPUT_DIR for name in list_configs()]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_changes_only_its_keys(name):
    overrides = overlay_overrides(f"cls/bases/{name}")
    plain = dict(flat_items(load("cls/digits_flow_vit")))
    changed = dict(flat_items(load("cls/digits_flow_vit", name)))
    nodes = ("MODEL", "MODEL.FLOW_CLS")
    differing = {key for key in plain if plain[key] != changed[key] and key not in nodes}
    assert differing and differing <= set(overrides[::2])
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        assert str(changed[key]) == text


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_of_every_study_is_a_config(path):
    study = Study.read(path)
    for variant in study.variants:
        cfg = load_config(variant.config_file, list(variant.overrides))
        assert len(cfg.DATASETS.TEST) == 1, variant.name
    slugs = [variant.slug for variant in study.variants]
    assert len(set(slugs)) == len(slugs)


def test_paper_voc_flow_r50_has_the_values_of_the_paper():
    cfg = load("paper/voc_flow_r50")
    flow, solver = cfg.MODEL.FLOW_DET, cfg.SOLVER
    # D.1
    assert (flow.HIDDEN_DIM, flow.NUM_HEADS, flow.NUM_QUERIES, flow.NUM_BLOCKS) == (128, 4, 20, 4)
    assert (flow.FLOW_WEIGHT, flow.CLASS_WEIGHT) == (0.1, 1.0)
    assert (flow.BBOX_WEIGHT, flow.GIOU_WEIGHT) == (5.0, 2.0)
    assert flow.BACKGROUND_WEIGHT_PER_IMAGE == 20 * 0.1
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
    # eq. 1-4, 14, Algorithm 1: none of the parts of the recommended recipe
    assert (flow.PREDICTION, flow.TRAINING_STATES) == ("velocity", "interpolated")
    assert not flow.LEARN_AT_START
    assert (flow.NOISE_SCALE, flow.BOX_HEAD) == (1.0, "linear")
    assert flow.LEARN_TARGET and not flow.NORMALIZE_TARGET
    assert not (flow.ANCHORED_QUERIES or flow.SELF_CONDITIONING or flow.BOX_ANCHORED_ATTENTION)


@pytest.mark.parametrize("name", ["paper/digits_flow", "paper/voc_flow_r18_frozen"])
def test_paper_recipe_is_the_same_on_other_data(name):
    recipe = yaml.safe_load((CONFIGS / "paper" / "recipe.yaml").read_text())["MODEL"]["FLOW_DET"]
    node, reference = load(name).MODEL.FLOW_DET, load("paper/voc_flow_r50").MODEL.FLOW_DET
    differing = {key for key in node if node[key] != reference[key]}
    # what depends on the images and the backbone
    data = {"IN_FEATURES", "NECK_BLOCKS", "FEATURE_CACHE_GIB", "SCORE_THRESHOLD"}
    assert not differing & set(recipe) and differing <= data


@pytest.mark.parametrize(
    "name", [x for x in list_configs() if "_flow" in x and "/voc_box_" not in x and "cls/" not in x]
)
def test_every_flow_detector_has_a_backprop_baseline_with_the_same_data(name):
    flow, baseline = (leaves(load(x)) for x in (name, name.replace("_flow", "_backprop")))
    differing = {key for key in flow if flow[key] != baseline[key]}
    allowed = {"MODEL.META_ARCHITECTURE", "OUTPUT_DIR"}
    # the values that suit each method best
    allowed |= {f"MODEL.FLOW_DET.{k}" for k in ("MATCHING", "STATE_NOISE", "FIRST_BLOCK_WEIGHT")}
    allowed |= {"SOLVER.BASE_LR"} if name in ("digits_flow", "voc_flow_r18_frozen") else set()
    assert {"MODEL.META_ARCHITECTURE", "OUTPUT_DIR"} <= differing <= allowed


# config, overlays, epochs, batch size, T, d, kind of block, learning rates of blocks and backbone
PAPER_CLASSIFIERS = [
    ("cifar10_flow_vit", ["paper"], 50, 128, 5, 128, "residual_mlp", 5e-4, 5e-4),
    ("cifar100_flow_vit", ["paper"], 300, 512, 6, 192, "residual_mlp", 5e-4, 5e-4),
    ("tiny_imagenet_flow_vit", ["paper"], 1500, 256, 7, 240, "residual_mlp", 5e-4, 5e-4),
    ("mnist_flow_cnn", ["paper"], 200, 128, 3, 512, "residual_mlp", 5e-4, 5e-4),
    ("cifar10_flow_cnn", ["paper"], 200, 128, 3, 512, "residual_mlp", 5e-4, 5e-4),
    ("cifar100_flow_cnn", ["sequential_light", "paper"], 200, 128, 3, 512, "light_mlp", 5e-4, 5e-4),
    ("cifar10_flow_vit", ["sequential_paper_vit"], 50, 128, 5, 128, "mlp", 5e-4, 5e-4),
    ("cifar10_flow_vit_b16", ["paper"], 20, 32, 4, 768, "encoder", 1e-4, 1e-6),
    ("cifar100_flow_vit_b16", ["paper"], 10, 32, 4, 768, "encoder", 1e-4, 1e-6),
    ("imagenet_r_flow_vit_b16", ["paper"], 50, 64, 4, 768, "encoder", 1e-3, 1e-6),
]


@pytest.mark.parametrize("row", PAPER_CLASSIFIERS, ids=lambda row: "+".join([row[0], *row[1]]))
def test_paper_classifiers_have_the_values_of_the_paper(row):
    # D.2
    name, overlays, *expected = row
    cfg = load(f"cls/{name}", *overlays)
    node, solver = cfg.MODEL.FLOW_CLS, cfg.SOLVER
    backbone_lr = solver.BASE_LR * solver.BACKBONE_MULTIPLIER
    values = [solver.MAX_EPOCHS, solver.IMS_PER_BATCH, node.NUM_BLOCKS, node.HIDDEN_DIM, node.BLOCK]
    assert [*values, solver.BASE_LR, pytest.approx(backbone_lr)] == expected
    assert (node.PREDICTION, node.TRAINING_STATES) == ("velocity", "interpolated")
    assert not node.LEARN_AT_START
    assert (node.NOISE_SCALE, node.FLOW_WEIGHT, node.LEARN_TARGET) == (1.0, 1.0, True)
    assert solver.CLIP_GRADIENTS.CLIP_VALUE == 1.0 and solver.WEIGHT_DECAY == 1e-4
    assert solver.EMA_DECAY == (0.995 if "cnn" in name else 0.0)
