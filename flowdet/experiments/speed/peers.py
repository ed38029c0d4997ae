"""Detectors of other projects with a ResNet-50, built from their configs with random weights.

Nothing is downloaded. Each runs from images on the device to its raw predictions; detectron2's and
torchvision's detectors also suppress overlapping boxes, as flowdet does, and those of Hugging Face
have nothing to suppress.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from torch import nn

from flowdet.engine.model_builder import build_model
from flowdet.experiments.speed.inference import backbone_call, plan_columns
from flowdet.experiments.speed.memory import in_own_process, peak_bytes
from flowdet.experiments.speed.setup import (
    SEED,
    WARM_UP_ROUNDS,
    bench_config,
    build_detector,
    ratio,
    single,
    spread,
)
from flowdet.experiments.timing import interleaved_seconds
from flowdet.experiments.training_steps import synthetic_batch

NUM_CLASSES = 20
# a function of a batch in flowdet's format
Detect = Callable[[list[dict]], object]


def _faster_rcnn(kind: str, device: str) -> tuple[nn.Module, Detect]:
    cfg = model_zoo.get_config(f"COCO-Detection/faster_rcnn_R_50_{kind}_1x.yaml")
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", device
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    model = build_model(cfg).eval()
    return model, model


def _fcos(device: str) -> tuple[nn.Module, Detect]:
    from torchvision.models.detection import fcos_resnet50_fpn

    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)
    model = model.eval().to(device)

    def detect(batch: list[dict]) -> object:
        images = [x["image"].to(device).float() / 255 for x in batch]
        # the detector would enlarge the images to 800 pixels
        model.transform.min_size = model.transform.max_size = (images[0].shape[-1],)
        model.transform.max_size = images[0].shape[-1]
        return model(images)

    return model, detect


def _pixel_values(model: nn.Module, device: str) -> tuple[nn.Module, Detect]:
    model = model.eval().to(device)

    def detect(batch: list[dict]) -> object:
        images = torch.stack([x["image"] for x in batch]).to(device).float() / 255
        return model(pixel_values=images)

    return model, detect


def _detr(device: str) -> tuple[nn.Module, Detect]:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(out_features=["stage4"])
    cfg = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        num_labels=NUM_CLASSES,
    )
    return _pixel_values(DetrForObjectDetection(cfg), device)


def _rt_detr(device: str) -> tuple[nn.Module, Detect]:
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    return _pixel_values(RTDetrForObjectDetection(RTDetrConfig(num_labels=NUM_CLASSES)), device)


# by name: builds the detector on a device, and returns the function that runs it on a batch
PEERS: dict[str, Callable[[str], tuple[nn.Module, Detect]]] = {
    "faster_rcnn_r50_fpn": partial(_faster_rcnn, "FPN"),
    "faster_rcnn_r50_c4": partial(_faster_rcnn, "C4"),
    "fcos_r50_fpn": _fcos,
    "detr_r50": _detr,
    "rt_detr_r50": _rt_detr,
}


def build_peer(name: str, device: str) -> tuple[nn.Module, Detect]:
    """Builds a peer with random weights of a fixed seed.

    Raises:
        ImportError: its library is not installed.
    """
    torch.manual_seed(SEED)
    return PEERS[name](device)


def available_peers(names: Sequence[str], note: Callable[[str], None]) -> list[str]:
    """Returns the peers whose library is installed; `note` gets a line about each other one."""
    available = []
    for name in names:
        try:
            build_peer(name, "cpu")
        except ImportError as error:
            note(f"{name} is left out: {error}. Install its library with: pip install '.[bench]'")
        else:
            available.append(name)
    return available


def peer_rows(
    config: str, overrides: Sequence[str], names: Sequence[str], batch_sizes: Sequence[int], rounds
) -> list[dict]:
    """Measures the inference of peers relative to that of flow with the config's plan.

    Args:
        config, overrides: the flow detector, see `bench_config`.
        names: keys of `PEERS`; `available_peers` returns those that can be built.
        batch_sizes: images per call.
        rounds: measurements; in each every detector runs once.

    Returns:
        Rows with the time per image, its ratio to flow, the number of parameters, and the peak
        memory of inference in a process of its own.
    """
    cfg = bench_config(config, overrides)
    flow = build_detector(cfg)
    models: dict[str, tuple[nn.Module, Detect]] = {"flow": (flow, flow)}
    models |= {name: build_peer(name, cfg.MODEL.DEVICE) for name in names}
    rows = []
    for name, (model, _) in models.items():
        count = sum(x.numel() for x in model.parameters())
        rows.append(_columns(cfg, name) | {"metric": "parameters"} | single(count))
    for size in batch_sizes:
        batch = synthetic_batch(cfg, size)
        calls = {"backbone": backbone_call(flow, batch)}
        calls |= {name: partial(detect, batch) for name, (_, detect) in models.items()}
        with torch.no_grad():
            durations = interleaved_seconds(list(calls.values()), rounds, WARM_UP_ROUNDS)
        seconds = dict(zip(calls, durations))
        for name, values in seconds.items():
            columns = _columns(cfg, name) | {"batch_size": size}
            milliseconds = [1000 * x / size for x in values]
            rows.append(columns | {"metric": "ms_per_image"} | spread(milliseconds))
            if name != "flow":
                relative = ratio(values, seconds["flow"])
                rows.append(columns | {"metric": "inference_ratio_to_flow"} | relative)
        for name in models:
            peaks = in_own_process(inference_peak, config, list(overrides), name, size)
            columns = _columns(cfg, name) | {"batch_size": size}
            rows += [columns | {"metric": key} | single(x) for key, x in peaks.items()]
    return rows


def _columns(cfg: CfgNode, name: str) -> dict:
    columns = {"part": "peers", "method": name}
    return columns | plan_columns(cfg, "default") if name == "flow" else columns


@torch.no_grad()
def inference_peak(
    config: str, overrides: Sequence[str], name: str, batch_size: int
) -> dict[str, int]:
    """Runs a detector twice and returns the peak memory of this process, see `peak_bytes`.

    Args:
        config, overrides: the flow detector, see `bench_config`.
        name: `flow`, or a key of `PEERS`.
        batch_size: images per call.
    """
    cfg = bench_config(config, overrides)
    detect = build_detector(cfg) if name == "flow" else build_peer(name, cfg.MODEL.DEVICE)[1]
    batch = synthetic_batch(cfg, batch_size)
    for _ in range(2):
        detect(batch)
    return peak_bytes()
