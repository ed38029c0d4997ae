"""Modules in IMPORTS."""

import re
import sys

import pytest

import flowdet
from flowdet.cli import demo
from flowdet.cli.common import command_parser
from flowdet.config.errors import ConfigError
from flowdet.config.user_imports import import_parts, trust_config_files
from flowdet.engine import load_config
from flowdet.experiments.ablation import Study


def test_a_file_is_imported_once(tmp_path, monkeypatch):
    part = tmp_path / "part.py"
    part.write_text("import sys\nsys.parts_imported = getattr(sys, 'parts_imported', 0) + 1\n")
    monkeypatch.chdir(tmp_path)
    import_parts([str(part), "part.py"])
    import_parts(["part.py"])
    assert sys.parts_imported == 1
    del sys.parts_imported


def test_files_of_the_same_name_are_two_modules(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.py").write_text(f"import sys\nsys.part_{folder} = True\n")
    import_parts([str(tmp_path / folder / "part.py") for folder in "ab"])
    assert sys.part_a and sys.part_b
    del sys.part_a, sys.part_b


def test_module_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_own_parts.py").write_text("import my_own_lack\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_parts(["json"])
    with pytest.raises(
        ImportError, match="'my_lost_parts'.*not on Python's path.*or give the path of a .py"
    ):
        import_parts(["my_lost_parts"])
    # another module is missing than the named one
    with pytest.raises(ModuleNotFoundError, match="No module named 'my_own_lack'"):
        import_parts(["my_own_parts"])


def test_file_that_failed_is_imported_again(tmp_path):
    part = tmp_path / "part.py"
    part.write_text("import my_own_lack\n")
    with pytest.raises(ModuleNotFoundError, match="my_own_lack"):
        import_parts([str(part)])
    part.write_text("")
    import_parts([str(part)])
    with pytest.raises(FileNotFoundError, match="IMPORTS names a file 'no.py'"):
        import_parts(["no.py"])


@pytest.fixture
def config(tmp_path):
    """A config that names a module, which creates a file."""
    part, base, path = (tmp_path / name for name in ("part.py", "base.yaml", "config.yaml"))
    part.write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()")
    base.write_text(f"IMPORTS: ['{part}']\n")
    path.write_text("_BASE_: base.yaml\nSEED: 1\n")
    yield path
    trust_config_files(False)


def has_run(config):
    return (config.parent / "marker").exists()


def test_a_config_file_runs_no_code_unless_it_is_trusted(config, capsys):
    message = r"base.yaml: IMPORTS names .*part.py.*--trust-config"
    for load in (load_config, flowdet.get_config, flowdet.load):
        with pytest.raises(ConfigError, match=message):
            load(str(config))
    with pytest.raises(SystemExit, match="^2$"):
        demo.main(["--config-file", str(config), "--input", "no.png", "--output", "x.png"])
    assert re.search(message, capsys.readouterr().err)
    assert not has_run(config)
    assert load_config(str(config), trust_config=True).IMPORTS and has_run(config)


def test_modules_that_are_imported_already_need_no_trust(config):
    load_config(str(config), trust_config=True)
    # the report at the end of a training reads the config of the run
    assert load_config(str(config)).SEED == 1


def test_imports_of_the_command_line_need_no_flag(config):
    part = str(config.parent / "part.py")
    assert load_config(str(config), ["IMPORTS", f"['{part}']"]).IMPORTS == [part]
    assert has_run(config)


def test_the_flag_holds_for_all_files_of_a_command(config):
    parser = command_parser("A command.")
    parser.parse_args(["--trust-config"])
    load_config(str(config))
    assert has_run(config)
    # the next command in the same process
    command_parser("Another command.").parse_args([])
    (config.parent / "base.yaml").write_text("IMPORTS: ['other.py']\n")
    with pytest.raises(ValueError, match="trust-config"):
        load_config(str(config))


def test_a_study_runs_no_code_unless_it_is_trusted(config):
    study = config.parent / "study.yaml"
    text = "config: config.yaml\nbudget: '8:6'\nmodes: [ensemble]\nvariants: {a: {IMPORTS: %s}}\n"
    for value in ("[part.py]", "part.py", "\"['part.py']\""):
        study.write_text(text % value)
        with pytest.raises(
            ValueError, match=r"study.yaml: IMPORTS names .*part.py.*--trust-config"
        ):
            Study.read(study)
    trust_config_files(True)
    assert Study.read(study).variants[0].overrides[0] == "IMPORTS"
