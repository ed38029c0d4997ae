"""docs/notebook.ipynb runs, and is small, clean and the same as its page."""

import ast
import json
import logging
import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "notebook.ipynb").read_text(encoding="utf-8")
NOTEBOOK = json.loads(TEXT)
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
# in place of the values of the cell with the tag "parameters"
SMALL = "RUN, FOLDER = None, 'output'\nTRAIN_IMAGES, TEST_IMAGES, ITERATIONS = 40, 4, 2"


def run_cell(source, variables):
    """Runs a cell and returns the value of its last line, if that is an expression."""
    *first, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        first, last = [*first, last], None
    exec(compile(ast.Module(first, []), "cell", "exec"), variables)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), variables) if last else None


def test_all_cells_run_and_show_what_they_showed(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    pytest.importorskip("supervision")
    monkeypatch.chdir(tmp_path)
    variables = {}
    try:
        for cell in CODE:
            is_parameters = "parameters" in cell["metadata"].get("tags", ())
            value = run_cell(SMALL if is_parameters else "".join(cell["source"]), variables)
            for output in cell["outputs"]:
                shown = output["data"]
                assert ("text/html" in shown) == hasattr(value, "_repr_html_"), cell["source"]
                assert value is not None
                if "text/html" in shown:
                    start = re.match(r"<\w+", "".join(shown["text/html"]))[0]
                    assert value._repr_html_().startswith(start)
    finally:
        logging.disable(logging.NOTSET)
    assert set(variables["results"]["bbox"]) >= {"AP", "AP50", "AP75"}
    assert (tmp_path / "output" / "moves.gif").is_file()


def test_outputs_are_complete_and_small():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    kinds = {output["output_type"] for cell in CODE for output in cell["outputs"]}
    assert kinds == {"execute_result"}
    assert len(TEXT) < 300_000
    # neither a path nor the name of the machine it ran on
    plain = re.sub(r"base64,[\w+/=]+", "", TEXT)
    assert not re.search(r"[\"' (](/|~/|[A-Z]:\\\\)\w", plain)
    assert "http" not in plain


def test_page_is_up_to_date():
    page = runpy.run_path(str(DOCS / "make_notebook.py"))["page"]
    hint = "run docs/make_notebook.py --page"
    assert (DOCS / "notebook.md").read_text(encoding="utf-8") == page(NOTEBOOK), hint
