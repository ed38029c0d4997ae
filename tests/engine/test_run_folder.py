"""The folder of a run: links in it, and two trainings at once."""

import os
import subprocess
import sys

import pytest

from flowdet.engine.run_folder import check_output_folder, locked_folder


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "log.txt", "log.txt.rank1"])
@pytest.mark.parametrize("target", ["../elsewhere", "../nothing", "log.txt", "."])
def test_a_file_that_is_a_link_to_elsewhere_or_no_file(name, target, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "elsewhere").write_text("of somebody else")
    (folder / name).symlink_to(target)
    # log.txt.rank1 is then a link to a file that is not there
    with pytest.raises(OSError, match=f"^{folder}/{name} is (a symbolic link to|no file, but)"):
        check_output_folder(folder)


@pytest.mark.parametrize("name", ["inference", "inference_ema", "eval"])
def test_a_folder_that_is_a_link_to_elsewhere_or_a_file(name, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path)
    with pytest.raises(OSError, match=f"^{folder}/{name} is a symbolic link to {tmp_path}, to"):
        check_output_folder(folder)
    (folder / name).unlink()
    (folder / name).write_text("")
    with pytest.raises(OSError, match=f"^{folder}/{name} is no folder, but the run writes"):
        check_output_folder(folder)


def test_links_inside_of_the_folder_and_to_the_folder_are_used(tmp_path):
    folder = tmp_path / "disk" / "run"
    (folder / "results").mkdir(parents=True)
    (folder / "inference").symlink_to("results")
    (folder / "all.txt").write_text("")
    (folder / "log.txt").symlink_to("all.txt")
    (tmp_path / "output").symlink_to(folder)
    check_output_folder(tmp_path / "output")
    check_output_folder(tmp_path / "none")


pytest.importorskip("fcntl")


def test_a_second_training_in_the_folder_is_refused(tmp_path):
    with locked_folder(tmp_path):
        with pytest.raises(OSError, match=f"^another training writes to OUTPUT_DIR {tmp_path}: w"):
            with locked_folder(tmp_path):
                pass
        # it has not released the lock of the first one
        with pytest.raises(OSError, match="^another training"), locked_folder(tmp_path):
            pass
    with locked_folder(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_process_that_loads_data_does_not_keep_the_lock(tmp_path):
    ready, end = os.pipe(), os.pipe()
    with locked_folder(tmp_path):
        child = os.fork()
        if not child:
            os.write(ready[1], b"x")
            os.read(end[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    with locked_folder(tmp_path):
        pass
    os.write(end[1], b"x")
    os.waitpid(child, 0)


def test_the_lock_of_a_killed_training_is_gone(tmp_path):
    program = (
        "import os, sys, importlib.util as u, types\n"
        "sys.modules['flowdet.engine.metrics_file'] = types.SimpleNamespace(METRICS='')\n"
        "spec = u.spec_from_file_location('run_folder', sys.argv[1])\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "with module.locked_folder(sys.argv[2]): os.kill(os.getpid(), 9)\n"
    )
    path = sys.modules["flowdet.engine.run_folder"].__file__
    subprocess.run([sys.executable, "-c", program, path, str(tmp_path)], check=False)
    with locked_folder(tmp_path):
        pass
