"""A training, its report and the demo, with class names that are paths, markup and formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowdet.cli import demo, train
from flowdet.config.rules import is_class_name
from tests.cases.coco_writer import write_coco
from tests.cases.voc_writer import write_voc
from tests.cli.commands import SMALL
from tests.malicious.outcomes import READ, Outcome
from tests.malicious.text_files import NAMES

OUTSIDE, MARKUP = "file outside of the folders", "markup in the report"


def usable_names() -> list[str]:
    """The names that a class may have."""
    return [name for name in NAMES if is_class_name(name)]


def name_outcomes(folder: Path) -> Iterator[Outcome]:
    """The outcome of each command in an empty folder, for VOC and COCO."""
    for label, write in (("voc", write_voc), ("coco", write_coco)):
        # two levels, so that "../x" of a name can be found
        root = folder / label / "inner"
        data, run, pictures = root / f"shapes_{label}", root / "run", root / "pictures"
        data.mkdir(parents=True)
        _write(write, data)
        commands = {
            "train": lambda: train.main(_training(data, run)),  # noqa: B023
            "demo": lambda: demo.main(_detection(data, run, pictures)),  # noqa: B023
        }
        for name, command in commands.items():
            command()
            yield _outcome(f"{label}: {name}", root, run / "report.html")


def _write(write, data: Path) -> None:
    names = usable_names()
    content = {
        "train": {"a": [(i, (1, 2, 20, 30)) for i in range(len(names))]},
        "val": {"b": [(i, (3, 4, 30, 20)) for i in range(len(names))]},
    }
    write(data, content=content, names=names)


def _training(data: Path, run: Path) -> list[str]:
    return [
        *("--config-file", "digits_flow", "--data", str(data), *SMALL),
        *("SOLVER.MAX_ITER", "2", "SOLVER.MAX_EPOCHS", "0", "MODEL.DEVICE", "cpu"),
        *("TEST.SAMPLE_IMAGES", "1", "TEST.EVAL_PERIOD", "1", "OUTPUT_DIR", str(run)),
        *("MODEL.FLOW_DET.NUM_QUERIES", "60"),
    ]


def _detection(data: Path, run: Path, pictures: Path) -> list[str]:
    images = sorted(str(path) for path in data.rglob("*.png"))
    return [
        *("--config-file", str(run / "config.yaml"), "--weights", str(run / "model_final.pth")),
        *("--input", *images, "--output", str(pictures), "--score-threshold", "0"),
    ]


def _outcome(name: str, root: Path, report: Path) -> Outcome:
    allowed = {root / part for part in ("shapes_voc", "shapes_coco", "run", "pictures")}
    outside = [p for p in (*root.iterdir(), *root.parent.iterdir()) if p not in {*allowed, root}]
    if outside:
        return Outcome(name, OUTSIDE, tuple(map(str, outside)))
    if "<script>alert(1)" in report.read_text(encoding="utf-8"):
        return Outcome(name, MARKUP)
    return Outcome(name, READ)
