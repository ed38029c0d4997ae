"""Tables of docs/speed.md, and the comparison with earlier results."""

import pytest

from flowdet.experiments.speed.comparison import compare, read_rows
from flowdet.experiments.speed.tables import speed_tables, value_text, with_tables


def row(metric, median, low, high, **columns):
    numbers = {"mean": median, "std": 0.1, "median": median, "low": low, "high": high, "n": 5}
    return {"part": "inference", "method": "flow", "metric": metric, **columns, **numbers}


def test_a_table_replaces_the_one_before():
    rows = [row("inference_ratio_to_backbone", 1.5, 1.4, 1.6, batch_size=1, plan="default")]
    page = "a\n<!-- bench inference -->\n\nold\n\n<!-- end -->\nb\n"
    tables = speed_tables(rows)
    new = with_tables(page, tables)
    assert "old" not in new and "1.5 (1.4 to 1.6)" in new
    assert new.startswith("a\n<!-- bench inference -->") and new.endswith("<!-- end -->\nb\n")
    assert with_tables(new, tables) == new
    with pytest.raises(ValueError, match="no <!-- bench inference -->"):
        with_tables("a page without a place", tables)


def test_texts_of_values():
    assert value_text({"metric": "peak_resident_bytes", "mean": 3 * 2**30}) == "3,072 MiB"
    assert value_text({"metric": "parameters", "mean": 41000}) == "41,000"
    assert value_text(row("ms_per_image", 1432.4, 1400.2, 99.97)) == "1432 (1400 to 100)"


@pytest.mark.parametrize(
    ("metric", "old", "new", "is_worse"),
    [
        ("inference_ratio_to_backbone", (1.2, 1.1, 1.3), (1.4, 1.35, 1.5), True),
        # the ranges overlap
        ("inference_ratio_to_backbone", (1.2, 1.1, 1.4), (1.4, 1.35, 1.5), False),
        # 1 percent is too little
        ("inference_ratio_to_backbone", (1.2, 1.2, 1.2), (1.212, 1.212, 1.212), False),
        ("inference_ratio_to_backbone", (1.4, 1.35, 1.5), (1.2, 1.1, 1.3), False),
        ("loader_ratio_to_step", (3.0, 2.9, 3.1), (2.0, 1.9, 2.1), True),
        ("loader_ratio_to_step", (2.0, 1.9, 2.1), (3.0, 2.9, 3.1), False),
    ],
)
def test_what_is_worse_than_before(metric, old, new, is_worse):
    columns = {"plan": "default", "batch_size": 1}
    lines, compared = compare([row(metric, *new, **columns)], [row(metric, *old, **columns)])
    assert compared == 1 and len(lines) == is_worse
    if is_worse:
        assert f"{metric} was {old[0]:g} and is {new[0]:g} (" in lines[0]
        assert "plan default, batch_size 1" in lines[0]


def test_rows_of_other_settings_and_times_are_not_compared():
    before = [
        row("inference_ratio_to_backbone", 1.0, 1.0, 1.0, batch_size=8),
        row("ms_per_image", 1.0, 1.0, 1.0, batch_size=1),
    ]
    after = [
        row("inference_ratio_to_backbone", 2.0, 2.0, 2.0, batch_size=1),
        row("ms_per_image", 2.0, 2.0, 2.0, batch_size=1),
    ]
    assert compare(after, before) == ([], 0)


def test_more_memory_is_worse():
    memory = {"part": "memory", "method": "flow", "metric": "peak_resident_bytes", "n": 1}
    lines, _ = compare([memory | {"mean": 110}], [memory | {"mean": 100}])
    assert lines == ["peak_resident_bytes was 100 and is 110 (part memory, method flow)"]


def test_a_file_that_is_no_result_file(tmp_path):
    for text in ("[1, 2]", "{}", "no json"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="not a result file"):
            read_rows(tmp_path / "x.json")
