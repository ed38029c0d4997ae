"""Detection accuracy: VOC average precision (per class, over class subsets) or COCO's metrics."""

import json
import logging
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from detectron2.utils import comm

from flowdet.config.errors import ConfigError
from flowdet.data.detection.loaders import check_image_ids, get_detection_dicts
from flowdet.data.detection.voc import write_voc_annotation
from flowdet.data.scratch import scratch_folder
from flowdet.evaluation.saved_detections import DetectionRecorder
from flowdet.temporary_file import temporary_file

__all__ = ["COCOBoxEvaluator", "VOCEvaluator", "build_evaluator", "metric_name"]

logger = logging.getLogger(__name__)

_THRESHOLDS = range(50, 100, 5)  # IoU in percent
# `voc_eval` reads integer coordinates only. The IoU does not depend on the unit, so detections and
# ground truth are written in units of 1 / 1024 pixel, in which rounding is negligible.
_UNITS_PER_PIXEL = 1024
_METRICS = {True: "VOC 2007 11-point", False: "area under the curve (VOC 2010 and later)"}


class VOCEvaluator(DatasetEvaluator):
    """VOC average precision of every class, and its mean over all classes and over a subset.

    Matching and average precision are those of detectron2's `voc_eval`; the metadata's `year`
    selects the metric. Objects marked difficult are ignored. The average precision of a class
    without other objects in the split is nan and is left out of the means. Unlike detectron2's
    evaluator, this one reads every registered dataset whose annotations have "difficult" (0 or 1).

    Args:
        dataset_name: name of a registered detection dataset.
        class_subset: names of the classes for the "-subset" means, none by default.

    Raises:
        FileNotFoundError: as `get_detection_dicts`.
        ValueError: a name in `class_subset` is not a class of the dataset, or two images have the
            same id; also as `get_detection_dicts`.
    """

    def __init__(self, dataset_name: str, class_subset: Sequence[str] = ()):
        meta = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._class_names = list(meta.thing_classes)
        self._is_2007 = meta.year == 2007
        self._cpu_device = torch.device("cpu")
        unknown = [name for name in class_subset if name not in self._class_names]
        if unknown:
            raise ConfigError(
                f"TEST.CLASS_SUBSET: {', '.join(unknown)} is not in dataset {dataset_name!r}; "
                f"its classes are {', '.join(self._class_names)}."
            )
        self._class_subset = list(class_subset)
        # the function that reads the dataset is in the cache key: a dataset that is registered
        # again is read again
        self._ground_truth = _read_ground_truth(dataset_name, DatasetCatalog[dataset_name])
        self.reset()

    def reset(self) -> None:
        """Discards all detections."""
        self._predictions: dict[int, list[str]] = defaultdict(list)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Stores the detections of a batch.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `instances`: `pred_boxes` (absolute xyxy), `scores`,
                `pred_classes`.
        """
        for record, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(self._cpu_device)
            number = self._ground_truth.numbers[record["image_id"]]
            # VOC counts from 1 and includes the last unit
            units = instances.pred_boxes.tensor.double().numpy() * _UNITS_PER_PIXEL
            boxes = units + (1, 1, 0, 0)
            detections = zip(
                boxes.tolist(),
                instances.scores.tolist(),
                instances.pred_classes.tolist(),
                strict=True,
            )
            for box, score, class_id in detections:
                # written with 12 digits: equal rounded scores would be ranked by file order
                numbers = " ".join(f"{x:.12g}" for x in (score, *box))
                self._predictions[class_id].append(f"{number} {numbers}")

    def evaluate(self) -> OrderedDict | None:
        """Returns {"bbox": average precisions in percent}; None except on the main process.

        The keys are "AP" (mean over IoU 0.50 to 0.95), "AP50", "AP75", "AP50-<class>" for each
        class, and with a class subset "AP-subset", "AP50-subset", "AP75-subset".
        """
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        lines = defaultdict(list)
        for part in gathered:
            for class_id, class_lines in part.items():
                lines[class_id] += class_lines
        self._log_setting()
        table = np.array([self._class_aps(i, lines[i]) for i in range(len(self._class_names))])
        results = _means(table)
        if self._class_subset:
            rows = [self._class_names.index(name) for name in self._class_subset]
            results |= {f"{key}-subset": value for key, value in _means(table[rows]).items()}
        for name, row in zip(self._class_names, table, strict=True):
            results[f"AP50-{name}"] = float(row[0])
        warn_without_objects(self._dataset_name, results)
        return OrderedDict(bbox=results)

    def _log_setting(self) -> None:
        metric = _METRICS[self._is_2007]
        logger.info(
            f"Evaluating {self._dataset_name}; metric: {metric}, difficult objects are ignored."
        )
        counts = self._ground_truth.counts
        absent = [name for i, name in enumerate(self._class_names) if not counts[i]]
        if absent:
            logger.info(f"Classes without objects, left out of the means: {', '.join(absent)}.")

    def _class_aps(self, class_id: int, lines: list[str]) -> list[float]:
        """Returns the average precision of one class at each IoU threshold, in percent."""
        if not self._ground_truth.counts[class_id]:
            return [float("nan")] * len(_THRESHOLDS)
        with scratch_folder("voc_eval_") as folder:
            template = f"{folder}/{{}}.txt"
            Path(template.format(class_id)).write_text("\n".join(lines), encoding="utf-8")
            return [
                100 * float(self._voc_eval(template, class_id, percent / 100)[2])
                for percent in _THRESHOLDS
            ]

    def _voc_eval(self, template: str, class_id: int, threshold: float) -> tuple:
        """Returns recall, precision and average precision of a class, computed by detectron2."""
        return voc_eval(
            template,
            self._ground_truth.template,
            self._ground_truth.listing,
            # classes are named by their index, as a class name with a slash is not a file name
            str(class_id),
            ovthresh=threshold,
            use_07_metric=self._is_2007,
        )


class COCOBoxEvaluator(COCOEvaluator):
    """detectron2's COCO evaluator of boxes, also for custom datasets, and for detectors without a
    single detection.

    The evaluation copy of a custom dataset may have other image and category ids; the metadata has
    `evaluation_image_ids` and `category_ids`.

    Args:
        dataset_name: a registered dataset.
        output_folder: the evaluator writes its files here; None writes none.
    """

    def __init__(self, dataset_name: str, output_folder: str | None = None):
        if not MetadataCatalog.get(dataset_name).get("json_file"):
            # detectron2 converts the dataset
            check_image_ids(dataset_name, get_detection_dicts(dataset_name, keep_difficult=True))
        super().__init__(
            dataset_name,
            ("bbox",),
            output_dir=output_folder,
            # the fast implementation needs detectron2's compiled operators
            use_fast_impl=False,
            # annotations that a run before has converted may be others by now
            allow_cached_coco=False,
        )
        self._image_ids = self._metadata.get("evaluation_image_ids")

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Stores the detections of a batch. For the arguments see `VOCEvaluator.process`."""
        if self._image_ids:
            inputs = [{**x, "image_id": self._image_ids[x["image_id"]]} for x in inputs]
        super().process(inputs, outputs)

    def evaluate(self, img_ids: Sequence | None = None) -> dict:
        """Like detectron2's method. The result file has the ids of the dataset."""
        results = super().evaluate(img_ids)
        if comm.is_main_process():
            warn_without_objects(self._metadata.name, results.get("bbox", {}))
        # an evaluation without any detection writes no file
        path = Path(self._output_dir or "") / "coco_instances_results.json"
        if self._output_dir and comm.is_main_process() and path.is_file():
            self._restore_ids(path)
        return results

    def _restore_ids(self, path: Path) -> None:
        """Replaces the ids of the evaluation copy in a result file by those of the dataset."""
        image_ids = {number: image_id for image_id, number in (self._image_ids or {}).items()}
        ids = self._metadata.get("category_ids") or []
        indices = self._category_index() if ids else {}
        categories = {number: ids[index] for number, index in indices.items()}
        if not image_ids and all(number == i for number, i in categories.items()):
            return
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows:
            row["image_id"] = image_ids.get(row["image_id"], row["image_id"])
            row["category_id"] = categories.get(row["category_id"], row["category_id"])
        with temporary_file(path) as temporary:
            temporary.write_text(json.dumps(rows), encoding="utf-8")

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None) -> dict[str, float]:
        """Without any detection, detectron2 gives nan: it is 0 if there are objects to detect."""
        if coco_eval is not None:
            return super()._derive_coco_results(coco_eval, iou_type, class_names)
        objects = [a for a in self._coco_api.dataset["annotations"] if not a["iscrowd"]]
        counts = Counter(a["category_id"] for a in objects)
        overall = 0.0 if objects else float("nan")
        results = dict.fromkeys(("AP", "AP50", "AP75"), overall)
        for index, name in enumerate(class_names or []):
            category = next(i for i, k in self._category_index().items() if k == index)
            results[f"AP-{name}"] = 0.0 if counts[category] else float("nan")
        logger.warning("%s: the model has no detection at all", self._metadata.name)
        return results

    def _category_index(self) -> dict[int, int]:
        """The class index of every category id."""
        return self._metadata.get("thing_dataset_id_to_contiguous_id") or {
            i: i for i in range(len(self._metadata.thing_classes))
        }


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """Builds the evaluator for a dataset from the `evaluator_type` in its metadata.

    Args:
        cfg: the config; only `TEST.CLASS_SUBSET` is read.
        dataset_name: name of a registered detection dataset.
        output_folder: the folder to which the detections are written, see `SavedDetections`, and to
            which COCO's evaluator writes its files; None for no files.

    Raises:
        FileNotFoundError: as `VOCEvaluator`.
        ValueError: the evaluator type is neither "pascal_voc" nor "coco", or the class subset does
            not fit the dataset; also as `VOCEvaluator`.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    subset = tuple(cfg.TEST.CLASS_SUBSET)
    if kind == "pascal_voc":
        return _recorded(VOCEvaluator(dataset_name, subset), dataset_name, output_folder)
    if kind != "coco":
        raise ValueError(
            f"Dataset {dataset_name!r} has evaluator_type {kind!r}; flowdet evaluates "
            "'pascal_voc' and 'coco' (set it in the dataset's metadata)."
        )
    if subset:
        raise ConfigError(f"TEST.CLASS_SUBSET is for VOC datasets; {dataset_name!r} is COCO.")
    return _recorded(COCOBoxEvaluator(dataset_name, output_folder), dataset_name, output_folder)


def _recorded(evaluator: DatasetEvaluator, name: str, folder: str | None) -> DatasetEvaluator:
    """Adds an evaluator that saves the detections, unless `folder` is None."""
    return DatasetEvaluators([evaluator, DetectionRecorder(name, folder)]) if folder else evaluator


def metric_name(dataset_name: str) -> str:
    """Returns the name of the metric with which `build_evaluator` evaluates a dataset."""
    meta = MetadataCatalog.get(dataset_name)
    return _METRICS[meta.year == 2007] if meta.get("evaluator_type") == "pascal_voc" else "COCO"


class _GroundTruth:
    """The annotations of a dataset in a temporary folder, in the layout that `voc_eval` reads.

    detectron2's reader fails on fractional corners (VOC 2012 has some), on missing optional tags
    (many custom datasets) and on image ids with spaces. Therefore flowdet reads the annotations and
    writes them again in numbered files, with class indices as class names and corners in units of
    1 / 1024 pixel.

    Args:
        dataset_name: name of a registered detection dataset.
        reader: the function that reads the dataset; part of the cache key of `_read_ground_truth`.

    Attributes:
        template: path of an annotation file, with `{}` for its number.
        listing: path of the file that lists the numbers.
        numbers: the number of the annotation file, as text, by image id.
        counts: the number of objects by class index, without difficult objects.
    """

    def __init__(self, dataset_name: str, reader: Callable[[], list[dict]]):
        self._folder = scratch_folder("voc_ground_truth_")
        self.template = f"{self._folder.name}/{{}}.xml"
        self.listing = f"{self._folder.name}/images.txt"
        self.numbers: dict[str, str] = {}
        self.counts: Counter[int] = Counter()
        records = get_detection_dicts(dataset_name, keep_difficult=True)
        check_image_ids(dataset_name, records)
        for record in records:
            self._add(record)
        Path(self.listing).write_text("\n".join(self.numbers.values()), encoding="utf-8")

    def _add(self, record: dict) -> None:
        objects = record["annotations"]
        difficult = [o["difficult"] for o in objects]
        self.counts.update(o["category_id"] for o in objects if not o["difficult"])
        number = self.numbers[record["image_id"]] = str(len(self.numbers))
        write_voc_annotation(
            Path(self.template.format(number)),
            # the name of the image is not read, and might not be valid in xml
            number,
            (record["height"], record["width"]),
            np.rint(np.array([o["bbox"] for o in objects]) * _UNITS_PER_PIXEL),
            [str(o["category_id"]) for o in objects],
            difficult,
        )


# cached, because every evaluation during a training builds a new evaluator; detectron2 also caches
# the annotations, by file name
_read_ground_truth = cache(_GroundTruth)


def warn_without_objects(dataset_name: str, results: Mapping[str, float]) -> None:
    """Logs a warning if no average precision could be computed."""
    if np.isnan(results.get("AP", 0.0)):
        logger.warning(
            "%s has no object that counts, of any class: its AP is nan, and result files have no "
            "row for it",
            dataset_name,
        )


def _means(table: np.ndarray) -> dict[str, float]:
    """Averages AP, AP50 and AP75 over the classes with objects; nan if no class has objects.

    Args:
        table: the average precisions, [C, thresholds]; nan for classes without objects.
    """
    known = table[~np.isnan(table[:, 0])]
    by_threshold = known.mean(axis=0) if len(known) else np.full(len(_THRESHOLDS), np.nan)
    return {
        "AP": float(by_threshold.mean()),
        "AP50": float(by_threshold[_THRESHOLDS.index(50)]),
        "AP75": float(by_threshold[_THRESHOLDS.index(75)]),
    }
