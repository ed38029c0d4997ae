"""docs/config.md and the script that makes it."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

import flowdet.config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "make_config_reference.py"))


def test_page_is_up_to_date(script):
    hint = "run docs/make_config_reference.py"
    assert (DOCS / "config.md").read_text(encoding="utf-8") == script["reference"](), hint


def test_every_key_is_explained_once(script):
    names = [name for _, members in script["explained"]() for name in members]
    assert len(set(names)) == len(names) > 100


def test_keys_of_both_tasks_are_in_a_section_of_their_own(script):
    page = (DOCS / "config.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", page, flags=re.M | re.S))

    def names(section):
        return set(re.findall(r"`([A-Z_]+)` = ", sections[section]))

    keys = {key.rpartition(".")[::2] for key in script["added_keys"]()}
    shared = {name for node, name in keys if node == "MODEL.FLOW_DET"}
    shared &= {name for node, name in keys if node == "MODEL.FLOW_CLS"}
    assert names("MODEL.FLOW_DET and MODEL.FLOW_CLS") == shared
    assert len(shared) > 20
    assert not (names("MODEL.FLOW_DET") | names("MODEL.FLOW_CLS")) & shared
    assert "`STATE_NOISE` = `0.3`, FLOW_CLS: `0.0`" in page


@pytest.mark.parametrize(
    ("comment", "key"),
    [
        ("# Number of queries M", "MODEL.FLOW_DET.NUM_QUERIES"),
        ("# Number of classes C", "MODEL.FLOW_DET.NUM_CLASSES, MODEL.FLOW_CLS.NUM_CLASSES"),
        ("# Inference mode", "MODEL.FLOW_DET.INFERENCE_MODE"),
    ],
)
def test_key_without_a_comment_is_an_error(script, monkeypatch, comment, key):
    source = inspect.getsource(flowdet.config)
    assert comment in source
    # the line and the lines that continue its comment
    bare = re.sub(rf"{comment}.*\n( *#.*\n)*", "\n", source)
    monkeypatch.setattr(inspect, "getsource", lambda module: bare)
    with pytest.raises(ValueError, match=f"does not explain {key}"):
        script["reference"]()
