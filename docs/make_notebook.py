#!/usr/bin/env python
"""Runs docs/notebook.ipynb and writes its outputs into it, and the page docs/notebook.md.

    pip install nbclient ipykernel
    docs/make_notebook.py             # runs the notebook, in about a minute
    docs/make_notebook.py --page      # writes the page alone

mkdocs shows the page. The notebook itself is a file of the site, for download. Both contain their
pictures and need no other file.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

from flowdet.reporting.results import write_text

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")
PAGE = NOTEBOOK.with_suffix(".md")
DOWNLOAD = f"Download this page as a [notebook]({NOTEBOOK.name}).\n"


def page(notebook: dict) -> str:
    """Converts a notebook to Markdown: an output as HTML if it has that, otherwise as text."""
    parts = [part for cell in notebook["cells"] for part in _markdown(cell)]
    parts.insert(1, DOWNLOAD)
    return "\n".join(parts)


def _markdown(cell: dict) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [f"{source}\n"]
    return [f"```python\n{source}\n```\n", *map(_output, cell["outputs"])]


def _output(output: dict) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```\n"
    data = {kind: "".join(x) for kind, x in output["data"].items()}
    if "text/html" in data:
        # an empty line would end the HTML in Markdown
        return re.sub(r"\n\s*\n", "\n", data["text/html"]).strip() + "\n"
    return f"```text\n{data['text/plain']}\n```\n"


def run(notebook: dict) -> dict:
    """Runs all cells in an empty folder; returns the notebook with their outputs.

    Standard error (progress bars, warnings), times and the version of Python are left out.
    """
    import nbclient
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        nodes = nbformat.reads(json.dumps(notebook), as_version=4)
        client = nbclient.NotebookClient(
            nodes, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    nodes.metadata = notebook["metadata"]
    for cell in nodes.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
    return json.loads(nbformat.writes(nodes))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="do not run the notebook")
    args = parser.parse_args()
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    if not args.page:
        notebook = run(notebook)
        write_text(NOTEBOOK, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    write_text(PAGE, page(notebook))


if __name__ == "__main__":
    main()
