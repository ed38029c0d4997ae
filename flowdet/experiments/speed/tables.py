"""Tables of measured rows: printed by the command, and those of docs/speed.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tabulate import tabulate

# the part of a profile that has no name
REST = "rest"
_STATISTICS = ("mean", "std", "median", "low", "high", "n", "part")
# the figure of the throughput, relative to the page
FIGURE = "images/throughput.png"
# the names of methods in the tables of docs/speed.md
NAMES = {
    "flow_joint": "flow",
    "backprop_checkpointed": "backprop, checkpointed",
    "flow_learn_at_start": "flow, LEARN_AT_START",
    "flow_learn_at_start_parallel": "flow, LEARN_AT_START, BLOCK_EXECUTION parallel",
    "flow_interpolated": "flow, TRAINING_STATES interpolated",
    "flow_interpolated_parallel": "flow, interpolated, BLOCK_EXECUTION parallel",
    "faster_rcnn_r50_fpn": "Faster R-CNN R50-FPN (detectron2)",
    "faster_rcnn_r50_c4": "Faster R-CNN R50-C4 (detectron2)",
    "fcos_r50_fpn": "FCOS R50-FPN (torchvision)",
    "detr_r50": "DETR R50 (Hugging Face)",
    "rt_detr_r50": "RT-DETR R50 (Hugging Face)",
}


def value_text(row: dict) -> str:
    """Returns the value of a row: MiB for bytes; a median with the quartiles if it varies."""
    if row["metric"].endswith("bytes"):
        return f"{row['mean'] / 2**20:,.0f} MiB"
    if "median" not in row:
        return f"{row['mean']:,}"
    median, low, high = (_three_digits(row[name]) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def print_rows(part: str, rows: Sequence[dict]) -> None:
    """Prints the rows of a part, one line each."""
    lines = []
    for row in rows:
        columns = {key: x for key, x in row.items() if key not in (*_STATISTICS, "metric")}
        lines.append(columns | {"metric": row["metric"], "value": value_text(row)})
    print(f"\n{part}\n{tabulate(lines, headers='keys', disable_numparse=True)}")


def speed_tables(rows: Sequence[dict]) -> dict[str, str]:
    """Returns the Markdown tables of docs/speed.md, by part; a part without rows has none."""
    makers: dict[str, Callable[[list[dict]], str]] = {
        "inference": _inference_table,
        "training": _training_table,
        "profile": _profile_table,
        "memory": _memory_table,
        "loader": _loader_table,
        "peers": _peers_table,
        "throughput": lambda _: f"![images per second over batch and image size]({FIGURE})",
    }
    parts = {part: [row for row in rows if row["part"] == part] for part in makers}
    return {part: makers[part](chosen) for part, chosen in parts.items() if chosen}


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """Replaces the tables in a page, each between `<!-- bench NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: the page has no place for a table.
    """
    for name, table in tables.items():
        start = f"<!-- bench {name} -->\n"
        before, found, after = page.partition(start)
        if not found or "<!-- end -->" not in after:
            raise ValueError(f"the page has no {start.strip()} and <!-- end --> after it")
        page = f"{before}{start}\n{table}\n\n<!-- end -->{after.partition('<!-- end -->')[2]}"
    return page


def markdown_table(lines: Iterable[Sequence[str]], headers: Sequence[str]) -> str:
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _pivot(rows: Sequence[dict], line: Sequence[str], column: str) -> dict[tuple, dict]:
    """Arranges the values of rows by the columns of a line, then by one column."""
    table: dict[tuple, dict] = {}
    for row in rows:
        key = tuple(NAMES.get(x := row.get(name, ""), x) for name in line)
        table.setdefault(key, {})[row.get(column)] = value_text(row)
    return table


def _wide(rows: Sequence[dict], line: Sequence[str], column: str, header: str) -> str:
    """Returns a table with a column for each value of `column`, headed by `header`."""
    table = _pivot(rows, line, column)
    values = sorted({row[column] for row in rows})
    lines = [[*map(str, key), *(cells.get(x, "-") for x in values)] for key, cells in table.items()]
    titles = [name.replace("_", " ") for name in line]
    return markdown_table(lines, [*titles, *(header.format(x) for x in values)])


def _of(rows: Sequence[dict], *metrics: str) -> list[dict]:
    return [row for row in rows if row["metric"] in metrics]


def _inference_table(rows: list[dict]) -> str:
    line = ("plan", "mode", "num_steps", "stability_samples")
    return _wide(_of(rows, "inference_ratio_to_backbone"), line, "batch_size", "batch {}")


def _training_table(rows: list[dict]) -> str:
    line = ("config", "method")
    return _wide(_of(rows, "step_time_ratio_to_backprop"), line, "batch_size", "batch {}")


def _profile_table(rows: list[dict]) -> str:
    """Returns a line for each part, with a column for each call, config and batch size."""
    columns = list(dict.fromkeys((r["call"], r["config"], r["batch_size"]) for r in rows))
    values: dict[str, dict[tuple, str]] = {}
    for row in rows:
        cells = values.setdefault(row["function"], {})
        cells[row["call"], row["config"], row["batch_size"]] = _three_digits(row["median"])
    # what has no name comes last
    lines = [
        [name, *(values[name].get(x, "-") for x in columns)] for name in values if name != REST
    ]
    lines.append([REST, *(values[REST][x] for x in columns)])
    headers = [f"{call}, {config}, batch {size}" for call, config, size in columns]
    return markdown_table(lines, ["part, % of the time", *headers])


def _memory_table(rows: list[dict]) -> str:
    return _wide(rows, ("config", "batch_size", "method"), "num_blocks", "T = {}")


def _loader_table(rows: list[dict]) -> str:
    ratios = _of(rows, "loader_ratio_to_step")
    return _wide(ratios, ("config", "batch_size"), "workers", "workers: {}")


def _peers_table(rows: list[dict]) -> str:
    times = _pivot(_of(rows, "inference_ratio_to_flow"), ("method",), "batch_size")
    peaks = _pivot(
        _of(rows, "peak_resident_bytes", "peak_allocated_bytes"), ("method",), "batch_size"
    )
    counts = {row["method"]: row["mean"] for row in _of(rows, "parameters")}
    sizes = sorted({row["batch_size"] for row in rows if "batch_size" in row})
    lines = []
    for method, count in counts.items():
        key = (NAMES.get(method, method),)
        ratios = [times.get(key, {}).get(size, "1") for size in sizes]
        memory = [peaks.get(key, {}).get(size, "-") for size in sizes]
        lines.append([*key, *ratios, f"{count / 1e6:.1f} M", *memory])
    headers = [
        "detector",
        *(f"time, batch {size}" for size in sizes),
        "parameters",
        *(f"peak memory, batch {size}" for size in sizes),
    ]
    return markdown_table(lines, headers)
