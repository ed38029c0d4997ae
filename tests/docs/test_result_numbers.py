"""The numbers in the tables of the docs are those of the result files."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# page, a text before the table, result files
TABLES = [
    ("experiments.md", "### Digits", ["table1_digits"]),
    ("experiments.md", "26 minutes per run", ["table1_voc"]),
    ("experiments.md", "at every tenth epoch", ["curves_voc", "table1_voc"]),
    ("experiments.md", "AP is nearly the same for 4 to 16 steps", ["steps_voc"]),
    ("experiments.md", "the steps of an image stop once", ["early_exit", "early_exit_voc"]),
    ("experiments.md", "Without one part of the recipe, after 5 epochs", ["ablation_photos"]),
    ("experiments.md", "one at a time, also with 5 epochs", ["recipe_changes_voc"]),
    ("experiments.md", "beside flow with the same change", ["recipe_changes_voc"]),
    ("experiments.md", "12 epochs, boxes read at 7 x 7 points", ["recipe_trials_voc"]),
    ("experiments.md", "10 epochs, `DENOISING_WEIGHT 0.4`", ["recipe_trials_voc"]),
    ("experiments.md", "About 20 epochs, `DENOISING_WEIGHT 1.5`", ["recipe_trials_voc"]),
    ("experiments.md", "The size of the batch", ["recipe_trials_voc"]),
    ("experiments.md", "Denoising queries at proposals:", ["recipe_trials_voc"]),
    ("experiments.md", "Inference with the 100 best proposals", ["recipe_trials_voc"]),
    ("experiments.md", "on the same features, without variants", ["recipe_trials_voc"]),
    ("experiments.md", "### VOC2012, ResNet-18 trained end to end", ["table1_voc_r18"]),
    ("experiments.md", "That was measured with the earlier recipe", ["peers_voc_r18"]),
    ("experiments.md", "### What matters", ["ablation_digits"]),
    ("experiments.md", "### Results on photos", ["peers_voc"]),
    ("experiments.md", "are behind at both budgets", ["peers_voc"]),
    ("experiments.md", "**30 epochs**, seed 0", ["peers_voc_30"]),
    (
        "experiments.md",
        "### Aims that were not reached on photos",
        ["peers_voc", "peers_voc_30", "recipe_trials_voc", "recipe_checks_voc"],
    ),
    ("custom_datasets.md", "the 364 blood-cell images", ["peers_bccd"]),
]

METHODS = {
    "flow": "flow",
    "backprop": "backprop",
    "box diffusion": "box_diffusion",
    "box flow": "box_flow",
    "Faster R-CNN": "faster_rcnn",
    "FCOS": "fcos",
}


@pytest.mark.parametrize("page, text, files", TABLES, ids=lambda x: x if isinstance(x, str) else "")
def test_every_number_is_a_rounded_value_of_a_result_file(page, text, files):
    rows = [row for name in files for row in _rows(name)]
    table = _table((ROOT / "docs" / page).read_text(), text)
    assert len(table) > 1
    for cells in table:
        methods = [METHODS[cell] for cell in cells if cell in METHODS]
        values = _values([x for x in rows if not methods or x["method"] in methods])
        # a setting such as a number of points is not a result
        names = [cell for cell in cells if "`" in cell or re.search("[a-z]{3}", cell)]
        for cell in cells[1:]:
            for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", "" if cell in names else cell):
                assert _is_rounded(number, values), f"{number} in {' | '.join(cells)}"


def test_another_number_is_noticed():
    values = _values([{"mean": 55.646, "std": None, "n": 1}])
    assert _is_rounded("55.6", values)
    assert not _is_rounded("55.7", values)


def _rows(name: str) -> list[dict]:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())["rows"]


def _table(page: str, text: str) -> list[list[str]]:
    """Returns the cells of the first table after a text, without its header."""
    assert page.count(text) == 1, f"{page.count(text)} times on the page: {text}"
    lines = page.split(text)[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith("|"))
    rows = [line.replace("**", "").strip("| ") for line in lines[first + 2 : last]]
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def _values(rows: list[dict]) -> list[float]:
    """Returns the numbers of rows; bytes also as MiB, parameters as millions, seconds as ms."""
    found = [x for row in rows for x in row.values() if isinstance(x, int | float)]
    return [scale * x for x in found for scale in (1, 2**-20, 1e-6, 1e3)]


def _is_rounded(number: str, values: list[float]) -> bool:
    half_unit = 0.5 * 10.0 ** -len(number.partition(".")[2])
    return any(abs(float(number) - value) <= half_unit + 1e-9 for value in values)
