"""Problems and repairs: what stops, what is collected, and how they are listed."""

import pytest

from flowdet.data.custom.findings import Finding, Findings, check_command, finding_lines


def test_stop_raises_the_first_problem_and_collects_repairs(tmp_path):
    findings = Findings(tmp_path)
    findings.repair("clipped", "a.xml:3", "the box is clipped")
    with pytest.raises(ValueError) as caught:
        findings.problem("missing", "a.txt:1", "there is no a.png")
    assert str(caught.value) == (
        f"a.txt:1: there is no a.png (tools/check_data.py --data {tmp_path} lists all problems; "
        "DATASETS.ON_PROBLEM skip leaves such entries out)"
    )
    assert findings.repairs == [Finding("clipped", "a.xml:3", "the box is clipped")]


def test_skip_collects_problems_but_not_fatal_ones(tmp_path):
    findings = Findings(tmp_path, "skip")
    for _ in range(2):
        findings.problem("missing", "a.txt:1", "there is no a.png")
    assert len(findings.problems) == 1
    with pytest.raises(ValueError, match=r"train.json: not JSON .*lists all problems\)$"):
        findings.problem("unreadable", "train.json", "not JSON", fatal=True)


def test_list_collects_everything(tmp_path):
    findings = Findings(tmp_path, "list")
    findings.problem("unreadable", "train.json", "not JSON", fatal=True)
    assert [str(p) for p in findings.problems] == ["train.json: not JSON"]


def test_log_counts_and_shows_examples(tmp_path, caplog):
    findings = Findings(tmp_path, "skip")
    findings.log()
    assert not caplog.messages
    findings.problem("missing", "a.txt:1", "there is no a.png")
    for i in range(4):
        findings.repair("clipped", f"a.xml:{i}", "the box is clipped")
    findings.log(most=2)
    left_out, repaired = caplog.messages
    assert left_out.splitlines() == [
        f"{tmp_path}: 1 left out",
        "missing: 1",
        "  a.txt:1: there is no a.png",
    ]
    assert repaired.splitlines()[0] == f"{tmp_path}: 4 repaired"
    assert repaired.splitlines()[-1] == "  ... and 2 more (tools/check_data.py lists them)"
    findings.log()
    # a dataset that is read again
    again = Findings(tmp_path, "skip")
    again.problem("missing", "a.txt:1", "there is no a.png")
    again.log(most=2)
    assert len(caplog.messages) == 2


def test_findings_are_grouped_and_cut():
    findings = [Finding("rare", "a", "x"), *(Finding("often", str(i), "y") for i in range(5))]
    assert finding_lines(findings, 2) == [
        "often: 5",
        "  0: y",
        "  1: y",
        "  ... and 3 more (--examples 5 shows all)",
        "rare: 1",
        "  a: x",
    ]


def test_a_finding_is_one_line_of_valid_text():
    finding = Finding("kind", "caf\udce9.xml:1", "the class 'a\nb\r'")
    assert str(finding) == r"caf\udce9.xml:1: the class 'a\nb\r'"
    str(finding).encode()


@pytest.mark.parametrize(
    ("installed", "command"), [(False, "tools/check_data.py"), (True, "flowdet-check-data")]
)
def test_the_command_that_checks_a_dataset(tmp_path, monkeypatch, installed, command):
    if installed:
        monkeypatch.setattr("flowdet.__file__", str(tmp_path / "flowdet" / "__init__.py"))
    assert check_command.__wrapped__() == command
