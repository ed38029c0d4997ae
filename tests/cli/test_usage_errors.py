"""Demo and export with options and keys that do not fit: one line and exit status 2."""

import numpy as np
import pytest
from PIL import Image

from flowdet.cli import demo, export
from tests.inference.runs import CLASSIFIER, run_folder

DETECTOR = [
    *("MODEL.SMALL_RESNET.CHANNELS", "[8,8,16]", "MODEL.FLOW_DET.HIDDEN_DIM", "32"),
    *("MODEL.FLOW_DET.FEEDFORWARD_DIM", "64", "MODEL.FLOW_DET.NUM_BLOCKS", "2"),
]
KINDS = {
    "flow": ("digits_flow.yaml", DETECTOR),
    "backprop": ("digits_backprop.yaml", DETECTOR),
    "classifier": ("cls/digits_flow_vit.yaml", CLASSIFIER),
}
# words after those for the model, and a part of the message
BOTH = {
    "unknown key": (["--opts", "MODEL.NOPE", "1"], "unknown config key MODEL.NOPE"),
    "imports": (["--opts", "IMPORTS", "[nope]"], "IMPORTS names a module 'nope'"),
    "value": (["--opts", "MODEL.FLOW_DET.NUM_BLOCKS", "-1"], "MODEL.FLOW_DET.NUM_BLOCKS is -1"),
    "feature maps": (["--opts", "MODEL.FLOW_DET.IN_FEATURES", "[res7]"], "names ['res7']"),
    "heads": (["--opts", "MODEL.FLOW_DET.NUM_HEADS", "7"], "not a multiple of NUM_HEADS = 7"),
    "classes": (["--opts", "MODEL.CLASS_NAMES", "[a,b]"], "MODEL.CLASS_NAMES has 2 names"),
    "steps": (["--mode", "ensemble", "--steps", "3"], "steps is for mode multi_step"),
    "block": (["--mode", "single_step", "--block", "9"], "there is no block 9"),
    "anchors": (["--opts", "MODEL.FLOW_DET.ANCHORED_QUERIES", "False"], "it needs MODEL.FLOW"),
}
DEMO = {
    **{name: ("flow", *case) for name, case in BOTH.items()},
    "no inference modes": ("backprop", ["--mode", "ensemble"], "has no inference modes"),
    "no blocks": ("backprop", ["--disagreement"], "has no independent blocks"),
    "ids": ("flow", ["--opts", "MODEL.CATEGORY_IDS", "[1,2]"], "MODEL.CATEGORY_IDS has 2 ids"),
}
EXPORT = {
    **{name: ("flow", *case) for name, case in BOTH.items()},
    "no NMS": ("classifier", ["--no-nms"], "--no-nms is for detectors"),
    "no average": ("classifier", ["--ema"], "--ema: the run has no averaged weights"),
    "no noise": ("backprop", ["--noise-input"], "has no initial noise"),
    "early exit": ("flow", ["--opts", "MODEL.FLOW_DET.EARLY_EXIT", "0.5"], "EARLY_EXIT is 0.5"),
    "no size": ("flow", ["--opts", "INPUT.FIXED_SIZE", "[0,0]"], "give --size H W"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in KINDS}
    for name, (config, overrides) in KINDS.items():
        run_folder(folders[name], config, overrides)
    return folders


def last_line(command, folder, words, capsys):
    """Runs a command that must end with status 2; returns the last line of its errors."""
    model = ["--config-file", folder / "config.yaml", "--weights", folder / "model_final.pth"]
    with pytest.raises(SystemExit) as end:
        command.main([str(word) for word in (*model, *words)])
    errors = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in errors
    return errors.splitlines()[-1]


@pytest.mark.parametrize("case", DEMO)
def test_demo(runs, tmp_path, capsys, case):
    kind, words, message = DEMO[case]
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    files = ["--input", tmp_path / "a.png", "--output", tmp_path / "out"]
    line = last_line(demo, runs[kind], [*files, *words], capsys)
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("command", [demo, export])
def test_without_weights_the_checkpoint_beside_the_config_is_named(runs, tmp_path, capsys, command):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    own = ["--input", str(tmp_path / "a.png")] if command is demo else ["--size", "32", "32"]
    output = tmp_path / ("out" if command is demo else "out.onnx")
    words = ["--config-file", str(runs["flow"] / "config.yaml"), "--output", str(output), *own]
    with pytest.raises(SystemExit) as end:
        command.main(words)
    line = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and line.startswith("error: no weights are given (--weights), and")
    advice = f"; give --weights {runs['flow'] / 'model_final.pth'}, from the folder of the config"
    assert line.endswith(advice)


def test_the_demo_replaces_no_input(runs, tmp_path, capsys):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    files = ["--input", tmp_path / "a.png", "--output", tmp_path]
    assert "is one of the input images" in last_line(demo, runs["flow"], files, capsys)


@pytest.mark.parametrize("case", EXPORT)
def test_export(runs, tmp_path, capsys, case):
    kind, words, message = EXPORT[case]
    path = tmp_path / "a.onnx"
    line = last_line(export, runs[kind], ["--output", path, *words], capsys)
    assert line.startswith("error: ") and message in line and not path.exists()
