import errno
import json

import pytest
import torch
from matplotlib.figure import Figure

from flowdet.engine import FlowDetCheckpointer, resolve_config
from flowdet.experiments.measurement import check_output_folder, load_run, save_measurement
from tests.detection.tiny import tiny_cfg, tiny_model


def test_output_must_not_be_a_file(tmp_path):
    check_output_folder(tmp_path)
    check_output_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is a file: use a folder as --output"):
        check_output_folder(tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="nothing can be written to .*file/new .Not a directory"):
        check_output_folder(tmp_path / "file" / "new")

    def read_only(dir):
        assert dir == tmp_path
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("flowdet.experiments.measurement.tempfile.TemporaryFile", read_only)
    with pytest.raises(OSError, match="to .*new.a .Read-only file system.: use another folder"):
        check_output_folder(tmp_path / "new" / "a")
    assert not (tmp_path / "new").exists()


def test_load_run(tmp_path, voc_dataset):
    name = voc_dataset({"a": [((1, 2, 20, 30), "dog", 0)]}, name="measured_pets")
    cfg = tiny_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    (tmp_path / "config.yaml").write_text(resolve_config(cfg).dump())
    trained = tiny_model(seed=1)
    FlowDetCheckpointer(trained, str(tmp_path)).save("model_final")
    cfg, model = load_run(tmp_path, None, ["TEST.BATCH_SIZE", "3"])
    assert cfg.TEST.BATCH_SIZE == 3 and not model.training
    for key, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    with pytest.raises(FileNotFoundError, match="config.yaml"):
        load_run(tmp_path / "none", None, [])


def test_save_measurement(tmp_path, capsys):
    rows = [{"metric": "AP50", "mean": 1.0}]
    origin = {"config": "a.yaml", "seeds": (0, 1), "settings": {"SEED": 0}}
    save_measurement(tmp_path, "memory", rows, Figure(), **origin)
    content = json.loads((tmp_path / "memory.json").read_text())
    assert content["rows"] == rows and content["seeds"] == [0, 1]
    assert content["config"] == "a.yaml" and content["settings"] == {"SEED": 0}
    assert sorted(x.suffix for x in tmp_path.iterdir()) == [".json", ".png", ".svg"]
    assert str(tmp_path / "memory.svg") in capsys.readouterr().out
