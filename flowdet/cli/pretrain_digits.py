"""Pretrains the digits backbone: which digit, if any, lies under each cell of its feature map.

Takes about a minute on a CPU and stands in for ImageNet weights. The scenes are made on the
fly from the training digits only, so nothing of the test set is seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from flowdet.cli.common import command_parser
from flowdet.data.detection.digits import CLASS_NAMES, DigitBank, compose_scene
from flowdet.engine import keep_freed_memory, load_config

BACKGROUND = len(CLASS_NAMES)


class Scenes(Dataset):
    """Fresh scenes (image [3, H, W], the class of each cell [side, side])."""

    def __init__(self, count: int, image_size: int, stride: int, seed: int):
        self.digits = DigitBank.load("train")
        self.count = count
        self.image_size = image_size
        self.stride = stride
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        image, boxes, classes = compose_scene(rng, self.digits, self.image_size)
        labels = cell_classes(boxes, classes, self.image_size, self.stride)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels)


def cell_classes(boxes: np.ndarray, classes: np.ndarray, size: int, stride: int) -> np.ndarray:
    """The class whose box (absolute xyxy) holds a cell's centre, the smallest box first."""
    centres = (np.arange(size // stride) + 0.5) * stride
    labels = np.full((len(centres), len(centres)), BACKGROUND)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for i in np.argsort(-areas):
        x1, y1, x2, y2 = boxes[i]
        rows = (centres >= y1) & (centres < y2)
        labels[np.ix_(rows, (centres >= x1) & (centres < x2))] = classes[i]
    return labels


def pretrain(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, ["MODEL.DEVICE", args.device])
    torch.manual_seed(args.seed)
    backbone = build_backbone(cfg)
    (name,) = cfg.MODEL.FLOW_DET.IN_FEATURES
    shape = backbone.output_shape()[name]
    classifier = nn.Conv2d(shape.channels, BACKGROUND + 1, 1)
    model = nn.ModuleDict({"backbone": backbone, "classifier": classifier}).to(args.device)
    scenes = Scenes(
        args.iterations * args.batch_size, cfg.INPUT.FIXED_SIZE[0], shape.stride, args.seed
    )
    loader = DataLoader(scenes, args.batch_size, num_workers=args.num_workers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.iterations)
    mean, std = (
        torch.tensor(x).view(-1, 1, 1) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    accuracy = 0.0
    progress = tqdm(loader, desc="pretraining")
    for images, labels in progress:
        logits = classifier(backbone(((images - mean) / std).to(args.device))[name])
        labels = labels.to(args.device)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        inside = labels < BACKGROUND
        right = (logits.argmax(1)[inside] == labels[inside]).float().mean().item()
        accuracy = 0.98 * accuracy + 0.02 * right
        progress.set_postfix(loss=f"{loss.item():.3f}", digit_cells_right=f"{accuracy:.2f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    state = {f"backbone.{k}": v.cpu() for k, v in backbone.state_dict().items()}
    partial = args.output.with_suffix(".partial")
    torch.save({"model": state}, partial)
    partial.rename(args.output)
    print(f"wrote {args.output}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--config-file", default="configs/digits_flow.yaml")
    parser.add_argument("--output", type=Path, default="output/digits_pretrain/backbone.pth")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    keep_freed_memory()
    pretrain(args)


if __name__ == "__main__":
    sys.exit(main())
