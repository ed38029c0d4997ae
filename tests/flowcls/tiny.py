"""Small classifiers and images for tests."""

from pathlib import Path

import torch
from detectron2.modeling import build_model

from flowdet.engine import load_config
from flowdet.engine.config import overlay_overrides
from flowdet.flowcls import Classifier

CONFIGS = Path(__file__).parents[2] / "configs" / "cls"

SIZES = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.VIT.HIDDEN_DIM": 16,
    "MODEL.VIT.NUM_LAYERS": 3,
    "MODEL.VIT.NUM_HEADS": 2,
    "MODEL.VIT.PATCH_SIZE": 8,
    "MODEL.CNN.CHANNELS": [4, 6, 8],
    "MODEL.FLOW_CLS.NUM_CLASSES": 4,
    "MODEL.FLOW_CLS.NUM_BLOCKS": 3,
    "MODEL.FLOW_CLS.HIDDEN_DIM": 16,
    "MODEL.FLOW_CLS.BLOCK_DIM": 16,
    "MODEL.FLOW_CLS.NUM_HEADS": 2,
    "MODEL.FLOW_CLS.DROPOUT": 0.0,
}


def tiny_cfg(file: str = "digits_flow_vit", *overrides, **node_keys):
    """A config with d = 16, 4 classes and 3 blocks.

    Args:
        file: a config in configs/cls, with overlays from its `bases`: `cifar10_flow_cnn+paper`.
        overrides: `KEY, value` pairs.
        node_keys: keys of MODEL.FLOW_CLS.
    """
    config, *overlays = file.split("+")
    words = [x for name in overlays for x in overlay_overrides(f"cls/bases/{name}")]
    keys = SIZES | {f"MODEL.FLOW_CLS.{name}": value for name, value in node_keys.items()}
    words += [x for pair in keys.items() for x in pair]
    return load_config(str(CONFIGS / f"{config}.yaml"), [*words, *overrides])


def tiny_model(file: str = "digits_flow_vit", *overrides, **node_keys) -> Classifier:
    """The classifier of `tiny_cfg`, always with the same weights. They are perturbed: parameters
    that are initialized with zeros would hide missing connections."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(file, *overrides, **node_keys))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(count: int = 4, size: int = 32, num_classes: int = 4) -> list[dict]:
    """Random images with the labels 0, 1, 2, ... in turn."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator),
            "label": i % num_classes,
            "image_id": i,
        }
        for i in range(count)
    ]


def assert_labels_have_no_effect(model: Classifier) -> None:
    """Permuted or absent labels change neither predictions nor layer features."""
    batch = images()
    permuted = [{**x, "label": (x["label"] + 1) % 4} for x in batch]
    blind = [{"image": x["image"]} for x in batch]
    expected, features = model(batch), model.layer_features(batch)
    for other in (permuted, blind):
        for one, two in zip(expected, model(other), strict=True):
            assert torch.equal(one["logits"], two["logits"])
        for name, x in model.layer_features(other).items():
            assert torch.equal(features[name], x)


def assert_batch_has_no_effect(model: Classifier) -> None:
    """The probabilities of an image do not depend on the other images."""
    batch = images(2)
    together = torch.stack([x["logits"] for x in model(batch)]).softmax(-1)
    torch.manual_seed(5)
    alone = torch.stack([model([x])[0]["logits"] for x in batch]).softmax(-1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
