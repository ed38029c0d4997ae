"""Commands read their options before torch is loaded; `flowdet.load` loads no drawing library."""

import json
import subprocess
import sys

from tests.cli.conftest import ROOT

HEAVY = ("torch", "detectron2", "numpy", "scipy", "matplotlib", "cv2", "PIL", "sklearn")
DRAWING = ("matplotlib", "pandas", "sklearn", "onnx", "tensorboard")

# runs every command with --help and with a wrong option, where nothing heavy can be imported
OPTIONS = f"""
import contextlib, io, json, runpy, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"{{name}} is loaded before the options are read")

sys.meta_path.insert(0, Refused())
ends = {{}}
for script in sys.argv[1:]:
    for word in ("--help", "--no-such-option"):
        sys.argv = [script, word]
        text = io.StringIO()
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            ends[f"{{script}} {{word}}"] = [end.code, text.getvalue().split()[0]]
        except ImportError as error:
            ends[f"{{script}} {{word}}"] = str(error)
print(json.dumps(ends))
"""

LOAD = f"""
import sys
import flowdet
flowdet.load
flowdet.evaluate
print([name for name in {DRAWING} if name in sys.modules])
"""


def run(code, *words):
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_options_are_read_before_torch_is_loaded():
    tools = sorted(f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py"))
    tools += ["benchmarks/bench.py", "benchmarks/scaling.py", "flowdet_install.py"]
    ends = json.loads(run(OPTIONS, *tools))
    expected = {}
    for tool in tools:
        expected[f"{tool} --help"] = [0, "usage:"]
        expected[f"{tool} --no-such-option"] = [2, "usage:"]
    assert ends == expected


def test_loading_a_model_needs_no_library_for_pictures_and_tables():
    assert run(LOAD) == "[]\n"
