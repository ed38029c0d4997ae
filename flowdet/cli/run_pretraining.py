"""`tools/pretrain_digits.py`: trains the backbone, after the options are read."""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from flowdet.data.detection.digits import CLASS_NAMES, DigitBank, compose_scene
from flowdet.engine import keep_freed_memory, load_config
from flowdet.engine.atomic_file import write_atomically

BACKGROUND = len(CLASS_NAMES)


class LabeledScenes(Dataset):
    """Generated images with a class label for every cell of the feature map.

    An item is an image, uint8 RGB [3, H, W], and the class of every cell, int64
    [H / stride, W / stride].

    Args:
        count: number of images.
        image_size: height and width in pixels.
        stride: height and width of a cell in pixels.
        seed: random seed; an image depends only on the seed and its index.
    """

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
    """Returns, for each cell, the class of the smallest box that contains its center.

    Args:
        boxes: absolute xyxy [N, 4].
        classes: class indices [N].
        size: height and width of the image in pixels.
        stride: height and width of a cell in pixels.

    Returns:
        Class indices [size / stride, size / stride], `BACKGROUND` outside of all boxes.
    """
    centers = (np.arange(size // stride) + 0.5) * stride
    labels = np.full((len(centers), len(centers)), BACKGROUND)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for i in np.argsort(-areas):
        x1, y1, x2, y2 = boxes[i]
        rows = (centers >= y1) & (centers < y2)
        labels[np.ix_(rows, (centers >= x1) & (centers < x2))] = classes[i]
    return labels


def pretrain(args: argparse.Namespace) -> None:
    """Trains the backbone and writes its weights to `args.output`."""
    keep_freed_memory()
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg = load_config(args.config_file, ["MODEL.DEVICE", args.device])
    torch.manual_seed(args.seed)
    backbone = build_backbone(cfg)
    (name,) = cfg.MODEL.FLOW_DET.IN_FEATURES
    shape = backbone.output_shape()[name]
    classifier = nn.Conv2d(shape.channels, BACKGROUND + 1, 1)
    model = nn.ModuleDict({"backbone": backbone, "classifier": classifier}).to(args.device)
    scenes = LabeledScenes(
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
        on_digits = labels < BACKGROUND
        correct = (logits.argmax(1)[on_digits] == labels[on_digits]).float().mean().item()
        accuracy = 0.98 * accuracy + 0.02 * correct
        progress.set_postfix(loss=f"{loss.item():.3f}", digit_cell_accuracy=f"{accuracy:.2f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    state = {f"backbone.{k}": v.cpu() for k, v in backbone.state_dict().items()}
    write_atomically(args.output, lambda file: torch.save({"model": state}, file))
    print(f"wrote {args.output}")
