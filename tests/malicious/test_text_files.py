"""Malicious XML, JSON and YAML files: each is read, or refused with one clear line."""

import pytest

from flowdet.data.custom import register_custom
from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.clean import write_clean
from flowdet.data.custom.findings import one_line
from flowdet.data.limited_yaml import read_yaml
from flowdet.data.xml_reader import parse_xml
from flowdet.engine.config_reader import ConfigFileError, read_config_file
from flowdet.visualization.ground_truth import ground_truth_sheet
from tests.cases.checks import assert_perfect_detections_have_ap_100
from tests.cases.coco_writer import write_coco
from tests.cases.voc_writer import write_voc
from tests.malicious.names import usable_names
from tests.malicious.outcomes import REFUSED, changed_outcomes, structure_outcomes
from tests.malicious.text_files import aliases, entities, merges


@pytest.mark.parametrize("kind, least", [("xml", 100), ("json", 60), ("yaml", 50), ("config", 60)])
def test_listed_files(tmp_path, kind, least):
    outcomes = list(structure_outcomes(tmp_path / "shapes", kind))
    assert len(outcomes) >= least
    for outcome in outcomes:
        assert outcome.is_clear, outcome
    refused = [outcome for outcome in outcomes if outcome.kind == REFUSED]
    assert len(refused) > len(outcomes) / 4


def test_random_changes(tmp_path):
    for outcome in changed_outcomes(tmp_path / "shapes", range(5)):
        assert outcome.is_clear, outcome


@pytest.mark.parametrize("text", [aliases(30, 10), merges(40), "a: &a [*a]\n", "[" * 60])
def test_yaml_that_stands_for_many_values_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    for read, error in ((read_yaml, ValueError), (read_config_file, ConfigFileError)):
        with pytest.raises(error, match=r"bad.yaml, line \d+: .*the file has"):
            read(str(path))


def test_a_short_alias_is_read(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 1}\n")
    content = read_yaml(path)
    assert content["c"] == {"b": [1, 2]} and content["d"] == {"b": [1, 2], "e": 1}


def test_tags_of_python_name_file_and_line(tmp_path):
    base, path = tmp_path / "base.yaml", tmp_path / "config.yaml"
    base.write_text("VERSION: 2\nSEED: !!python/object/new:os.system ['touch marker']\n")
    path.write_text("_BASE_: base.yaml\n")
    with pytest.raises(ConfigFileError, match=r"base.yaml, line 2: .*os.system") as info:
        read_config_file(str(path))
    assert "\n" not in str(info.value)


def test_a_base_is_a_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("_BASE_: https://example.com/base.yaml\n")
    with pytest.raises(ConfigFileError, match="_BASE_ is the URL .*: download the file"):
        read_config_file(str(path))


def test_bases_that_double_are_refused(tmp_path):
    for i in range(20):
        text = f"_BASE_: [{i + 1}.yaml, {i + 1}.yaml]\n" if i < 19 else "SEED: 1\n"
        (tmp_path / f"{i}.yaml").write_text(text)
    with pytest.raises(ConfigFileError, match="more than 100 bases"):
        read_config_file(str(tmp_path / "0.yaml"))


def test_entities_are_refused_and_the_five_of_xml_are_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(entities(3, 2) + "<annotation>&e1;</annotation>")
    with pytest.raises(ValueError, match=r"a.xml:1: the file has entities of its own"):
        parse_xml(path)
    path.write_text("<!DOCTYPE annotation><annotation>&lt;&amp;&#233;</annotation>")
    assert parse_xml(path).text == "<&é"


@pytest.mark.parametrize("write", [write_coco, write_voc])
def test_class_names_are_only_texts(tmp_path, write):
    """Names become no file outside of the folders that are written, no markup and no formula."""
    names = usable_names()
    content = {
        "train": {"a": [(i, (1, 2, 20, 30)) for i in range(len(names))]},
        "val": {"b": [(i, (3, 4, 30, 20)) for i in range(len(names))]},
    }
    folder = tmp_path / "one" / "two" / "shapes"
    folder.mkdir(parents=True)
    write(folder, content=content, names=names)
    check = check_dataset(folder)
    assert not check.problems and sorted(check.class_names) == sorted(names)
    write_clean(check, folder, tmp_path / "one" / "two" / "clean")
    ground_truth_sheet(check.records, check.class_names, 2)
    register_custom(folder)
    assert_perfect_detections_have_ap_100(folder)
    assert [x.name for x in tmp_path.iterdir()] == ["one"]
    assert [x.name for x in (tmp_path / "one").iterdir()] == ["two"]
    assert sorted(x.name for x in (tmp_path / "one" / "two").iterdir()) == ["clean", "shapes"]


def test_messages_have_no_control_characters():
    text = one_line("class '\x1b[2J\r\n\u202e\udcff' is " + "x" * 3_000_000)
    assert text.isprintable() and len(text) < 1000
    assert text.startswith(r"class '\x1b[2J\r\n\u202e\udcff' is xxx")
    assert "3,000,000 characters" in text
    assert len(one_line("a b " * 10_000)) < 2600
