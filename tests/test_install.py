"""The installer of detectron2, with a small replacement for the wheel that contains it."""

import base64
import email
import hashlib
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flowdet
import flowdet_install
from flowdet_install import InstallError, Patch, build_wheel

ROOT = Path(__file__).resolve().parents[1]

SOURCES = {
    "LabGym/__init__.py": "",
    "LabGym/gui.py": "from LabGym.detectron2 import config\n",
    "LabGym/detectron2/__init__.py": '__version__ = "0.6"\n',
    "LabGym/detectron2/config.py": (
        "import LabGym.detectron2.engine\n"
        "from LabGym.detectron2 import engine\n"
        'NAME = "LabGym.detectron2.config"\n'
        'OTHER = "LabGym.detectron2x, MyLabGym.detectron2, LabGym"\n'
    ),
    "LabGym/detectron2/engine.py": "SPEED = 1\n",
    "LabGym/detectron2/model_zoo/base.yaml": "NAME: LabGym.detectron2\n",
    "labgym-3.1.2.dist-info/METADATA": "Name: LabGym\n",
}


def make_source(path: Path, year: int = 2024, names: list[str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names or SOURCES:
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), SOURCES[name])
    return path


def build(source: Path, out_dir: Path, patches: tuple[Patch, ...] = ()) -> Path:
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    return build_wheel(source, out_dir, sha256, patches)


def read(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def run_installer(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "flowdet_install.py", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "labgym.whl")


@pytest.fixture
def wheel(source: Path, tmp_path: Path) -> Path:
    return build(source, tmp_path / "built")


# ---- the wheel ----------------------------------------------------------------------------


def test_takes_only_detectron2_and_renames_it(wheel):
    files = read(wheel)
    assert {name for name in files if ".dist-info/" not in name} == {
        "detectron2/__init__.py",
        "detectron2/config.py",
        "detectron2/engine.py",
        "detectron2/model_zoo/base.yaml",
    }
    notice, *lines = files["detectron2/config.py"].decode().splitlines()
    assert notice.startswith("# Changed by flowdet-install-detectron2")
    assert lines == [
        "import detectron2.engine",
        "from detectron2 import engine",
        'NAME = "detectron2.config"',
        'OTHER = "LabGym.detectron2x, MyLabGym.detectron2, LabGym"',
    ]


def test_leaves_other_files_as_they_are(wheel):
    files = read(wheel)
    for name in ("engine.py", "model_zoo/base.yaml"):
        assert files[f"detectron2/{name}"].decode() == SOURCES[f"LabGym/detectron2/{name}"]


def test_record_lists_every_file_with_its_hash(wheel):
    files = read(wheel)
    record_name = f"{flowdet_install.DIST_INFO}/RECORD"
    rows = [line.split(",") for line in files[record_name].decode().splitlines()]
    assert sorted(row[0] for row in rows) == sorted(files)
    assert rows[-1] == [record_name, "", ""]
    for name, digest, size in rows[:-1]:
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).decode()
        assert digest == "sha256=" + expected.rstrip("=")
        assert int(size) == len(files[name])


def test_metadata_describe_the_repack(wheel):
    files = read(wheel)
    info = flowdet_install.DIST_INFO
    metadata = email.message_from_bytes(files[f"{info}/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", "0.6+flowdet.1")
    assert metadata["Summary"].startswith("Unofficial repack")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert tuple(metadata.get_all("Requires-Dist")) == flowdet_install.REQUIRES
    description = metadata.get_payload()
    assert "not an official build" in description
    assert "no compiled operators" in description
    assert flowdet_install.SOURCE_SHA256 in description
    assert b"Apache License" in files[f"{info}/licenses/LICENSE"]
    assert b"Facebook, Inc. and its affiliates" in files[f"{info}/licenses/NOTICE"]
    assert b"Tag: py3-none-any" in files[f"{info}/WHEEL"]


def test_same_content_gives_same_bytes(wheel, tmp_path):
    backwards = make_source(tmp_path / "other.whl", year=2001, names=list(SOURCES)[::-1])
    assert build(backwards, tmp_path / "again").read_bytes() == wheel.read_bytes()
    assert [p.name for p in wheel.parent.iterdir()] == [flowdet_install.WHEEL_NAME]


def test_pip_installs_it(wheel, tmp_path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    code = "import detectron2.config as c; print(c.NAME, c.engine.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["detectron2.config", str(target / "detectron2" / "engine.py")]


# ---- patches ------------------------------------------------------------------------------

FASTER = Patch("detectron2/engine.py", "SPEED = 1", "SPEED = 2", "twice as fast")


def test_patch_is_applied_and_reported(source, tmp_path):
    files = read(build(source, tmp_path / "built", (FASTER,)))
    notice, line = files["detectron2/engine.py"].decode().splitlines()
    assert notice.startswith("# Changed by") and line == "SPEED = 2"
    report = files[f"{flowdet_install.DIST_INFO}/REPACKED.txt"].decode()
    assert "- detectron2/engine.py: twice as fast\n" in report


@pytest.mark.parametrize(
    ("patch", "complaint"),
    [
        (FASTER._replace(old="SPEED = 3"), "occurs 0 times"),
        (FASTER._replace(old="E"), "occurs 2 times"),
        (FASTER._replace(file="detectron2/gone.py"), "detectron2/gone.py: not in the wheel"),
    ],
)
def test_patch_that_does_not_match_builds_nothing(source, tmp_path, patch, complaint):
    with pytest.raises(InstallError, match=complaint):
        build(source, tmp_path / "built", (patch,))
    assert not (tmp_path / "built").exists()


# ---- errors -------------------------------------------------------------------------------


def test_wrong_sha256_is_one_clear_error(source, tmp_path):
    done = run_installer("--from-wheel", source, "--wheel-dir", tmp_path / "built")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    actual = hashlib.sha256(source.read_bytes()).hexdigest()
    for text in (str(source), actual, flowdet_install.SOURCE_SHA256, "run"):
        assert text in done.stderr
    assert not (tmp_path / "built").exists()


def test_missing_and_broken_wheels(tmp_path):
    with pytest.raises(InstallError, match="there is no file"):
        build_wheel(tmp_path / "gone.whl", tmp_path)
    broken = tmp_path / "broken.whl"
    broken.write_text("no zip")
    with pytest.raises(InstallError, match="not a wheel"):
        build(broken, tmp_path)
    foreign = make_source(tmp_path / "foreign.whl", names=["LabGym/__init__.py"])
    with pytest.raises(InstallError, match="does not contain LabGym/detectron2/"):
        build(foreign, tmp_path)


def test_a_failed_download_names_the_alternative(tmp_path):
    done = run_installer(
        "--wheel-dir",
        tmp_path / "built",
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(tmp_path),
        PIP_CONFIG_FILE=os.devnull,
    )
    assert done.returncode == 1
    assert "`pip download` failed" in done.stderr and "--from-wheel FILE" in done.stderr
    assert not (tmp_path / "built").exists()


def test_official_without_git(tmp_path):
    done = run_installer("--force", "--official", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs git, which is not on PATH" in done.stderr


@pytest.mark.parametrize(
    ("absent", "function", "complaint"),
    [
        ("pip", lambda: flowdet_install.pip("install", hint=""), "has no pip. Run .*ensurepip"),
        ("torch", flowdet_install.need_torch, "needs torch, not installed"),
    ],
)
def test_missing_module(monkeypatch, absent, function, complaint):
    find = flowdet_install.importlib.util.find_spec
    monkeypatch.setattr(
        flowdet_install.importlib.util, "find_spec", lambda n: None if n == absent else find(n)
    )
    with pytest.raises(InstallError, match=complaint):
        function()


# ---- installing ---------------------------------------------------------------------------


@pytest.fixture
def pip_calls(monkeypatch) -> list[tuple[str, ...]]:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(flowdet_install, "pip", lambda *arguments, hint: calls.append(arguments))
    return calls


def test_does_nothing_when_detectron2_works(tmp_path):
    for module in flowdet_install.REQUIRED_MODULES:
        folder = tmp_path / module.replace(".", "/")
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text('__version__ = "9.9"\n')
    done = run_installer("--from-wheel", tmp_path / "gone.whl", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"detectron2 9.9 in {tmp_path / 'detectron2'} works: nothing")


def test_bad_wheel_installs_nothing(source, pip_calls, capsys):
    assert flowdet_install.main(["--force", "--from-wheel", str(source)]) == 1
    assert "is not the expected" in capsys.readouterr().err
    assert pip_calls == []


def test_installs_requirements_first_then_detectron2(source, pip_calls, monkeypatch, capsys):
    monkeypatch.setattr(flowdet_install, "build_wheel", lambda source, out: build(source, out))
    answers = iter([(False, "No module named 'detectron2'"), (True, "0.6 in site-packages")])
    monkeypatch.setattr(flowdet_install, "try_import", lambda: next(answers))
    assert flowdet_install.main(["--from-wheel", str(source)]) == 0
    requirements, detectron2 = pip_calls
    assert requirements == ("install", *flowdet_install.REQUIRES)
    assert detectron2[:-1] == ("install", "--no-deps", "--force-reinstall")
    assert Path(detectron2[-1]).name == flowdet_install.WHEEL_NAME
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == "detectron2 0.6 in site-packages is installed and works"


def test_a_failing_import_after_the_installation_is_an_error(
    source, pip_calls, monkeypatch, capsys
):
    monkeypatch.setattr(flowdet_install, "build_wheel", lambda source, out: build(source, out))
    monkeypatch.setattr(flowdet_install, "try_import", lambda: (False, "No module named 'yacs'"))
    assert flowdet_install.main(["--from-wheel", str(source)]) == 1
    assert "cannot be imported: No module named 'yacs'" in capsys.readouterr().err


# ---- flowdet without detectron2 -----------------------------------------------------------


def test_flowdet_without_detectron2_names_the_installer(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.modeling", None)
    with pytest.raises(ImportError, match="^flowdet needs detectron2") as error:
        flowdet.register()
    assert flowdet_install.COMMAND in str(error.value)


@pytest.fixture
def requirements():
    """All requirements of setup.py and of detectron2."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    options = setup.call_args.kwargs
    extras = [x for extra in options["extras_require"].values() for x in extra]
    texts = [*options["install_requires"], *extras, *flowdet_install.REQUIRES]
    return [Requirement(text) for text in texts]


def test_every_requirement_has_a_tested_version(requirements):
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    tested = {canonicalize_name(name): version for name, version in pairs}
    for requirement in requirements:
        assert tested[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_make_versions_tests_the_oldest_torch_that_is_allowed(requirements):
    (oldest,) = {s.version for x in requirements if x.name == "torch" for s in x.specifier}
    assert f"OLDEST_TORCH ?= torch=={oldest}.*\n" in (ROOT / "Makefile").read_text()
