"""Installs detectron2: ``python flowdet_install.py`` or ``flowdet-install-detectron2``.

detectron2 is not on PyPI under its own name. Building it from its repository needs git, a compiler
and a matching CUDA toolkit, but flowdet uses none of the compiled operators. Another package on
PyPI contains a pure-Python copy of detectron2. By default this program repacks that copy as a wheel
named detectron2 and installs it. ``--official`` builds the official source instead.

The program uses only the standard library, because it runs before detectron2 is installed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

COMMAND = "flowdet-install-detectron2"

SOURCE_REQUIREMENT = "labgym==3.1.2"
SOURCE_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
SOURCE_PACKAGE = "LabGym.detectron2"

WHEEL_VERSION = "0.6+flowdet.1"
WHEEL_NAME = f"detectron2-{WHEEL_VERSION}-py3-none-any.whl"
DIST_INFO = f"detectron2-{WHEEL_VERSION}.dist-info"

OFFICIAL_REPOSITORY = "https://github.com/facebookresearch/detectron2"
OFFICIAL_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"

REQUIRES = (
    "Pillow>=7.1",
    "black",
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.2",
    "matplotlib",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "pycocotools>=2.0.2",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)

REQUIRED_MODULES = (
    "detectron2",
    "detectron2.config",
    "detectron2.model_zoo",
    "detectron2.modeling",
    "detectron2.data",
    "detectron2.evaluation",
    "detectron2.engine",
)

CHANGE_NOTICE = f"# Changed by {COMMAND}: see REPACKED.txt in this package's metadata folder.\n"

NOTICE = """\
detectron2
Copyright 2019, Facebook, Inc
Copyright (c) Facebook, Inc. and its affiliates.
"""

SUMMARY = "Unofficial repack of detectron2 0.6 without compiled operators, built by flowdet"

DESCRIPTION = f"""\
This is not an official build of detectron2. `{COMMAND}` built it:

- source: the sub-package `{SOURCE_PACKAGE}` of the PyPI wheel `{SOURCE_REQUIREMENT}`
  (sha256 {SOURCE_SHA256});
- the import prefix `{SOURCE_PACKAGE}` was rewritten to `detectron2`, and the changes listed in
  `REPACKED.txt` were made; every changed file says so in its first line;
- it has no compiled operators (`detectron2._C`): deformable convolution, rotated boxes and the
  fast COCO evaluation are not available.

detectron2 is Copyright (c) Facebook, Inc. and its affiliates, and licensed under the Apache
License 2.0. The original lives at {OFFICIAL_REPOSITORY}.
"""


class InstallError(Exception):
    """An error whose message is shown to the user: what is wrong, where, and what to do."""


class Patch(NamedTuple):
    """A change of a source file: replaces ``old``, which must occur exactly once, by ``new``."""

    file: str
    old: str
    new: str
    why: str


# Each change prevents an error or a warning with current versions of torch and setuptools.
PATCHES = (
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
        "pkg_resources warns on import, and setuptools 81 removed it",
    ),
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        """pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )""",
        """os.path.join(os.path.dirname(__file__), "configs", config_path)""",
        "its config files are located without pkg_resources",
    ),
    Patch(
        "detectron2/modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        "torch.meshgrid warns without indexing and will require it",
    ),
    Patch(
        "detectron2/engine/train_loop.py",
        """            from torch.cuda.amp import GradScaler

            grad_scaler = GradScaler()
""",
        """            grad_scaler = torch.amp.GradScaler("cuda")
""",
        "torch.cuda.amp is deprecated",
    ),
    Patch(
        "detectron2/engine/train_loop.py",
        "        from torch.cuda.amp import autocast\n",
        "",
        "torch.cuda.amp is deprecated",
    ),
    Patch(
        "detectron2/engine/train_loop.py",
        "with autocast(dtype=self.precision):",
        'with torch.amp.autocast("cuda", dtype=self.precision):',
        "torch.cuda.amp is deprecated",
    ),
)


# ---- building the wheel -------------------------------------------------------------------


def check_sha256(path: Path, expected: str) -> None:
    """Raises InstallError if a file has another checksum."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise InstallError(
            f"{path} is not the expected {SOURCE_REQUIREMENT} wheel: its sha256 is {actual}, "
            f"not {expected}. Delete it and run `{COMMAND}` again."
        )


def read_sources(wheel: Path) -> dict[str, bytes]:
    """Reads the copy of detectron2 in ``wheel``; returns file contents by installed path."""
    prefix = SOURCE_PACKAGE.replace(".", "/") + "/"
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.startswith(prefix) and n[-1] != "/"]
            files = {"detectron2/" + n[len(prefix) :]: archive.read(n) for n in names}
    except zipfile.BadZipFile:
        raise InstallError(f"{wheel} is not a wheel (not a zip file). Download it again.") from None
    if "detectron2/__init__.py" not in files:
        raise InstallError(
            f"{wheel} does not contain {prefix}__init__.py. Pass the {SOURCE_REQUIREMENT} wheel."
        )
    return files


def apply_patch(text: str, patch: Patch) -> str:
    """Returns the patched text; raises InstallError unless the old text occurs exactly once."""
    count = text.count(patch.old)
    if count != 1:
        raise InstallError(
            f"cannot patch {patch.file} ({patch.why}): the text to replace occurs {count} times "
            f"instead of once. Use the pinned {SOURCE_REQUIREMENT} wheel."
        )
    return text.replace(patch.old, patch.new)


def convert(files: dict[str, bytes], patches: Sequence[Patch]) -> dict[str, bytes]:
    """Renames the package to detectron2 in every Python file and applies ``patches``."""
    missing = sorted({patch.file for patch in patches} - files.keys())
    if missing:
        raise InstallError(
            f"cannot patch {', '.join(missing)}: not in the wheel. "
            f"Use the pinned {SOURCE_REQUIREMENT} wheel."
        )
    prefix = re.compile(rf"\b{re.escape(SOURCE_PACKAGE)}\b")
    converted = dict(files)
    for name in files:
        if not name.endswith(".py"):
            continue
        original = files[name].decode("utf-8")
        text = prefix.sub("detectron2", original)
        for patch in patches:
            if patch.file == name:
                text = apply_patch(text, patch)
        if text != original:  # the license requires a notice in changed files
            converted[name] = (CHANGE_NOTICE + text).encode("utf-8")
    return converted


def license_text() -> bytes:
    """Returns flowdet's own copy of the Apache License 2.0, from checkout or installed metadata."""
    candidates = [Path(__file__).resolve().parent / "LICENSE"]
    try:
        files = importlib.metadata.files("flowdet") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(f.locate())) for f in files if f.name == "LICENSE"]
    for path in candidates:
        if path.is_file() and b"Apache License" in path.read_bytes():
            return path.read_bytes()
    raise InstallError(
        f"the Apache license, which the wheel must contain, was not found at {candidates[0]}. "
        "Run flowdet_install.py from a flowdet checkout, or install flowdet with pip."
    )


def metadata_files(patches: Sequence[Patch]) -> dict[str, bytes]:
    """Returns the files of the dist-info folder except RECORD."""
    metadata = [
        "Metadata-Version: 2.4",
        "Name: detectron2",
        f"Version: {WHEEL_VERSION}",
        f"Summary: {SUMMARY}",
        f"Project-URL: Official source, {OFFICIAL_REPOSITORY}",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "License-File: NOTICE",
        "Requires-Python: >=3.10",
        *[f"Requires-Dist: {requirement}" for requirement in REQUIRES],
        "Description-Content-Type: text/markdown",
    ]
    wheel = [
        "Wheel-Version: 1.0",
        f"Generator: {COMMAND}",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
    ]
    changes = [f"{SOURCE_PACKAGE} -> detectron2 in every Python file."]
    changes += [f"{patch.file}: {patch.why}" for patch in patches]
    texts = {
        "METADATA": "\n".join(metadata) + "\n\n" + DESCRIPTION,
        "REPACKED.txt": DESCRIPTION + "\nChanges:\n- " + "\n- ".join(changes) + "\n",
        "WHEEL": "\n".join(wheel) + "\n",
        "licenses/NOTICE": NOTICE,
        "top_level.txt": "detectron2\n",
    }
    files = {f"{DIST_INFO}/{name}": text.encode("utf-8") for name, text in texts.items()}
    files[f"{DIST_INFO}/licenses/LICENSE"] = license_text()
    return files


def record(files: dict[str, bytes]) -> bytes:
    """Returns the RECORD file: hash and size of every other file (PEP 376 and 427)."""
    lines = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(files[name])}")
    lines.append(f"{DIST_INFO}/RECORD,,")
    return ("\n".join(lines) + "\n").encode("utf-8")


def write_wheel(files: dict[str, bytes], path: Path) -> None:
    """Writes a wheel; the same contents give the same bytes on every machine."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name in [*sorted(files), f"{DIST_INFO}/RECORD"]:
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system = 3
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, files[name] if name in files else record(files))
        os.replace(partial, path)
    except OSError as error:
        raise InstallError(f"cannot write {path}: {error}. Choose another folder.") from None


def build_wheel(
    source: Path,
    out_dir: Path,
    sha256: str = SOURCE_SHA256,
    patches: Sequence[Patch] = PATCHES,
) -> Path:
    """Repacks the copy of detectron2 in the wheel ``source``; returns the path of the new wheel."""
    if not source.is_file():
        raise InstallError(f"there is no file {source}. Pass the {SOURCE_REQUIREMENT} wheel.")
    check_sha256(source, sha256)
    files = convert(read_sources(source), patches)
    files.update(metadata_files(patches))
    path = out_dir / WHEEL_NAME
    write_wheel(files, path)
    return path


# ---- installing ---------------------------------------------------------------------------


def say(message: str) -> None:
    """Prints a message, flushed so that it appears before the output of pip."""
    print(message, flush=True)


def try_import() -> tuple[bool, str]:
    """Imports detectron2 in a new process.

    Returns:
        (True, version and folder) or (False, error message).
    """
    code = f"import {', '.join(REQUIRED_MODULES)}\n"
    code += "print(detectron2.__version__, 'in', detectron2.__path__[0])"
    # not in the working directory, which may contain a folder detectron2
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=empty, capture_output=True, text=True
        )
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"


def pip(*arguments: str, hint: str) -> None:
    """Runs pip of this Python; raises InstallError, with ``hint``, if it fails."""
    if importlib.util.find_spec("pip") is None:
        raise InstallError(
            f"{sys.executable} has no pip. Run `{sys.executable} -m ensurepip --upgrade` first."
        )
    options = ("--quiet", "--disable-pip-version-check")
    done = subprocess.run([sys.executable, "-m", "pip", *arguments, *options])
    if done.returncode != 0:
        raise InstallError(f"`pip {arguments[0]}` failed: see its output above. {hint}")


def download_source(folder: Path) -> Path:
    say(f"downloading {SOURCE_REQUIREMENT}, which contains a copy of detectron2")
    pip(
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",  # the requirement concerns other parts of that package
        f"--dest={folder}",
        SOURCE_REQUIREMENT,
        hint=(
            f"Without network, fetch the {SOURCE_REQUIREMENT} wheel elsewhere and run "
            f"`{COMMAND} --from-wheel FILE`."
        ),
    )
    return next(folder.glob("*.whl"))


def need_torch() -> None:
    """Raises InstallError if torch or torchvision is not installed."""
    missing = [name for name in ("torch", "torchvision") if importlib.util.find_spec(name) is None]
    if missing:
        raise InstallError(
            f"detectron2 needs {' and '.join(missing)}, not installed for {sys.executable}. "
            f"Run `pip install torch torchvision`, then `{COMMAND}` again."
        )


def install_repacked(from_wheel: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = from_wheel or download_source(Path(folder))
        wheel = build_wheel(source, Path(folder, "built"))
        say(f"installing {wheel.name} and what it requires")
        hint = "detectron2 itself was not changed."
        pip("install", *REQUIRES, hint=hint)
        # the requirements are installed already; this replaces only detectron2
        pip("install", "--no-deps", "--force-reinstall", str(wheel), hint=hint)


def install_official() -> None:
    compiler = os.environ.get("CXX", "cl" if os.name == "nt" else "c++").split()[0]
    for tool in ("git", compiler):
        if shutil.which(tool) is None:
            raise InstallError(
                f"`--official` needs {tool}, which is not on PATH. Install it, or run "
                f"`{COMMAND}` without `--official` (flowdet needs no compiled operators)."
            )
    hint = f"detectron2 itself was not changed; `{COMMAND}` without `--official` needs no compiler."
    say(f"building detectron2 {OFFICIAL_COMMIT} from source, which takes minutes")
    # detectron2's model_zoo imports pkg_resources, which setuptools 81 removed
    pip("install", *REQUIRES, "scipy", "setuptools<81", "wheel", hint=hint)
    pip(
        "install",
        "--no-build-isolation",  # detectron2's setup.py imports torch
        "--no-deps",
        "--force-reinstall",
        f"git+{OFFICIAL_REPOSITORY}@{OFFICIAL_COMMIT}",
        hint=hint,
    )


def install(args: argparse.Namespace) -> None:
    if not args.force:
        works, result = try_import()
        if works:
            say(f"detectron2 {result} works: nothing to do (--force replaces it)")
            return
        say(f"there is no working detectron2 ({result})")
    need_torch()
    if args.official:
        install_official()
    else:
        install_repacked(args.from_wheel)
    works, result = try_import()
    if not works:
        raise InstallError(
            f"detectron2 was installed but cannot be imported: {result}. Run "
            f"`{sys.executable} -c 'import {', '.join(REQUIRED_MODULES)}'` to see where it fails."
        )
    say(f"detectron2 {result} is installed and works")


def build_only(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = args.from_wheel or download_source(Path(folder))
        say(str(build_wheel(source, args.wheel_dir)))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Installs detectron2 for flowdet.")
    parser.add_argument("--force", action="store_true", help="also replace a working detectron2")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--from-wheel",
        type=Path,
        metavar="FILE",
        help=f"use this {SOURCE_REQUIREMENT} wheel instead of downloading it",
    )
    source.add_argument(
        "--official",
        action="store_true",
        help="build the official source with its compiled operators (needs git and a compiler)",
    )
    parser.add_argument(
        "--wheel-dir", type=Path, metavar="DIR", help="only build the wheel, into this folder"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.official and args.wheel_dir:
        parser.error("--wheel-dir builds the repacked wheel: leave out --official")
    try:
        if args.wheel_dir:
            build_only(args)
        else:
            install(args)
    except InstallError as error:
        print(f"{COMMAND}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
