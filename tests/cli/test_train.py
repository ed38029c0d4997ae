"""tools/train_net.py and the commands around a training."""

import json
import os
import re
import shlex
import signal

import pytest

from flowdet.cli import report
from flowdet.cli import train as train_command
from flowdet.cli.run_training import interruption_text
from flowdet.cli.run_training import run as run_training
from flowdet.engine import Trainer
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.reporting.runs import read_metrics
from tests.cli.commands import FOUR_IMAGES, NO_REPORT, SMALL, SMALL_VIT
from tests.cli.conftest import ROOT
from tests.data.custom.example_datasets import write_coco


def train(run, folder, *words):
    config = ("--config-file", ROOT / "configs" / "digits_flow.yaml")
    return run("tools/train_net.py", *config, *words, *SMALL, *FOUR_IMAGES, "OUTPUT_DIR", folder)


def test_train_resume_evaluate_and_report_a_detector(run, tmp_path):
    status, output = train(run, tmp_path, "--opts", "SOLVER.MAX_ITER", 2)
    assert status == 0, output
    assert "--resume finds no checkpoint" not in output
    config = (tmp_path / "config.yaml").read_text()
    results = (tmp_path / "results.json").read_text()
    # the training ends with its report, which names the command
    assert "tools/train_net.py --config-file" in (tmp_path / "report.html").read_text()
    assert {row["metric"] for row in json.loads(results)["rows"]} >= {"AP", "AP50", "AP75"}

    status, output = train(run, tmp_path, "--resume", "SOLVER.MAX_ITER", 3, *NO_REPORT)
    assert status == 0, output
    assert "--resume finds no checkpoint" not in output
    assert "Starting training from iteration 2" in output
    results = (tmp_path / "results.json").read_text()

    again = ("--config-file", tmp_path / "config.yaml", "--eval-only", "MODEL.WEIGHTS")
    status, output = run("tools/train_net.py", *again, tmp_path / "model_final.pth")
    assert status == 0, output
    # an evaluation does not change the files of the run
    assert (tmp_path / "results.json").read_text() == results
    assert (tmp_path / "config.yaml").read_text() == config.replace(
        "MAX_ITER: 2", "MAX_ITER: 3"
    ).replace("REPORT: true", "REPORT: false")
    assert (tmp_path / "eval" / "results.json").is_file()

    # without weights, those beside the config are named
    status, output = run("tools/train_net.py", *again[:-1])
    assert status == 2 and "Traceback" not in output
    assert f"give MODEL.WEIGHTS {tmp_path / 'model_final.pth'}, from" in output.splitlines()[-1]

    # another training in the same folder does not mix its metrics with those of the first
    before = read_metrics(tmp_path)
    assert before[-1]["iteration"] > 1
    status, output = train(run, tmp_path, "SOLVER.MAX_ITER", 1, *NO_REPORT)
    assert status == 0, output
    assert read_metrics(tmp_path)[-1]["iteration"] == 1
    earlier = tmp_path / "earlier_1"
    assert read_metrics(earlier) == before
    assert newest_checkpoint(earlier) == str(earlier / "model_final.pth")
    assert "MAX_ITER: 3" in (earlier / "config.yaml").read_text()

    report = ("tools/report.py", "--run", tmp_path, "--output", tmp_path / "new" / "page.html")
    status, output = run(*report, "--images", 1)
    assert status == 0, output
    assert "on 1 of the 4 images of digits_test" in (tmp_path / "new" / "page.html").read_text()
    status, output = run("tools/report.py", "--run", tmp_path / "new")
    assert status == 1 and output.endswith("is not a run: it has no config.yaml\n")


def test_train_resume_and_evaluate_a_classifier(run, tmp_path):
    words = ("--config-file", ROOT / "configs/cls/digits_flow_vit.yaml", *SMALL_VIT)
    words += ("SOLVER.EMA_DECAY", 0.5, "OUTPUT_DIR", tmp_path, *NO_REPORT)
    # a folder that has no run, such as one with a typing error
    status, output = run("tools/train_net.py", "--resume", *words, "SOLVER.MAX_ITER", 2)
    assert status == 0, output
    reason = f"--resume finds no checkpoint in OUTPUT_DIR {tmp_path}: the training starts anew from"
    assert reason in output
    assert "| single_step-1 " in output
    status, output = run("tools/train_net.py", "--resume", *words, "SOLVER.MAX_ITER", 3)
    assert status == 0, output
    trained = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row.get("weights") for row in trained} == {None, "ema"}
    assert {row["mode"] for row in trained} >= {"default", "probe", "ensemble", "multi_step"}

    # the last checkpoint of the run, or a given file
    for last in (["--resume"], ["MODEL.WEIGHTS", tmp_path / "model_final.pth"]):
        given = ("--config-file", tmp_path / "config.yaml", "--eval-only", *last)
        status, output = run("tools/train_net.py", *given)
        assert status == 0, output
        evaluated = json.loads((tmp_path / "eval" / "results.json").read_text())["rows"]
        # the checkpoint records its iteration, and the config does not say its epochs
        for row in trained:
            assert row.pop("epochs", 0) == 0 and row["iterations"] == 3
        assert evaluated == trained


def test_ctrl_c_prints_the_command_that_continues(run, tmp_path, monkeypatch):
    step = Trainer.run_step

    def interrupted(trainer):
        step(trainer)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "run_step", interrupted)
    status, output = train(run, tmp_path, "SOLVER.MAX_ITER", 3, *NO_REPORT)
    assert status == 130 and "Traceback" not in output
    *_, reason, command = output.splitlines()
    assert reason.endswith("model_0000000.pth. Continue with:")
    # another one, of a run that is continued
    program, *words = shlex.split(command)
    assert program == "tools/train_net.py" and words[0] == "--resume"
    status, output = run(program, *words)
    assert status == 130 and output.splitlines()[-1] == command
    monkeypatch.setattr(Trainer, "run_step", step)
    status, output = run(program, *words)
    assert status == 0 and "Starting training from iteration 2" in output

    def interrupted_evaluation(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("flowdet.cli.run_training.evaluate", interrupted_evaluation)
    status, output = run(program, "--eval-only", *words)
    assert status == 130 and "The evaluation was stopped by Ctrl-C" in output
    assert output.splitlines()[-1] == f"    {program} --eval-only {shlex.join(words)}"


def test_ctrl_c_while_the_report_is_written(run, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("flowdet.cli.run_training.write_report", interrupted)
    status, output = train(run, tmp_path, "SOLVER.MAX_ITER", 1, "TEST.REPORT", "True")
    assert status == 130 and "The training is complete" in output
    program, *words = shlex.split(output.splitlines()[-1])
    assert program == "tools/report.py"
    assert report.parse_args(words).run == tmp_path


def test_ctrl_c_before_the_first_checkpoint(run, tmp_path, monkeypatch):
    def interrupted(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    # the checkpoint of another run in the folder
    (tmp_path / "model_final.pth").touch()
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    os.utime(tmp_path / "model_final.pth", (0, 0))
    monkeypatch.setattr(Trainer, "run_step", interrupted)
    status, output = train(run, tmp_path, "SOLVER.MAX_ITER", 3, *NO_REPORT)
    assert status == 130 and "stopped by Ctrl-C before its first checkpoint" in output
    command = output.splitlines()[-1].strip()
    assert command.startswith("tools/train_net.py --config-file") and "--resume" not in command


def test_the_command_that_starts_again_has_weights_that_were_moved(tmp_path, monkeypatch):
    weights = str(tmp_path / "model_final.pth")
    words = ["--config-file", "digits_flow", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["/x/tools/train_net.py", *words])
    args = train_command.parse_args(words)

    def command():
        return interruption_text(args, start=0).splitlines()[-1].strip()

    assert command() == f"tools/train_net.py {shlex.join(words)}"
    moved = tmp_path / "earlier_1" / "model_final.pth"
    (tmp_path / "config.yaml").write_text(f"MODEL: {{WEIGHTS: {moved}}}")
    assert command() == f"tools/train_net.py {shlex.join(words)}"
    moved.parent.mkdir()
    moved.touch()
    assert command() == f"tools/train_net.py {shlex.join([*words, 'MODEL.WEIGHTS', str(moved)])}"


def test_ctrl_c_without_the_config_file(tmp_path, monkeypatch, capsys):
    config = tmp_path / "own.yaml"
    config.write_text("_BASE_: digits_flow.yaml")

    def interrupted(*_):
        config.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("flowdet.cli.run_training.launch_processes", interrupted)
    assert run_training(train_command.parse_args(["--config-file", str(config)])) == 130
    text = "Stopped by Ctrl-C. The command that continues is not known: "
    assert capsys.readouterr().err.startswith(f"\n{text}")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--eval-only"], "error: no weights are given: set MODEL.WEIGHTS"),
        (["MODEL.FLOW_DET.NUM_CLASSES", "11"], "has 10 classes"),
        # checked before the training, not at its first evaluation
        (["TEST.BATCH_SIZE", "0"], "TEST.BATCH_SIZE is 0, but must be at least 1"),
    ],
    ids=["weights", "classes", "test"],
)
def test_an_error_of_the_user_is_one_line(run, tmp_path, words, message):
    status, output = train(run, tmp_path, *words)
    assert status == 2
    assert message in output.splitlines()[-1]
    assert "Starting training" not in output


def test_resume_with_other_classes_is_refused_before_the_run_is_changed(run, tmp_path):
    folder = tmp_path / "run"
    status, output = train(run, folder, "SOLVER.MAX_ITER", 1, *NO_REPORT)
    assert status == 0, output
    before = {x: x.read_bytes() for x in folder.iterdir() if x.name != "log.txt" and x.is_file()}
    data = write_coco(tmp_path / "pets")
    for words in ([], ["MODEL.REINIT_CLASSES", "True"]):
        resumed = ("--resume", "--data", data, "SOLVER.MAX_ITER", 2, *words)
        status, output = train(run, folder, *resumed)
        last = output.splitlines()[-1]
        assert status == 1 and last.startswith("error: --resume cannot change the classes"), output
        assert f"OUTPUT_DIR {folder} has a run with 10 classes" in last
        assert "2 classes (cat, dog)" in last and "Traceback" not in output
    after = {x: x.read_bytes() for x in before}
    assert after == before
    # what the message advises
    advice = ("MODEL.WEIGHTS", folder / "model_final.pth", "MODEL.REINIT_CLASSES", "True")
    words = ("--data", data, "SOLVER.MAX_ITER", 1, *advice, *NO_REPORT)
    status, output = train(run, tmp_path / "other", *words)
    assert status == 0, output


def test_pretraining_and_the_overfit_set(run, tmp_path):
    backbone = tmp_path / "backbone.pth"
    small = ("--iterations", 2, "--batch-size", 2, "--num-workers", 0)
    status, output = run("tools/pretrain_digits.py", "--output", backbone, *small)
    assert status == 0, output
    assert backbone.is_file()

    copy = ("datasets/make_overfit_set.py", "--source", run.datasets / "digits")
    copy += ("--output", tmp_path / "few")
    status, output = run(*copy, "--images", 3)
    assert status == 0, output
    train_ids = (tmp_path / "few/ImageSets/Main/train.txt").read_text().split()
    assert len(train_ids) == 3
    assert train_ids == (tmp_path / "few/ImageSets/Main/val.txt").read_text().split()
    assert all((tmp_path / "few/JPEGImages" / f"{i}.jpg").is_file() for i in train_ids)
    status, output = run(*copy, "--images", 300)
    assert status == 1 and "lists 8 images, fewer than 300" in output


def test_files_that_cannot_be_used_are_reported_at_once(run, tmp_path):
    (tmp_path / "file").touch()
    for words, message in (
        (("MODEL.WEIGHTS", "gone.pth", "OUTPUT_DIR", tmp_path / "a"), "no checkpoint gone.pth"),
        (("OUTPUT_DIR", tmp_path / "file" / "b"), "OUTPUT_DIR .*b cannot be created: Not a dir"),
    ):
        config = ("--config-file", ROOT / "configs" / "digits_flow.yaml")
        status, output = run("tools/train_net.py", *config, *words)
        assert status == 1 and re.search(message, output.splitlines()[-1]), output
        assert "Environment info" not in output
    assert not (tmp_path / "a").exists()
