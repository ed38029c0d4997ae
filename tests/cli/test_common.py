"""Words of a command line as options and overrides."""

import argparse

import pytest

from flowdet.cli.common import parse_with_overrides


def parse(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--budget", type=int, nargs="+")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    return parse_with_overrides(parser, words)


@pytest.mark.parametrize(
    "words",
    [
        ["--opts", "SOLVER.BASE_LR", "1"],
        ["SOLVER.BASE_LR", "1"],
        ["--", "SOLVER.BASE_LR", "1"],
        ["SOLVER.BASE_LR", "1", "--opts", "SEED", "-1"],
        ["SEED", "-1", "MODEL.FLOW_DET.NUM_STEPS", "4"],
    ],
)
@pytest.mark.parametrize("options", [["--methods", "flow", "backprop"], ["--budget", "3", "4"], []])
def test_overrides_follow_any_option(options, words):
    args = parse(*options, *words)
    assert args.opts == [word for word in words if not word.startswith("--")]
    assert args.methods in (None, ["flow", "backprop"]) and args.budget in (None, [3, 4])
    assert [args.methods, args.budget].count(None) == 2 - bool(options)


def test_without_overrides():
    assert parse("--methods", "CSE", "a.B").methods == ["CSE", "a.B"]
    assert parse().opts == []
