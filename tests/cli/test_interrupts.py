"""Ctrl-C ends a command with one message, also while it draws and writes its results."""

import importlib
import pkgutil

import pytest

import flowdet.cli
from flowdet.cli import make_digits, measure_uncertainty, plot_training, pretrain_digits
from tests.detection.tiny import tiny_cfg

# what replaces the work before the results are written
UNCERTAINTY = {
    "flowdet.experiments.measurement.load_run": lambda *_: (tiny_cfg(), None),
    "flowdet.experiments.uncertainty.measure": lambda *_: ([], {}),
    "flowdet.experiments.uncertainty.uncertainty_figure": lambda _: None,
}
CURVES = {
    "flowdet.reporting.curves.group_runs": lambda _: {},
    "flowdet.reporting.curves.curve_rows": lambda *_: [],
    "flowdet.reporting.curves.curve_figure": lambda _: None,
}
SAVING = "flowdet.experiments.measurement.save_measurement"
# a command, its options, what Ctrl-C interrupts, and what is replaced
COMMANDS = [
    (make_digits, [], "flowdet.data.detection.digits.make_digits", {}),
    (pretrain_digits, [], "flowdet.cli.run_pretraining.pretrain", {}),
    (measure_uncertainty, ["--run", "run"], SAVING, UNCERTAINTY),
    (plot_training, ["--runs", "run"], SAVING, CURVES),
]
IDS = [command.__name__ for command, *_ in COMMANDS]


@pytest.mark.parametrize("command, options, interrupted, replaced", COMMANDS, ids=IDS)
def test_ctrl_c_has_status_130_and_the_command(
    command, options, interrupted, replaced, tmp_path, monkeypatch, capsys
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for name, function in (replaced | {interrupted: interrupt}).items():
        monkeypatch.setattr(name, function)
    monkeypatch.setattr("sys.argv", ["tools/command.py", "--seed", "1"])
    with pytest.raises(SystemExit) as end:
        command.main([*options, "--output", str(tmp_path / "out")])
    assert end.value.code == 130
    expected = "\nStopped by Ctrl-C. Start again with:\n    tools/command.py --seed 1\n"
    assert capsys.readouterr().err == expected


def all_commands():
    modules = [module.name for module in pkgutil.iter_modules(flowdet.cli.__path__)]
    found = [importlib.import_module(f"flowdet.cli.{name}") for name in modules]
    return [module for module in found if hasattr(module, "main")]


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.__name__)
def test_ctrl_c_while_a_command_starts(command, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    # PyTorch is loaded after it
    monkeypatch.setattr(command, "parse_args", interrupt)
    monkeypatch.setattr("sys.argv", ["tools/command.py"])
    with pytest.raises(SystemExit) as end:
        command.main([])
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("Start again with:\n    tools/command.py\n")
