"""Config files by name."""

import pytest

import flowdet
from flowdet.config.config_files import config_path, configs_folder, list_configs


def test_names_with_and_without_folder_and_suffix_are_the_same_file(tmp_path, monkeypatch):
    # not in the checkout, where configs/paper/digits_flow.yaml is an existing path
    monkeypatch.chdir(tmp_path)
    expected = str(configs_folder() / "paper" / "digits_flow.yaml")
    for name in ("paper/digits_flow", "configs/paper/digits_flow.yaml", expected):
        assert config_path(name) == expected


def test_an_existing_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc_flow_r50").write_text("SEED: 3\n")
    assert config_path("voc_flow_r50") == "voc_flow_r50"


def test_missing_file_lists_similar_names():
    with pytest.raises(FileNotFoundError, match="no config file 'voc_flow_50.yaml'.*voc_flow_r50"):
        config_path("voc_flow_50.yaml")
    with pytest.raises(FileNotFoundError, match=r"flowdet.list_configs\(\) lists all names"):
        config_path("configs/qqqqqqqqqqqq.yaml")


def test_list_has_complete_configs_only():
    names = flowdet.list_configs()
    assert names == list_configs() == sorted(names)
    assert {"voc_flow_r50", "paper/digits_flow", "cls/digits_flow_vit"} <= set(names)
    assert not [x for x in names if "bases" in x or "recipe" in x or "ablations" in x]
    assert all((configs_folder() / f"{name}.yaml").is_file() for name in names)
