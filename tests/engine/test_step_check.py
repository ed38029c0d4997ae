"""Trainings that end at a loss or gradient that is not finite, and the replay of the step."""

import math
import re
from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, Instances

from flowdet.cli.train import main
from flowdet.engine import Trainer, resolve_config
from flowdet.engine.replay import (
    SavedStep,
    from_plain,
    generator_states,
    load_step,
    plain,
    repeat_step,
    save_step,
    set_generator_states,
)
from flowdet.engine.step_check import MAX_SKIPPED_STEPS, StepCheck
from flowdet.flow import NonFiniteError
from tests.detection.tiny import batch, tiny_cfg, tiny_model
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg

NAMES = ("cat", "dog")
IMAGES = {f"image{i}": [((4 + i, 4, 30 + i, 40), NAMES[i % 2], 0)] for i in range(8)}


def set_solver(cfg, folder):
    cfg.OUTPUT_DIR = str(folder)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 7
    cfg.SOLVER.MAX_EPOCHS = cfg.SOLVER.CHECKPOINT_EPOCHS = cfg.TEST.EVAL_EPOCHS = 0
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 4, 2, 0
    cfg.TEST.SAMPLE_IMAGES, cfg.SEED = 0, 3
    cfg = resolve_config(cfg)
    (folder / "config.yaml").write_text(cfg.dump())
    return cfg


@pytest.fixture
def detector_cfg(voc_dataset, tmp_path):
    cfg = tiny_cfg(NUM_CLASSES=0, NUM_BLOCKS=2)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.INPUT.FIXED_SIZE = [48, 64]
    return set_solver(cfg, tmp_path)


@pytest.fixture
def classifier_cfg(tmp_path):
    cfg = tiny_classifier_cfg("digits_flow_vit", NUM_CLASSES=0, NUM_BLOCKS=2)
    return set_solver(cfg, tmp_path)


def break_in_iteration(trainer, iteration, change):
    """Calls `change(model)` before the step of an iteration."""
    run_step = trainer._trainer.run_step

    def step():
        if trainer.iter == iteration:
            change(trainer._plain_model)
        run_step()

    trainer._trainer.run_step = step


def end_of_training(cfg, iteration, change):
    """Trains until an error, and returns its message and the weights that are left."""
    trainer = Trainer(cfg)
    break_in_iteration(trainer, iteration, change)
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    message = str(error.value)
    assert "\n" not in message
    return message, trainer._plain_model.state_dict()


def scale_loss(k, factor):
    """Multiplies the gradients of block k, without a change of the losses."""

    def change(model):
        parameter = next(model.flow.blocks[k].parameters())
        parameter.register_hook(lambda gradient: gradient * factor)

    return change


def poison(k):
    """Makes the predictions of block k NaN."""
    return lambda model: next(model.flow.blocks[k].parameters()).data.fill_(float("nan"))


def test_a_prediction_that_is_not_finite_ends_the_training_of_a_detector(detector_cfg, tmp_path):
    message, _ = end_of_training(detector_cfg, 2, poison(0))
    expected = (
        r"iteration 2: matching costs are not finite; block 0; learning rate \S+; images image\d, "
        rf".* and 2 more; last good checkpoint {tmp_path}/model_0000001.pth\. .*"
        rf"--replay {tmp_path}/step_0000002.pth repeats the step"
    )
    assert re.fullmatch(expected, message), message
    assert not (tmp_path / "model_0000003.pth").exists()


@pytest.mark.parametrize("task", ["detector", "classifier"])
def test_a_gradient_that_is_not_finite_ends_the_training(request, tmp_path, task, capsys):
    cfg = request.getfixturevalue(f"{task}_cfg")
    message, weights = end_of_training(cfg, 2, scale_loss(1, float("nan")))
    assert re.match(r"iteration 2: the gradients of flow\.blocks\.1\.\S+ are not fin", message)
    assert "; block 1; learning rate" in message
    # the weights are those before the step
    step = load_step(tmp_path / "step_0000002.pth")
    for name, p in weights.items():
        if isinstance(p, torch.Tensor) and p.is_floating_point() and p.numel() > 1:
            assert p.isfinite().all() and torch.equal(p, step.model[name]), name
    assert all(map(math.isfinite, step.losses.values())) and len(step.batch) == 7
    # also the counter that the forward pass changes, and that selects the blocks of `alternate`
    assert step.model["local.iterations"] == 2 and weights["local.iterations"] == 3
    # without the change, the step is finite and has the same losses, bit for bit
    main(["--replay", str(tmp_path / "step_0000002.pth")])
    output = capsys.readouterr().out
    for name, loss in step.losses.items():
        assert f"{name}: {loss} (in the training {loss})" in output
    assert output.endswith("all losses and gradients are finite now\n")


def test_a_replay_repeats_what_is_not_finite(detector_cfg, tmp_path, capsys):
    end_of_training(detector_cfg, 2, poison(0))
    main(["--replay", str(tmp_path / "step_0000002.pth")])
    output = capsys.readouterr().out
    assert "again: matching costs are not finite" in output


def test_a_loss_that_is_not_finite_ends_the_training_of_a_classifier(
    classifier_cfg, tmp_path, capsys
):
    message, _ = end_of_training(classifier_cfg, 2, poison(1))
    assert re.match(r"iteration 2: loss_\w+ is nan", message), message
    assert "; block 1; learning rate" in message
    main(["--replay", str(tmp_path / "step_0000002.pth")])
    output = capsys.readouterr().out
    assert re.search(r"loss_\w+: nan \(in the training nan\)", output)
    assert "gradient that is not finite: flow.blocks.1." in output


def test_large_finite_gradients_are_no_error():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    check = StepCheck(model, optimizer, "")
    for value, is_error in ((3e38, False), (float("inf"), True)):
        for p in model.parameters():
            p.grad = torch.full_like(p, value)
        check.after_backward()
        if is_error:
            with pytest.raises(NonFiniteError):
                optimizer.step()
        else:
            optimizer.step()


def test_skipped_steps_of_mixed_precision_end_the_training():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    check = StepCheck(model, optimizer, "", amp=True)
    for _ in range(2):
        for _ in range(MAX_SKIPPED_STEPS):
            check.after_backward()
        # the scaler calls it when the gradients are finite
        optimizer.step()
    for _ in range(MAX_SKIPPED_STEPS):
        check.after_backward()
    with pytest.raises(NonFiniteError, match="41 steps in a row are not finite in float16"):
        check.after_backward()


def test_a_batch_survives_its_file(tmp_path):
    instances = Instances((4, 6), gt_boxes=Boxes([[0, 1, 2, 3]]), gt_classes=torch.tensor([1]))
    image = torch.arange(24, dtype=torch.uint8).view(1, 4, 6)
    batch = [{"image": image, "instances": instances, "image_id": "a/b", "height": 4, "x": None}]
    states = generator_states()
    draws = torch.rand(2)
    step = SavedStep({"w": torch.ones(2)}, plain(batch), states, 7, {"loss": 1.5}, "a problem")
    save_step(tmp_path / "step.pth", step)
    loaded = load_step(tmp_path / "step.pth")
    (actual,) = from_plain(loaded.batch)
    assert torch.equal(actual["image"], image) and actual["image_id"] == "a/b"
    assert actual["height"] == 4 and actual["x"] is None
    assert actual["instances"].image_size == (4, 6)
    assert actual["instances"].gt_boxes.tensor.tolist() == [[0, 1, 2, 3]]
    assert actual["instances"].gt_classes.tolist() == [1]
    set_generator_states(loaded.generators)
    assert torch.equal(torch.rand(2), draws)
    assert (loaded.iteration, loaded.losses, loaded.problem) == (7, {"loss": 1.5}, "a problem")


def test_other_files_are_refused(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="is not the file of a training step"):
        load_step(tmp_path / "model.pth")
    with pytest.raises(SystemExit) as end:
        main(["--replay", str(tmp_path / "model.pth")])
    assert "there is no config.yaml in the folder of" in str(end.value)
    step = SavedStep({"w": torch.ones(2)}, [], generator_states(), 0, {}, "")
    with pytest.raises(ValueError, match="does not fit the model of the config"):
        repeat_step(tiny_model(), step)


@pytest.mark.parametrize(
    "name, value",
    [
        ("losses", [1]),
        ("losses", {"loss": "\x1b[2J"}),
        ("problem", [1]),
        ("iteration", "1"),
        ("batch", None),
        ("generators", None),
        ("model", [1]),
    ],
)
def test_a_step_of_another_form_is_one_line(tmp_path, name, value):
    step = SavedStep({"w": torch.ones(2)}, [], generator_states(), 7, {"loss": 1.5}, "a problem")
    save_step(tmp_path / "step.pth", replace(step, **{name: value}))
    with pytest.raises(ValueError, match=str(tmp_path)) as error:
        load_step(tmp_path / "step.pth")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_a_batch_or_state_of_another_form_is_one_line():
    model = tiny_model()
    state, generators = model.state_dict(), generator_states()
    bad = [(plain(batch()), generators | {"python": [3, [1], None]}), (plain(batch()), {})]
    bad += [(plain(batch()), generators | {"python": [3, [2**70] * 625, None]})]
    kind, keys, _, *rest = generators["numpy"]
    bad += [(plain(batch()), generators | {"numpy": [kind, keys, x, *rest]}) for x in (-1, 10**9)]
    bad += [(x, generators) for x in ([], [1], [{"a": 1}], [{"image": torch.zeros(3, 0, 0)}])]
    for images, states in bad:
        with pytest.raises(ValueError, match="does not fit the model of the config: .") as error:
            repeat_step(model, SavedStep(state, images, states, 7, {}, ""))
        assert "\n" not in str(error.value)


def test_a_replay_escapes_control_characters(detector_cfg, tmp_path, capsys):
    end_of_training(detector_cfg, 2, poison(0))
    path = tmp_path / "step_0000002.pth"
    save_step(path, replace(load_step(path), problem="\x1b[2J"))
    main(["--replay", str(path)])
    assert "of the training: \\x1b[2J" in capsys.readouterr().out
