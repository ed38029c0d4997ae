import pytest

from flowdet.experiments import digits_setup
from flowdet.experiments.digits_setup import DIGITS_BACKBONE, prepare_digits


class Result:
    def __init__(self, returncode):
        self.returncode = returncode


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Records the commands, which do nothing, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    calls = []
    monkeypatch.setattr(digits_setup.subprocess, "run", lambda x: calls.append(x[2:]) or Result(0))
    return calls


def test_dataset_and_backbone_are_created(commands, tmp_path):
    overrides = prepare_digits(["configs/voc_flow_r50.yaml", "configs/paper/digits_flow.yaml"], [])
    assert overrides == ["MODEL.WEIGHTS", str(DIGITS_BACKBONE)]
    digits = str(tmp_path / "datasets" / "digits")
    assert commands == [
        ["flowdet.cli.make_digits", "--output", digits],
        ["flowdet.cli.pretrain_digits", "--output", str(DIGITS_BACKBONE)]
        + ["--config-file", "digits_flow"],
    ]


def test_existing_files_are_kept(commands, tmp_path):
    for path in (tmp_path / "datasets" / "digits" / "manifest.json", DIGITS_BACKBONE):
        path.parent.mkdir(parents=True)
        path.touch()
    assert prepare_digits(["digits_flow.yaml"], []) == ["MODEL.WEIGHTS", str(DIGITS_BACKBONE)]
    assert commands == []


def test_no_backbone_for_other_weights(commands):
    assert prepare_digits(["digits_flow.yaml"], ["MODEL.WEIGHTS", "mine.pth"]) == []
    assert [words[0] for words in commands] == ["flowdet.cli.make_digits"]


def test_nothing_to_do_for_other_data(commands):
    assert prepare_digits(["voc_flow_r50.yaml"], []) == [] and commands == []


def test_failed_command(commands, monkeypatch):
    monkeypatch.setattr(digits_setup.subprocess, "run", lambda words: Result(1))
    message = "manifest.json is missing, and `python -m flowdet.cli.make_digits .* failed"
    with pytest.raises(OSError, match=message):
        prepare_digits(["digits_flow.yaml"], [])
