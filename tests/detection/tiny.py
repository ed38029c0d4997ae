"""Small detectors, images and ground truth, for the tests of detection and engine."""

from dataclasses import replace
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from flowdet.detection import FlowMatchingDetector
from flowdet.detection.targets import Targets
from flowdet.engine import load_config

CONFIGS = Path(__file__).parents[2] / "configs"

SIZES = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.SMALL_RESNET.CHANNELS": [8, 8, 16],
    "MODEL.SMALL_RESNET.BLOCKS": [1, 1],
    "MODEL.FLOW_DET.NUM_CLASSES": 3,
    "MODEL.FLOW_DET.HIDDEN_DIM": 32,
    "MODEL.FLOW_DET.FEEDFORWARD_DIM": 32,
    "MODEL.FLOW_DET.NUM_QUERIES": 6,
    "MODEL.FLOW_DET.NUM_BLOCKS": 3,
    "MODEL.FLOW_DET.POSITION_MAX_FREQUENCY": 4.0,
    # an untrained model has low scores
    "MODEL.FLOW_DET.SCORE_THRESHOLD": 0.0,
}


def tiny_cfg(file: str = "digits_flow.yaml", **flow_keys):
    """A config with d = 32, 3 classes, 6 queries, 3 blocks; `flow_keys` of MODEL.FLOW_DET."""
    keys = SIZES | {f"MODEL.FLOW_DET.{name}": value for name, value in flow_keys.items()}
    return load_config(str(CONFIGS / file), [x for pair in keys.items() for x in pair])


def tiny_model(seed: int = 0, file: str = "digits_flow.yaml", **flow_keys) -> FlowMatchingDetector:
    """The detector of `tiny_cfg`, with weights that depend on the seed only."""
    torch.manual_seed(seed)
    return build_model(tiny_cfg(file, **flow_keys))


def with_plan(model, **plan):
    """Sets the inference mode, steps or block of a model, and returns it."""
    model.settings = replace(model.settings, plan=model.settings.plan._replace(**plan))
    return model


def record(objects=(), size=(64, 64), seed=0, **fields) -> dict:
    """A dict like that of a dataset mapper; objects are (class, absolute xyxy box)."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor([box for _, box in objects]).reshape(-1, 4).float())
    instances.gt_classes = torch.tensor([c for c, _ in objects], dtype=torch.long)
    return {"image": image, "instances": instances, "image_id": f"image{seed}", **fields}


def batch() -> list[dict]:
    """Two images of one size, with two objects and with one."""
    return [
        record([(0, (4, 4, 30, 40)), (2, (32, 8, 60, 60))], seed=1),
        record([(1, (10, 20, 50, 50))], seed=2),
    ]


def targets_of(*images) -> Targets:
    """Padded targets; every image is a list of (class, normalized cxcywh box)."""
    most = max((len(objects) for objects in images), default=0)
    classes = torch.zeros(len(images), most, dtype=torch.long)
    boxes = torch.zeros(len(images), most, 4)
    for i, objects in enumerate(images):
        for g, (label, box) in enumerate(objects):
            classes[i, g], boxes[i, g] = label, torch.tensor(box)
    return Targets(classes, boxes, [len(objects) for objects in images], [])


def random_targets(counts, num_classes=3, seed=0) -> Targets:
    generator = torch.Generator().manual_seed(seed)

    def draw():
        label = int(torch.randint(num_classes, (), generator=generator))
        return label, (0.3 + 0.4 * torch.rand(4, generator=generator)).tolist()

    return targets_of(*[[draw() for _ in range(count)] for count in counts])


def random_predictions(batch=2, queries=6, num_classes=3, seed=0):
    """Logits [B, M, C + 1] and boxes [B, M, 4]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, queries, num_classes + 1, generator=generator)
    return logits, 0.2 + 0.6 * torch.rand(batch, queries, 4, generator=generator)
