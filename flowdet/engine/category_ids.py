"""The category ids of a detector: how detections name their classes in JSON files."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.config.errors import ConfigError
from flowdet.config.rules import MAX_NAME, is_class_name

logger = logging.getLogger(__name__)

CategoryId = int | str


def check_category_ids(cfg: CfgNode) -> None:
    """Compares `MODEL.CATEGORY_IDS` with `MODEL.CLASS_NAMES`.

    Raises:
        ValueError: there is not one id per class, an id is neither an integer nor text, or two
            classes have the same id.
    """
    ids, names = cfg.MODEL.CATEGORY_IDS, cfg.MODEL.CLASS_NAMES
    if not ids:
        return
    if len(ids) != len(names):
        raise ConfigError(
            f"MODEL.CATEGORY_IDS has {len(ids)} ids, but MODEL.CLASS_NAMES has {len(names)} names: "
            'give one id per class, or "[]" to take the ids from the dataset'
        )
    if wrong := [x for x in ids if type(x) not in (int, str)]:
        raise ConfigError(f"MODEL.CATEGORY_IDS contains {wrong[0]!r}: give integers or texts")
    # the names of classes in checkpoints are read with the same limits
    if wrong := [x for x in ids if not is_class_name(f"{x}")]:
        raise ConfigError(
            f"MODEL.CATEGORY_IDS contains {ascii(wrong[0])[:50]}, but an id must have at most "
            f"{MAX_NAME} characters and no control characters: correct it in the dataset or the key"
        )
    if len(set(ids)) < len(ids):
        repeated = next(x for i, x in enumerate(ids) if x in ids[:i])
        raise ConfigError(
            f"MODEL.CATEGORY_IDS contains {repeated!r} twice: give every class its own id"
        )


def resolve_category_ids(cfg: CfgNode, datasets: Sequence[str], class_names: list[str]) -> None:
    """Sets `MODEL.CATEGORY_IDS` if it is empty; the ids of the config take precedence.

    A warning is logged if the ids differ from those of a dataset.

    Args:
        cfg: the config, in place.
        datasets: registered datasets that all have the classes `class_names`. The first one with
            category ids defines the ids of the model.
        class_names: the class names by class index.

    Raises:
        ValueError: `check_category_ids` rejects the ids of the config, or a dataset has category
            ids, but not for every class.
    """
    known = {name: ids for name in datasets if (ids := dataset_category_ids(name)) is not None}
    if not cfg.MODEL.CATEGORY_IDS:
        cfg.MODEL.CATEGORY_IDS = _first_complete(known, class_names)
    check_category_ids(cfg)
    for name, ids in known.items():
        kept = cfg.MODEL.CATEGORY_IDS
        indices = [i for i in sorted(ids) if i < len(kept) and ids[i] != kept[i]]
        if indices:
            index = indices[0]
            logger.warning(
                "dataset %r has other category ids than the model: class %r has the id %r there, "
                "and %r in MODEL.CATEGORY_IDS. JSON files of detections get the ids of the key; "
                'set it to "[]" to take those of the dataset',
                *(name, class_names[index], ids[index], kept[index]),
            )


def category_ids_of(cfg: CfgNode) -> list[CategoryId]:
    """Returns the category ids of a model by class index: `MODEL.CATEGORY_IDS`.

    The config of an earlier run may have class names and no ids. Its ids are then those that its
    datasets have now, and a warning is logged.

    Args:
        cfg: the config of the model, with its class names.

    Raises:
        ValueError: the config has no ids, and its dataset is missing or has other classes.
    """
    names, datasets = list(cfg.MODEL.CLASS_NAMES), [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if cfg.MODEL.CATEGORY_IDS:
        return list(cfg.MODEL.CATEGORY_IDS)
    if not datasets:
        return list(range(len(names)))
    try:
        ids = _ids_of_datasets(datasets, names)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"the category ids of the model are unknown, because its config has no "
            f"MODEL.CATEGORY_IDS and its dataset cannot be used ({error}): set the key to one id "
            f"per class, in the order of the classes ({', '.join(names[:8])})"
        ) from error
    logger.warning(
        "the config has no MODEL.CATEGORY_IDS: the category ids are those that dataset %r has now",
        datasets[0],
    )
    return ids


def _ids_of_datasets(datasets: Sequence[str], class_names: list[str]) -> list[CategoryId]:
    """Returns the category ids of datasets that were not compared with the model before."""
    known = {}
    for name in datasets:
        metadata = MetadataCatalog.get(name)
        if name not in DatasetCatalog:
            raise ValueError(f"dataset {name!r} is not registered")
        if metadata.get("evaluator_type") is None or metadata.get("thing_classes") is None:
            # the format and the classes of a custom dataset are known once it is read
            DatasetCatalog.get(name)
        if list(metadata.get("thing_classes") or []) != class_names:
            raise ValueError(f"dataset {name!r} has other classes than the model")
        if (ids := dataset_category_ids(name)) is not None:
            known[name] = ids
    return _first_complete(known, class_names)


def dataset_category_ids(name: str) -> dict[int, CategoryId] | None:
    """Returns the category ids of a registered dataset by class index; None if it has none.

    Raises:
        FileNotFoundError, ValueError: the dataset is in COCO format and cannot be read.
    """
    metadata = MetadataCatalog.get(name)
    if ids := metadata.get("category_ids"):
        # a custom dataset, whose ids may be texts
        return dict(enumerate(ids))
    by_id = metadata.get("thing_dataset_id_to_contiguous_id")
    if by_id is None and metadata.get("evaluator_type") == "coco":
        # the ids of some datasets are known only once their annotations are read
        DatasetCatalog.get(name)
        by_id = metadata.get("thing_dataset_id_to_contiguous_id")
    if by_id is None:
        return None
    ids: dict[int, CategoryId] = {}
    for category, index in by_id.items():
        ids.setdefault(index, category)
    return ids


def _first_complete(
    known: dict[str, dict[int, CategoryId]], class_names: list[str]
) -> list[CategoryId]:
    """Returns the ids of the first dataset that has one for every class; without any category ids
    the class indices."""
    indices = list(range(len(class_names)))
    if not known:
        return indices
    for ids in known.values():
        if all(i in ids for i in indices):
            return [ids[i] for i in indices]
    name, ids = next(iter(known.items()))
    missing = next(class_names[i] for i in indices if i not in ids)
    raise ValueError(
        f"dataset {name!r} has no category id for class {missing!r}: add it to the categories of "
        "its json file, or set MODEL.CATEGORY_IDS"
    )
