"""Malicious and broken weight files: no code runs, and every file is one clear line."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import flowdet
from flowdet.engine import FlowDetCheckpointer
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.checkpoint_notes import read_notes
from flowdet.engine.weight_files import (
    last_checkpoint_name,
    read_weight_file,
    write_safetensors,
)
from flowdet.inference.download import fetch
from tests.malicious.weight_files import (
    SLOW,
    Call,
    all_calls,
    operations,
    structures,
    torch_bytes,
    with_pickle,
)

# a state dict without tensors, which no model can use
EMPTY = ("metadata.pkl",)


def outcome(path):
    """The error of a file; None if it can be read."""
    try:
        read_weight_file(path)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("make", [all_calls, operations])
def test_no_code_runs(tmp_path, make):
    files = make(str(tmp_path / "marker"))
    assert len(files) > 30
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        told = outcome(path)
        assert told and "\n" not in told and len(told) < 500, name
        assert str(path) in told, name
        assert not list(tmp_path.glob("marker*")), name
        path.unlink()


def test_these_files_run_code_if_they_are_trusted(tmp_path):
    """Without this, the test above could pass because the files do nothing."""
    marker = tmp_path / "marker"
    for name, content in all_calls(str(marker)).items():
        if name.startswith(("exec-zoo.pkl", "open-protocol0", "os-mkdir-key")):
            pickle.loads(content)
            assert marker.exists(), name
            marker.rmdir() if marker.is_dir() else marker.unlink()


def test_broken_files_are_one_line(tmp_path):
    for name, content in structures().items():
        if name.startswith(SLOW):
            continue
        path = tmp_path / name
        path.write_bytes(content)
        told = outcome(path)
        assert name in EMPTY or (told and str(path) in told), name
        assert not told or ("\n" not in told and len(told) < 400), (name, told)
        # the notes of such a file are empty, or those that the whole file has
        assert read_notes(path).class_names == [], name


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_the_model_zoo(tmp_path, protocol):
    arrays = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "strided": np.arange(12, dtype=np.int64)[::2],
        "empty": np.zeros((0, 3), np.float16),
        "flag": np.array(True),
        "number": np.float32(0.5),
    }
    path = tmp_path / "zoo.pkl"
    content = {"model": arrays, "__author__": "zoo", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol))
    loaded = read_weight_file(path)
    assert {k: loaded[k] for k in ("__author__", "matching_heuristics")} == {
        "__author__": "zoo",
        "matching_heuristics": True,
    }
    assert loaded["model"].keys() == arrays.keys()
    for name, array in arrays.items():
        value = loaded["model"][name]
        assert value.dtype == array.dtype and np.array_equal(value, array), name
        assert value.flags.writeable, name


def test_arrays_of_python_2(tmp_path):
    """Python 2 wrote bytes as texts, and numpy had other module names."""
    data = np.array([1.5, -2.0], np.float32).tobytes()
    content = (
        b"\x80\x02}q\x00U\x03w_aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
        b"q\x03K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<"
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(data)]) + data + b"tbs."
    )
    path = tmp_path / "R-50.pkl"
    path.write_bytes(content)
    loaded = read_weight_file(path)
    assert loaded["__author__"] == "Caffe2"
    assert loaded["model"]["w_a"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(tmp_path, zipped):
    shared = torch.arange(6.0)
    state = {
        "whole": shared,
        "view": shared[1:4],
        "transposed": shared.view(2, 3).t(),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
    }
    extra = {"milestones": {3, 4}, "epoch": 2, "shape": torch.Size([2]), "type": torch.float32}
    path = tmp_path / "weights.pth"
    path.write_bytes(torch_bytes({"model": state, **extra}, zipped))
    loaded = read_weight_file(path)
    assert all(torch.equal(loaded["model"][name], x) for name, x in state.items())
    assert loaded["milestones"] == {3, 4}


def test_state_dict_of_a_module_keeps_its_versions(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    path = tmp_path / "weights.pth"
    torch.save(module.state_dict(), path)
    assert read_weight_file(path)["model"]._metadata["1"] == {"version": 2}


def test_safetensors_with_notes(tmp_path):
    path = tmp_path / "weights.safetensors"
    notes = {"class_names": ["cat"], "iteration": 3}
    save_file({"a": torch.ones(2)}, path, {"flowdet": json.dumps(notes)})
    assert read_weight_file(path)["model"]["a"].tolist() == [1, 1]
    assert read_notes(path).class_names == ["cat"] and read_notes(path).iteration == 3


def test_every_change_of_safetensors_is_found(tmp_path):
    path = tmp_path / "weights.safetensors"
    types = (torch.float32, torch.bfloat16, torch.int64, torch.bool)
    state = {f"x{i}": torch.arange(6).to(kind).reshape(2, 3) for i, kind in enumerate(types)}
    state |= {"scalar": torch.tensor(3), "empty": torch.zeros(0, 2)}
    write_safetensors(path, state, {"class_names": ["cat", "dog"]})
    loaded = read_weight_file(path)
    assert all(torch.equal(loaded["model"][name], x) for name, x in state.items())
    content = path.read_bytes()
    # values, shapes, names of tensors and of classes
    places = [-1, -40, *(content.index(x) for x in (b"[2,3]", b"x3", b"cat", b"dog"))]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=re.escape(f"{path} is not a readable checkpoint")):
            read_weight_file(path)


@pytest.mark.parametrize(
    "name", ["/tmp/x.pkl", "../x.pkl", "a/b.pth", "..", ".", "a\nb", "a\\b.pkl"]
)
def test_last_checkpoint_is_a_file_name(tmp_path, name):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Call(open, str(tmp_path / "marker"), "w")))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("SEED: 1\n")
    (run / "last_checkpoint").write_text(name)
    for find in (newest_checkpoint, last_checkpoint_name, flowdet.load):
        with pytest.raises(ValueError, match="not the name of a file in its folder") as info:
            find(run)
        assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="not the name of a file"):
        FlowDetCheckpointer(torch.nn.Identity(), str(run)).resume_or_load("", resume=True)
    assert not (tmp_path / "marker").exists()


def test_last_checkpoint_of_a_run(tmp_path):
    assert last_checkpoint_name(tmp_path) == ""
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth\n")
    assert last_checkpoint_name(tmp_path) == "model_0000009.pth"
    # after a power failure, unless the file is written with a flush
    (tmp_path / "last_checkpoint").write_text("")
    assert last_checkpoint_name(tmp_path) == ""


def test_pickle_named_by_last_checkpoint_runs_no_code(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Call(open, str(tmp_path / "marker"), "w")))
    (tmp_path / "last_checkpoint").write_text("model.pkl")
    checkpointer = FlowDetCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(ValueError, match="contains Python objects"):
        checkpointer.resume_or_load("", resume=True)
    assert not (tmp_path / "marker").exists()


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(with_pickle(b"\x80\x02}.", b"\0" * 10**7, compression=8))
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match="unpacks to more bytes"):
        read_weight_file(path)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/../../x/model.pth",
        "http://../model.pth",
        "detectron2://../../../x.pkl",
        "https://127.0.0.1:9/a/../x.pth?matching_heuristics=True",
    ],
)
def test_a_url_that_leaves_the_folder_of_downloads_is_refused(url):
    """The downloaded file has the path of the URL, so it could overwrite any file."""
    with pytest.raises(ValueError, match="must not contain the part"):
        FlowDetCheckpointer(torch.nn.Linear(1, 1)).load(url)
    assert read_notes(url).class_names == []
    if url.startswith("http"):
        with pytest.raises(ValueError, match="must not contain the part"):
            fetch(url)


@pytest.mark.parametrize("state", [1, {}, {"state": [], "param_groups": 1}, {"param_groups": [{}]}])
def test_a_training_state_of_another_form_is_one_line(tmp_path, state):
    model = torch.nn.Linear(1, 1)
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict(), "optimizer": state}, path)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpointer = FlowDetCheckpointer(model, optimizer=optimizer)
    with pytest.raises(ValueError, match="does not fit the training|parameter group") as info:
        checkpointer.load(str(path))
    assert "\n" not in str(info.value)
