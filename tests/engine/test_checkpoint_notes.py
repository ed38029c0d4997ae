"""The notes in a checkpoint, and `--resume` with other classes."""

import pytest
import torch

from flowdet.engine import (
    FlowDetCheckpointer,
    Trainer,
    WholeModelCheckpointer,
    resolve_config,
)
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.checkpoint_notes import (
    CheckpointNotes,
    check_resumed_classes,
    check_resumed_split,
    read_notes,
    run_notes,
)
from tests.detection.tiny import tiny_cfg, tiny_model
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg

IMAGES = {"a": [((2, 3, 30, 33), "cat", 0)], "b": [((2, 3, 30, 33), "dog", 0)]}


def save_run(folder, class_names, name="model_final", **notes):
    """Saves a checkpoint of a run, with any model."""
    options = {"class_names": class_names, "category_ids": notes.pop("category_ids", [])}
    FlowDetCheckpointer(torch.nn.Linear(2, 2), str(folder), **options).save(name, **notes)
    return folder


def test_notes_of_a_training(tmp_path):
    save_run(tmp_path, ["cat", "dog"], category_ids=[4, "x"], iteration=7)
    expected = CheckpointNotes(["cat", "dog"], [4, "x"], 7, {})
    assert read_notes(tmp_path / "model_final.pth") == expected
    assert run_notes(tmp_path) == expected
    assert newest_checkpoint(tmp_path) == str(tmp_path / "model_final.pth")


@pytest.mark.parametrize("content", [b"", b"text", {"model": {}}, [1, 2], {"datasets": {"a": 1}}])
def test_other_files_have_no_notes(tmp_path, content):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert read_notes(path) == CheckpointNotes()
    assert read_notes(tmp_path / "gone.pth") == read_notes("") == CheckpointNotes()


def test_a_folder_without_a_run_has_no_notes(tmp_path):
    assert newest_checkpoint(tmp_path) == "" and run_notes(tmp_path) == CheckpointNotes()
    check_resumed_classes(tmp_path, ["any"])


OTHER_CLASSES = [["cat"], ["cat", "dog", "owl"], ["dog", "cat"], ["cat", "cow"], []]


@pytest.mark.parametrize("classes", OTHER_CLASSES)
def test_other_classes_cannot_be_resumed(tmp_path, classes):
    save_run(tmp_path, ["cat", "dog"])
    check_resumed_classes(tmp_path, ["cat", "dog"])
    with pytest.raises(ValueError) as error:
        check_resumed_classes(tmp_path, classes)
    message = str(error.value)
    assert message.startswith("--resume cannot change the classes: OUTPUT_DIR ")
    assert "2 classes (cat, dog)" in message and f"({', '.join(classes)})" in message
    assert f"MODEL.WEIGHTS {tmp_path / 'model_final.pth'}" in message
    assert "MODEL.REINIT_CLASSES True" in message and "\n" not in message


def test_the_first_difference_of_long_lists_is_named(tmp_path):
    names = [f"class{i}" for i in range(30)]
    save_run(tmp_path, names)
    with pytest.raises(
        ValueError, match="30 classes .class0.*class 29 is class29 in the run and x"
    ):
        check_resumed_classes(tmp_path, [*names[:-1], "x"])
    with pytest.raises(ValueError, match="class 30 is missing in the run and x in the dataset"):
        check_resumed_classes(tmp_path, [*names, "x"])


def test_an_interrupted_run_has_no_final_model(tmp_path):
    save_run(tmp_path, ["cat"], name="model_0000004")
    with pytest.raises(ValueError, match="MODEL.WEIGHTS .*model_0000004.pth"):
        check_resumed_classes(tmp_path, ["dog"])


def test_classes_of_an_earlier_run_come_from_its_config(tmp_path):
    save_run(tmp_path, [])
    check_resumed_classes(tmp_path, ["any"])
    (tmp_path / "config.yaml").write_text("MODEL:\n  CLASS_NAMES: [cat, dog]\n")
    with pytest.raises(ValueError, match="has a run with 2 classes"):
        check_resumed_classes(tmp_path, ["cat"])
    (tmp_path / "config.yaml").write_text(": : :")
    check_resumed_classes(tmp_path, ["any"])


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("reinit", [False, True])
def test_a_config_with_other_classes_is_not_resolved_for_resuming(
    voc_dataset, tmp_path, count, reinit
):
    """Neither REINIT_CLASSES nor the class count of the run's config.yaml changes the error."""
    save_run(tmp_path, ["cat", "dog"])
    cfg = tiny_cfg(NUM_CLASSES=count)
    cfg.OUTPUT_DIR, cfg.MODEL.REINIT_CLASSES = str(tmp_path), reinit
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    if count:
        cfg.MODEL.CLASS_NAMES = ["cat", "dog"]
    with pytest.raises(ValueError, match="--resume cannot change the classes"):
        resolve_config(cfg.clone(), resume=True)


def test_a_classifier_with_other_classes_is_not_resumed(tmp_path):
    save_run(tmp_path, ["cat", "dog"])
    cfg = tiny_classifier_cfg("digits_flow_vit", NUM_CLASSES=0)
    cfg.OUTPUT_DIR = str(tmp_path)
    with pytest.raises(ValueError, match="run with 2 classes .*dataset has 10"):
        resolve_config(cfg, resume=True)


def test_a_trainer_refuses_to_resume_other_classes(voc_dataset, tmp_path):
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.SOLVER.MAX_EPOCHS = 0
    trainer = Trainer(resolve_config(cfg))
    save_run(tmp_path, ["cat"])
    with pytest.raises(ValueError, match="--resume cannot change the classes"):
        trainer.resume_or_load(resume=True)


def test_the_advice_for_a_whole_model_is_the_config_of_its_training(tmp_path):
    trained = tiny_model(NUM_CLASSES=3)
    FlowDetCheckpointer(trained, str(tmp_path), class_names=["a", "b", "c"]).save("weights")
    path = str(tmp_path / "weights.pth")
    for count, names in ((4, ["a", "b", "c", "d"]), (3, ["a", "c", "b"])):
        checkpointer = WholeModelCheckpointer(tiny_model(NUM_CLASSES=count), class_names=names)
        with pytest.raises(
            ValueError, match="use the config.yaml that its training wrote"
        ) as error:
            checkpointer.load(path)
        assert "REINIT_CLASSES" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("HOLD_OUT", 0.4), ("HOLD_OUT_SEED", 1)])
def test_other_held_out_images_cannot_be_resumed(tmp_path, key, value):
    cfg = tiny_cfg()
    cfg.OUTPUT_DIR = str(save_run(tmp_path, ["cat"]))
    # the run is of an earlier version, or was started with the same values
    check_resumed_split(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    check_resumed_split(cfg)
    cfg.DATASETS[key] = value
    with pytest.raises(ValueError, match=f"DATASETS.{key} is {value}, but the run .* has 0"):
        check_resumed_split(cfg)
