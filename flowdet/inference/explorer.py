"""Writes the explorer: a page in which a reader moves the boxes of images from noise to objects."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from flowdet.config.errors import UsageError
from flowdet.detection import FlowMatchingDetector
from flowdet.inference.explorer_data import transport_runs
from flowdet.inference.explorer_entry import LEAST_SCORE, explorer_entry
from flowdet.inference.explorer_truth import GroundTruth, known_ground_truth
from flowdet.inference.output_formats import NUM_SEEDS
from flowdet.inference.pipeline import (
    MAX_IMAGES_WITHOUT_PROGRESS,
    Outcome,
    SkippedImages,
    stopped,
)
from flowdet.inference.predictor import Predictor
from flowdet.inference.video_writer import create_folder_of
from flowdet.temporary_file import temporary_file
from flowdet.terminal import image_bar
from flowdet.visualization.explorer import ExplorerContent, explorer_html

# the maximum number of images in a page, of noise seeds, and of steps times noise seeds of an image
MAX_IMAGES, MAX_SEEDS, MAX_STEPS = 100, 32, 600


def explore_images(
    predictor: Predictor,
    files: Sequence[Path],
    path: Path,
    ground_truth: GroundTruth | None = None,
    threshold: float = 0.5,
    num_seeds: int = NUM_SEEDS,
) -> Outcome:
    """Writes the explorer of image files and prints its path.

    Args:
        predictor, path, threshold, num_seeds: see `write_explorer`.
        files: paths of the images.
        ground_truth: see `GroundTruth`; None takes the annotations of the test datasets of the
            config, for the images that they contain.

    Raises:
        OSError, ValueError: as `write_explorer`.
    """
    check_explorer(len(files), num_seeds)
    records = [{"file_name": str(file), "image_id": file.stem} for file in files]
    if ground_truth is None:
        ground_truth = known_ground_truth(predictor.cfg)
        if all(ground_truth(record) is None for record in records):
            print(
                "the page shows no ground truth, because the images are not in the test dataset of "
                "the config: give their annotations with --annotations",
                file=sys.stderr,
            )
    count, outcome = write_explorer(
        predictor,
        records,
        path,
        title="flowdet explorer" if len(records) > 1 else files[0].name,
        ground_truth=ground_truth,
        threshold=threshold,
        num_seeds=num_seeds,
        progress=len(records) > MAX_IMAGES_WITHOUT_PROGRESS,
    )
    if count:
        print(
            f"{path}: {stopped(outcome.interrupted)}{count} {'image' if count == 1 else 'images'}"
        )
    return outcome


def write_explorer(
    predictor: Predictor,
    records: Sequence[dict],
    path: Path,
    *,
    title: str,
    ground_truth: GroundTruth,
    threshold: float = 0.5,
    num_seeds: int = NUM_SEEDS,
    progress: bool = False,
) -> tuple[int, Outcome]:
    """Writes the explorer of some images.

    Images that cannot be read, or whose data are too large (see `explorer_entry`), are skipped and
    named on standard error. Ctrl-C keeps the finished images.

    Args:
        predictor: runs the detector.
        records: dataset dicts with `file_name`, at most `MAX_IMAGES`.
        path: the page; its folder is created.
        title: the title of the page.
        ground_truth: see `GroundTruth`; called with the dicts in `records`.
        threshold: the score threshold when the page is opened.
        num_seeds: number of noise seeds, from the configured one on, at most `MAX_SEEDS`.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The number of images in the page, and how the run ended. Without an image no page is
        written.

    Raises:
        OSError: the page cannot be written.
        ValueError: there are too many images, seeds or steps, or the detector has no queries.
    """
    check_explorer(len(records), num_seeds)
    seeds = _seeds(predictor, num_seeds)
    _check_steps(len(predictor.trajectory_times), len(seeds))
    create_folder_of(path)
    skipped, interrupted, entries = SkippedImages(len(records)), False, {}
    by_file = {record["file_name"]: record for record in records}
    results = predictor.stream(
        _unannotated(records), analyses=[transport_runs(seeds)], on_error=skipped
    )
    try:
        for result in image_bar(results, len(records), shown=progress):
            name = result["file_name"]
            try:
                entries[name] = explorer_entry(result, ground_truth(by_file[name]))
            except ValueError as error:
                # such as too many detections; the others may still fit
                skipped(result, error)
    except KeyboardInterrupt:
        interrupted = True
    if entries:
        _write(path, _content(predictor, seeds, title, threshold), entries)
    skipped.report()
    return len(entries), Outcome(skipped.count, interrupted)


def check_explorer(num_images: int, num_seeds: int) -> None:
    """Raises ValueError if there are too many images or noise seeds for one page."""
    if num_seeds > MAX_SEEDS:
        raise ValueError(
            f"{num_seeds} noise seeds are too many for one page (at most {MAX_SEEDS}): use fewer"
        )
    if num_images > MAX_IMAGES:
        raise UsageError(
            f"one page of {num_images} images is too large (at most {MAX_IMAGES}): use fewer images"
        )


def _check_steps(num_steps: int, num_seeds: int) -> None:
    if (steps := num_steps * num_seeds) > MAX_STEPS:
        raise ValueError(
            f"a page with {steps} steps per image is too large (at most {MAX_STEPS}, of "
            f"{num_seeds} noise seeds): use fewer steps or noise seeds"
        )


def _seeds(predictor: Predictor, count: int) -> list[int | None]:
    """Returns the noise seeds; [None] for a detector without a choice of seeds."""
    if not isinstance(predictor.model, FlowMatchingDetector):
        return [None]
    first = predictor.model.settings.noise_seed
    return list(range(first, first + count))


def _unannotated(records: Iterable[dict]) -> list[dict]:
    """Returns the dataset dicts without the keys that a predictor does not need."""
    kept = ("file_name", "image_id", "image", "value_range")
    return [{key: x[key] for key in kept if key in x} for x in records]


def _content(
    predictor: Predictor, seeds: Sequence[int | None], title: str, threshold: float
) -> ExplorerContent:
    model, blocks, mode = predictor.model, 0, ""
    if isinstance(model, FlowMatchingDetector):
        blocks, mode = model.flow.num_blocks, f", inference mode {model.settings.plan.name}"
    averaged = ", averaged weights" if predictor.averaged else ""
    return ExplorerContent(
        title=title,
        model=f"{type(model).__name__}{mode}{averaged}",
        class_names=predictor.class_names,
        seeds=seeds,
        blocks=blocks,
        stability=bool(blocks) and model.stability is not None,
        least_score=LEAST_SCORE,
        threshold=threshold,
    )


def _short_names(files: Sequence[str]) -> list[str]:
    """Returns the names of files, with as many folders as are needed to tell them apart."""
    parts = [Path(file).parts for file in files]
    shown = [1] * len(files)
    while True:
        names = ["/".join(p[-n:]) for p, n in zip(parts, shown)]
        count = Counter(names)
        longer = [n + (count[name] > 1 and n < len(p)) for name, n, p in zip(names, shown, parts)]
        if longer == shown:
            return names
        shown = longer


def _write(path: Path, content: ExplorerContent, entries: dict[str, Markup]) -> None:
    """Writes the page; the file appears only when it is complete."""
    names = _short_names(list(entries))
    html = explorer_html(content, names, list(entries.values()))
    try:
        with temporary_file(path) as temporary:
            temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from error
