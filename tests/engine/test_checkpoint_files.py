"""Checkpoints that are damaged, missing or not written, and the choice of the newest one."""

import errno
import logging
import os
import random
from unittest import mock

import pytest
import torch
from detectron2.utils import logger as detectron2_logger
from torch import nn

from flowdet.engine import FlowDetCheckpointer
from flowdet.engine.checkpoint_files import (
    complete_final,
    damage,
    newest_checkpoint,
    tensor_bytes,
)


def save(folder, name, iteration):
    model = nn.Linear(3, 2)
    FlowDetCheckpointer(model, str(folder)).save(name, iteration=iteration)
    return folder / f"{name}.pth"


@pytest.fixture
def run(tmp_path):
    """A run of 9 iterations with a checkpoint after every third, and the final model."""
    detectron2_logger._LOG_COUNTER.clear()
    for iteration in (2, 5, 8):
        save(tmp_path, f"model_{iteration:07d}", iteration)
    save(tmp_path, "model_final", 8)
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Changes a bit of a weight."""
    content = bytearray(path.read_bytes())
    position = content.index(torch.load(path)["model"]["weight"].numpy().tobytes())
    content[position] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (cut, "is not a readable checkpoint (File is not a zip file)"),
        (flip, "is damaged (the checksum of archive/data/0 differs)"),
        (
            empty,
            "is not a readable checkpoint (the file ends too early): copy or download it again",
        ),
        (delete, "is missing"),
    ],
)
def test_the_newest_undamaged_checkpoint_is_taken_and_named(run, caplog, harm, problem):
    assert newest_checkpoint(run) == str(run / "model_final.pth")
    assert not caplog.records
    harm(run / "model_final.pth")
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(run) == newest_checkpoint(run) == str(run / "model_0000008.pth")
    assert caplog.messages == [
        f"{run}/model_0000008.pth is taken, the newest undamaged checkpoint: "
        f"{run}/model_final.pth {problem}"
    ]
    flip(run / "model_0000008.pth")
    assert newest_checkpoint(run) == str(run / "model_0000005.pth")
    assert f"{run}/model_0000008.pth is damaged" in caplog.messages[-1]
    for path in run.glob("model_*.pth"):
        empty(path)
    with pytest.raises(ValueError, match="no checkpoint that can be read: .* and 1 more. Train"):
        newest_checkpoint(run)


def test_a_stop_between_a_checkpoint_and_its_note_loses_neither(run, caplog):
    # the note still names the checkpoint before, which the run can also continue from
    (run / "last_checkpoint").write_text("model_0000005.pth")
    assert newest_checkpoint(run) == str(run / "model_0000005.pth")
    assert not caplog.records
    # the first checkpoint of a run
    (run / "last_checkpoint").unlink()
    assert newest_checkpoint(run) == str(run / "model_final.pth")
    (run / "model_final.pth").unlink()
    assert newest_checkpoint(run) == str(run / "model_0000008.pth")
    assert caplog.messages == [
        f"{run}/model_0000008.pth is taken, the newest undamaged checkpoint: {run} has no file "
        "last_checkpoint"
    ]


def test_a_folder_without_checkpoints(tmp_path):
    assert newest_checkpoint(tmp_path) == newest_checkpoint(tmp_path / "gone") == ""
    (tmp_path / "last_checkpoint").write_text("")
    assert newest_checkpoint(tmp_path) == ""


def test_a_changed_byte_is_found_or_changes_nothing(tmp_path):
    path = save(tmp_path, "model_final", 8)
    expected, content = torch.load(path), path.read_bytes()
    draw, found = random.Random(0), 0
    for position in draw.sample(range(len(content)), 200):
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        other = tmp_path / f"{position}.pth"
        other.write_bytes(changed)
        found += bool(damage(other))
        if not damage(other):
            loaded = torch.load(other)
            assert loaded["iteration"] == 8
            for name, tensor in expected["model"].items():
                assert torch.equal(loaded["model"][name], tensor), position
    assert 20 < found < 200


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(run, value):
    model, average = nn.Linear(3, 2), nn.Linear(3, 2)
    before = {path: path.read_bytes() for path in run.iterdir()}
    for broken in (model, average):
        broken.bias.data[1] = value
        with pytest.raises(FloatingPointError, match=r"NaN or infinite \(bias\): .* diverged") as e:
            FlowDetCheckpointer(model, str(run), ema=average).save("model_0000011", iteration=11)
        assert str(e.value).endswith(f"The last checkpoint is {run}/model_final.pth")
        broken.bias.data[1] = 0.0
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    FlowDetCheckpointer(model, str(run), ema=average).save("model_0000011", iteration=11)
    assert newest_checkpoint(run) == str(run / "model_0000011.pth")


def test_a_full_disk_leaves_the_earlier_checkpoints(run, monkeypatch):
    before = {path: path.read_bytes() for path in run.iterdir()}
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=error))
    with pytest.raises(OSError) as caught:
        save(run, "model_0000011", 11)
    message = str(caught.value)
    assert message.startswith(f"{run}/model_0000011.pth cannot be written: the disk of {run} is fu")
    assert "the file needs 0.0 MiB, and" in message and "\n" not in message
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_the_final_model_is_written_anew(run, caplog):
    source, final = run / "model_0000008.pth", run / "model_final.pth"
    before = final.read_bytes()
    complete_final(run, source)
    assert final.read_bytes() == before and not caplog.records
    (run / "last_checkpoint").write_text(source.name)
    cut(final)
    complete_final(run, source)
    assert final.read_bytes() == source.read_bytes()
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    assert caplog.messages[0].endswith("(File is not a zip file): it is written again")


def test_the_size_of_nested_tensors():
    content = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.half), (1, "x")], "c": None}
    assert tensor_bytes(content) == 16


def test_loading_a_damaged_file_that_the_user_names_is_a_warning(run, caplog):
    path = run / "model_final.pth"
    FlowDetCheckpointer(nn.Linear(3, 2)).load(str(path))
    # the name of the folder has "damaged" as well
    assert "is damaged" not in caplog.text
    flip(path)
    with caplog.at_level(logging.WARNING):
        FlowDetCheckpointer(nn.Linear(3, 2)).load(str(path))
    assert f"{path} is damaged (the checksum of archive/data/0 differs): its num" in caplog.text
