"""Local-learning baselines with the ordinary trainer and evaluator."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.data.classification.loaders import labels_of
from flowdet.engine import Trainer, evaluate, resolve_config
from flowdet.export.graphs import graph_of
from tests.engine.runs import assert_resumes_exactly
from tests.flowcls.tiny import images, tiny_cfg, tiny_model


def few_digits(split, count):
    """The first digits as a separate dataset; returns its name."""
    source, name = f"sklearn_digits_{split}", f"few_digits_{split}"
    records = DatasetCatalog.get(source)[:count]
    DatasetCatalog.register(name, lambda: records)
    classes = MetadataCatalog.get(source).thing_classes
    MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="classification")
    return name


@pytest.fixture
def training_cfg(tmp_path):
    """Returns the config of a training of 6 iterations for a config file."""

    def load(file):
        overrides = ["SOLVER.MAX_EPOCHS", 0, "SOLVER.CHECKPOINT_EPOCHS", 0, "TEST.EVAL_EPOCHS", 0]
        overrides += ["SOLVER.WARMUP_EPOCHS", 0, "SOLVER.MAX_ITER", 6, "SOLVER.WARMUP_ITERS", 2]
        overrides += ["SOLVER.CHECKPOINT_PERIOD", 3, "TEST.EVAL_PERIOD", 4, "SOLVER.EMA_DECAY", 0.5]
        overrides += ["SOLVER.IMS_PER_BATCH", 8, "TEST.SAMPLE_IMAGES", 0, "SEED", 3]
        overrides += ["MODEL.SFF.SAMPLES", 2, "MODEL.SFF.INFERENCE_SAMPLES", 2]
        overrides += ["MODEL.NOPROP.NUM_BLOCKS", 2]
        # an iteration is left after the layers of SoftHebb are fixed
        overrides += ["MODEL.SOFT_HEBB.LEARNING_FRACTION", 0.8]
        cfg = tiny_cfg(file, *overrides, NUM_CLASSES=0)
        cfg.DATASETS.TRAIN = (few_digits("train", 40),)
        cfg.DATASETS.TEST = (few_digits("test", 12),)
        cfg.OUTPUT_DIR = str(tmp_path / "output")
        return cfg

    return load


@pytest.mark.parametrize(
    "file",
    [
        "baselines/digits_collab_cnn",
        "baselines/digits_sff_vit",
        "baselines/digits_cff_cnn",
        "baselines/digits_cff_margin_vit",
        "baselines/digits_softhebb_cnn",
        "baselines/digits_noprop_dt_vit",
        "baselines/digits_noprop_ct_cnn",
        "baselines/digits_noprop_fm_cnn",
    ],
)
def test_resumed_training_equals_an_uninterrupted_one(training_cfg, tmp_path, file):
    assert_resumes_exactly(training_cfg(file), tmp_path)


@pytest.mark.parametrize(
    ("file", "modes"),
    [
        ("baselines/digits_symba_vit", {"goodness", "readout"}),
        ("baselines/digits_sff_cnn", {"readout"}),
        ("baselines/digits_cff_cnn", {"readout"}),
        ("baselines/digits_softhebb_cnn", {"readout"}),
        ("baselines/digits_noprop_dt_cnn", {"denoise"}),
    ],
)
def test_evaluator_reports_every_inference_mode(training_cfg, file, modes):
    cfg = resolve_config(training_cfg(file))
    model = Trainer.build_model(cfg)
    results = evaluate(cfg, model)["classification"]
    assert {name.removeprefix("top1-") for name in results if name.startswith("top1-")} == modes
    (dataset,) = cfg.DATASETS.TEST
    labels = labels_of(dataset)
    with torch.no_grad():
        correct = [
            (output["logits"].argmax(dim=1) == labels[record["image_id"]]).float()
            for batch in Trainer.build_test_loader(cfg, dataset)
            for record, output in zip(batch, model.eval()(batch), strict=True)
        ]
    accuracies = 100 * torch.stack(correct).mean(dim=0)
    order = model(next(iter(Trainer.build_test_loader(cfg, dataset))))[0]["modes"]
    assert [results[f"top1-{mode}"] for mode in order] == pytest.approx(accuracies.tolist())
    # ten classes
    assert {value for name, value in results.items() if name.startswith("top10")} == {100}


@pytest.mark.parametrize(
    "file",
    [
        "baselines/digits_ff_cnn",
        "baselines/digits_sff_vit",
        "baselines/digits_cff_vit",
        "baselines/digits_softhebb_cnn",
        "baselines/digits_noprop_dt_cnn",
        "baselines/digits_noprop_ct_cnn",
        "baselines/digits_noprop_fm_vit",
    ],
)
def test_exported_graph_has_the_probabilities_of_the_configured_mode(file):
    model = tiny_model(file).eval()
    batch = images(2)
    graph = graph_of(model, (32, 32))
    (probabilities,) = graph(model.images_of(batch) * model.pixel_std + model.pixel_mean)
    for row, result in zip(probabilities, model(batch), strict=True):
        difference = row - result["logits"][0].softmax(-1)
        assert difference.abs().max() < 1e-4
