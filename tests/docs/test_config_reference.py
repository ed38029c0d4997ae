"""docs/config.md and the script that makes it."""

import re
import runpy
from pathlib import Path

import pytest

from flowdet.config.schema import KEYS, SECTIONS, defaults

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_config_reference.py"))


@pytest.fixture(scope="module")
def tables():
    """The tables of the page by their title."""
    page = (DOCS / "config.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", page, flags=re.M | re.S))


def test_page_is_up_to_date(script):
    hint = "run docs/make_config_reference.py"
    assert (DOCS / "config.md").read_text(encoding="utf-8") == script["reference"](), hint


def test_every_group_of_keys_is_explained():
    for section in SECTIONS:
        for group in section.groups:
            assert group.text.endswith((".", ".)")), list(group.keys)


def test_keys_of_both_tasks_are_in_a_section_of_their_own(tables):
    def names(title):
        return set(re.findall(r"`([A-Z_]+)` = ", tables[title]))

    detection = {name.rpartition(".")[2] for name in KEYS if name.startswith("MODEL.FLOW_DET.")}
    classification = {
        name.rpartition(".")[2] for name in KEYS if name.startswith("MODEL.FLOW_CLS.")
    }
    shared = detection & classification
    assert names("MODEL.FLOW_DET and MODEL.FLOW_CLS") == shared
    assert len(shared) > 20
    assert not (names("MODEL.FLOW_DET") | names("MODEL.FLOW_CLS")) & shared
    assert "`STATE_NOISE` = `0.3`, FLOW_CLS: `0.0`" in tables["MODEL.FLOW_DET and MODEL.FLOW_CLS"]


def test_every_declared_key_is_on_the_page(tables):
    page = "".join(tables.values())
    for name in KEYS.keys() & defaults().keys():
        short = name.rpartition(".")[2]
        default = f"`{KEYS[name].default!r}`"
        shown = (f"`{name}` = ", f"`{short}` = {default}", f"FLOW_CLS: {default}")
        assert any(text in page for text in shown), name


def test_valid_values_and_conditions_are_on_the_page(tables):
    assert "| `NMS_THRESHOLD` = `0.5` | from 0 to 1 |" in tables["MODEL.FLOW_DET"]
    steps = tables["MODEL.FLOW_DET and MODEL.FLOW_CLS"]
    assert "counts only with INFERENCE_MODE other than single_step or ensemble" in steps
    assert "`SOLVER.BASE_LR` = `0.001` | above 0 and at most 1000 |" in tables["Keys of detectron2"]
