#!/usr/bin/env python
"""Writes the measured tables of docs/speed.md and docs/scaling.md.

    docs/make_speed_tables.py

They come from bench.json (`make bench`) and scaling.json (benchmarks/scaling.py) in docs/results/.
The figure of the throughput is docs/images/throughput.png, a copy of output/bench/throughput.png.
"""

from __future__ import annotations

from pathlib import Path

from flowdet.experiments.speed.comparison import read_rows
from flowdet.experiments.speed.scaling_tables import scaling_tables
from flowdet.experiments.speed.tables import speed_tables, with_tables

DOCS = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Returns the pages with the tables of the result files that exist, by path."""
    makers = {
        "speed.md": ("bench.json", speed_tables),
        "scaling.md": ("scaling.json", scaling_tables),
    }
    texts = {}
    for page, (results, make_tables) in makers.items():
        if (DOCS / "results" / results).exists():
            tables = make_tables(read_rows(DOCS / "results" / results))
            texts[DOCS / page] = with_tables((DOCS / page).read_text(), tables)
    return texts


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path)
