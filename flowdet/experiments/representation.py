"""Compares the features of trained classifiers in every layer (5.5, Figure 5)."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn
from tqdm import tqdm

from flowdet.data.classification.loaders import build_test_loader, labels_of
from flowdet.engine import FlowDetCheckpointer, Trainer, load_config, resolve_config
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.experiments.comparison_table import mean_and_std
from flowdet.experiments.measurement import load_run
from flowdet.experiments.representation_measures import (
    MIN_IMAGES,
    cka_matrix,
    feature_spread,
    intrinsic_dimension,
    probe_accuracy,
)
from flowdet.reporting.curves import group_runs
from flowdet.reporting.results import backbone_of, method_of

logger = logging.getLogger(__name__)

# by name in result files: the label in tables and figures
LAYER_METRICS = {
    "intrinsic_dimension": "intrinsic dimension (90 % of the variance)",
    "feature_spread": "feature spread (mean cosine distance)",
    "probe_top1": "linear probe, test accuracy (%)",
}
# decimals of the values in result files
_DIGITS = 4


@dataclass(frozen=True)
class ImageLimits:
    """The largest numbers of images to measure with.

    Attributes:
        test: images of the test dataset, for all measures.
        train: images of the training datasets, to train the linear probes.
    """

    test: int
    train: int


@dataclass(frozen=True)
class Representation:
    """The features of one trained classifier, and their measures.

    Attributes:
        cfg: the config of the run.
        features: the pooled features [N, C] of the test images, by layer, first layer first.
        values: by layer, the values of `LAYER_METRICS` by name.
        trained: whether the model was trained.
    """

    cfg: CfgNode
    features: dict[str, Tensor]
    values: dict[str, dict[str, float]]
    trained: bool = True


# by label: the representations of runs that differ only in their seed
Groups = dict[str, list[Representation]]


def find_runs(
    folders: Sequence[Path], checkpoint: str, overrides: Sequence[str]
) -> dict[str, list[Path]]:
    """Groups the runs that differ only in their seed, and checks that they can be compared.

    Args:
        folders: the OUTPUT_DIRs of the runs.
        checkpoint: the file name of the checkpoint in every folder.
        overrides: overrides of all configs, as `KEY VALUE` pairs.

    Returns:
        The folders of each group, by label, see `group_runs`.

    Raises:
        FileNotFoundError: a folder is not a run, or has no such checkpoint.
        ValueError: a run is not one of a classifier, the runs have different datasets, or as
            `group_runs`.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}: give the folder of a run")
    groups = {label: [folder for folder, _ in runs] for label, runs in group_runs(folders).items()}
    cfgs = {folder: load_config(str(folder / "config.yaml"), list(overrides)) for folder in folders}
    for folder, cfg in cfgs.items():
        if task_of(cfg) is not CLASSIFICATION:
            raise ValueError(
                f"{folder} is the run of a {cfg.MODEL.META_ARCHITECTURE}, which is not a "
                "classifier: give runs of classifiers"
            )
        if not (folder / checkpoint).is_file():
            raise FileNotFoundError(
                f"{folder} has no {checkpoint}: finish the training, or name another file of the "
                "folder with --checkpoint"
            )
    _check_same_datasets(cfgs)
    return groups


def _check_same_datasets(cfgs: dict[Path, CfgNode]) -> None:
    (first, first_cfg), *others = cfgs.items()
    for split in ("TEST", "TRAIN"):
        names = tuple(first_cfg.DATASETS[split])
        if not names:
            raise ValueError(f"{first} has no DATASETS.{split}: add it to the command")
        for folder, cfg in others:
            if tuple(cfg.DATASETS[split]) != names:
                raise ValueError(
                    f"the runs have different DATASETS.{split}: {names} in {first}, "
                    f"{tuple(cfg.DATASETS[split])} in {folder}; give runs of one dataset"
                )


def represent(
    cfg: CfgNode, model: nn.Module, limits: ImageLimits, name: str = "model"
) -> Representation:
    """Computes the features of a classifier on `DATASETS.TEST[0]` and measures every layer.

    Args:
        cfg: the resolved config of the model.
        model: a classifier in evaluation mode, with its weights loaded.
        limits: the numbers of images.
        name: what progress bars and warnings call the model.

    Raises:
        ValueError: there are too few images, all training images have the same class, or features
            are not finite.
    """
    features, labels = pooled_features(cfg, model, cfg.DATASETS.TEST[:1], limits.test, name)
    if len(labels) < MIN_IMAGES:
        raise ValueError(
            f"{cfg.DATASETS.TEST[0]}: the measures need at least {MIN_IMAGES} test images, got "
            f"{len(labels)}"
        )
    train_features, train_labels = pooled_features(
        cfg, model, cfg.DATASETS.TRAIN, limits.train, name
    )
    values = {}
    for layer, x in tqdm(features.items(), desc=f"{name}: measure", unit=" layers"):
        probe = (train_features.pop(layer), train_labels, x, labels)
        values[layer] = {
            "intrinsic_dimension": intrinsic_dimension(x),
            "feature_spread": feature_spread(x),
            "probe_top1": probe_accuracy(*probe, name=f"{name}: the linear probe of {layer}"),
        }
        _warn(name, layer, x)
    return Representation(cfg, features, values)


def _warn(name: str, layer: str, x: Tensor) -> None:
    """Logs what limits the measures of a layer with features x [N, C]."""
    zeros = int((~x.any(dim=1)).sum())
    if zeros:
        logger.warning(
            "%s: the features of %d of %d images are 0 in %s; they do not count for the spread",
            *(name, zeros, len(x), layer),
        )
    if len(x) <= x.shape[1]:
        logger.warning(
            "%s: %s has %d channels and only %d images are used, which limits the intrinsic "
            "dimension",
            *(name, layer, x.shape[1], len(x)),
        )


@torch.no_grad()
def pooled_features(
    cfg: CfgNode, model: nn.Module, datasets: Sequence[str], limit: int, name: str = "model"
) -> tuple[dict[str, Tensor], Tensor]:
    """Computes the features of a random subset of images, without augmentation.

    The images are the same for every model and in every call. The model gets `TEST.BATCH_SIZE`
    images at a time, and no labels.

    Args:
        cfg: the resolved config of the model.
        model: a classifier in evaluation mode.
        datasets: names of registered datasets.
        limit: the largest number of images, over all datasets.
        name: what the progress bar and errors call the model.

    Returns:
        The features [N, C] by layer (float32, on the CPU), and the class indices [N].

    Raises:
        ValueError: features are not finite.
    """
    chunks: dict[str, list[Tensor]] = defaultdict(list)
    labels: list[int] = []
    # models may sample noise
    seed_all_rng(0)
    for dataset, indices in _subset(datasets, limit):
        label_by_id = labels_of(dataset)
        loader = build_test_loader(cfg, dataset, indices)
        for batch in tqdm(loader, desc=f"{name}: features of {dataset}", unit=" batches"):
            for layer, x in model.layer_features(batch).items():
                if not x.isfinite().all():
                    raise ValueError(
                        f"{name}: the features of {layer} are not finite: the training has "
                        "diverged, lower SOLVER.BASE_LR"
                    )
                chunks[layer].append(x.float().cpu())
            labels += [label_by_id[x["image_id"]] for x in batch]
    return {layer: torch.cat(parts) for layer, parts in chunks.items()}, torch.tensor(labels)


def _subset(datasets: Sequence[str], limit: int) -> Iterator[tuple[str, list[int]]]:
    """Yields each dataset with the sorted indices of its images in a random subset of all."""
    counts = [len(labels_of(name)) for name in datasets]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0))
    chosen = order[:limit].sort().values
    for name, start, count in zip(datasets, itertools.accumulate([0, *counts]), counts):
        indices = chosen[(chosen >= start) & (chosen < start + count)] - start
        if len(indices):
            yield name, indices.tolist()


def represent_runs(
    groups: dict[str, list[Path]], checkpoint: str, overrides: Sequence[str], limits: ImageLimits
) -> Groups:
    """Loads and measures every run, one after the other.

    Args:
        groups, checkpoint, overrides: see `find_runs`.
        limits: the numbers of images.

    Raises:
        FileNotFoundError, KeyError, ValueError: as `load_run` and `represent`.
    """
    return {
        label: [
            represent(*load_run(folder, str(folder / checkpoint), overrides), limits, str(folder))
            for folder in folders
        ]
        for label, folders in groups.items()
    }


def represent_untrained(
    groups: dict[str, list[Path]], overrides: Sequence[str], limits: ImageLimits
) -> Groups:
    """Measures a model with its initial weights for each backbone, as a control.

    It is the model of the first run with this backbone and has the weights with which the training
    started: random, or those of `MODEL.WEIGHTS`.

    Args:
        groups, overrides: see `find_runs`.
        limits: the numbers of images.

    Raises:
        FileNotFoundError, KeyError, ValueError: as `load_config`, `resolve_config` and `represent`.
    """
    measured: Groups = {}
    for folder in (folder for folders in groups.values() for folder in folders):
        cfg = load_config(str(folder / "config.yaml"), list(overrides))
        label = f"untrained, {backbone_of(cfg)}"
        if label not in measured:
            resolve_config(cfg, training=False)
            seed_all_rng(max(cfg.SEED, 0))
            model = Trainer.build_model(cfg).eval()
            FlowDetCheckpointer(model).load(cfg.MODEL.WEIGHTS)
            control = represent(cfg, model, limits, label)
            measured[label] = [dataclasses.replace(control, trained=False)]
    return measured


def layer_rows(groups: Groups) -> list[dict]:
    """Computes rows of a result file: mean and standard deviation over the seeds, by layer.

    A value that is nan for a seed gets no row.
    """
    rows = []
    for label, group in groups.items():
        for number, (layer, x) in enumerate(group[0].features.items(), start=1):
            position = {"layer": layer, "layer_number": number, "channels": x.shape[1]}
            for metric in LAYER_METRICS:
                values = [run.values[layer][metric] for run in group]
                rows += _row(_common(label, group) | position | {"metric": metric}, values)
    return rows


def cka_rows(groups: Groups) -> list[dict]:
    """Computes rows of a result file: the linear CKA of every pair of layers of all groups.

    A pair of groups has rows in one order only, because CKA is symmetric. `linear_cka` of layers of
    one group is the mean over its runs, and that of layers of two groups is the mean over all pairs
    of their runs. A group with several seeds also has rows `linear_cka_between_seeds`, the mean
    over the pairs of its runs: the CKA that two trainings of the same method have. Pairs with a
    layer whose features are the same for all images get no row.
    """
    runs = [(label, run) for label, group in groups.items() for run in group]
    bounds = list(itertools.accumulate([0, *(len(run.features) for _, run in runs)]))
    matrix = cka_matrix([x for _, run in runs for x in run.features.values()])
    blocks: dict[tuple[str, str, str], list[Tensor]] = defaultdict(list)
    pairs = itertools.combinations_with_replacement(enumerate(runs), 2)
    for (i, (label, _)), (j, (other, _)) in pairs:
        metric = "linear_cka_between_seeds" if label == other and i != j else "linear_cka"
        block = matrix[bounds[i] : bounds[i + 1], bounds[j] : bounds[j + 1]]
        blocks[label, other, metric].append(block)
    rows = []
    for (label, other, metric), values in blocks.items():
        common = _common(label, groups[label]) | {"other_run": other, "metric": metric}
        layers = itertools.product(groups[label][0].features, groups[other][0].features)
        for (a, b), cell in zip(layers, torch.stack(values, dim=-1).flatten(0, 1).tolist()):
            rows += _row(common | {"layer": a, "other_layer": b}, cell)
    return rows


def _common(label: str, group: Sequence[Representation]) -> dict:
    cfg = group[0].cfg
    return {
        "run": label,
        "method": method_of(cfg) if group[0].trained else "untrained",
        "backbone": backbone_of(cfg),
        "dataset": cfg.DATASETS.TEST[0],
        "images": len(next(iter(group[0].features.values()))),
    }


def _row(columns: dict, values: Sequence[float]) -> list[dict]:
    """Returns a row with the mean and the standard deviation of values; [] if one is nan."""
    if any(map(math.isnan, values)):
        return []
    return [columns | mean_and_std(values, _DIGITS)]
