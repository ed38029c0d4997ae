"""docs/config.md is what docs/make_config_reference.py writes."""

import inspect
import runpy
from pathlib import Path

import pytest

import flowdet.config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def script():
    return runpy.run_path(str(DOCS / "make_config_reference.py"))


def test_page_is_up_to_date(script):
    page = (DOCS / "config.md").read_text(encoding="utf-8")
    assert page == script["reference"](), "run docs/make_config_reference.py"


def test_a_key_without_a_comment_is_an_error(script, monkeypatch):
    source = inspect.getsource(flowdet.config)
    bare = "\n".join(x for x in source.splitlines() if "Standard deviation" not in x)
    monkeypatch.setattr(inspect, "getsource", lambda module: bare)
    with pytest.raises(ValueError, match="does not explain MODEL.FLOW_DET.NOISE_SCALE"):
        script["reference"]()
