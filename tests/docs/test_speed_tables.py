"""The measured tables of docs/speed.md and docs/scaling.md."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "results"), [("speed", "bench"), ("scaling", "scaling")])
def test_pages_are_up_to_date(page, results):
    if not (DOCS / "results" / f"{results}.json").exists():
        pytest.skip(f"{results}.json has not been measured")
    pages = runpy.run_path(str(DOCS / "make_speed_tables.py"))["pages"]()
    text = (DOCS / f"{page}.md").read_text()
    assert pages[DOCS / f"{page}.md"] == text, "run docs/make_speed_tables.py"
    # no table is empty
    assert "-->\n\n<!-- end" not in text
