"""The examples of docs/extending.md run as they are printed."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils.events import EventStorage

from flowdet.detection.build import DETECTION_BLOCK_REGISTRY
from flowdet.engine import Trainer, load_config
from flowdet.flow import INFERENCE_MODES, solve
from tests.detection.tiny import record
from tests.flow.toy import DIM, constants

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE, re.S))
COMMANDS = [shlex.split(x.replace("\\\n", "")) for x in re.findall(r"```sh\n(.*?)```", PAGE, re.S)]


@pytest.fixture
def in_folder_of_examples(tmp_path, monkeypatch):
    """Writes the files of the page to the working directory; what they register is removed."""
    registries = [BACKBONE_REGISTRY._obj_map, DETECTION_BLOCK_REGISTRY._obj_map, INFERENCE_MODES]
    before = [dict(registry) for registry in registries]
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


def test_every_example_has_a_command_that_imports_it():
    assert EXAMPLES and len(EXAMPLES) == len(COMMANDS)
    for name, command in zip(EXAMPLES, COMMANDS):
        assert command[command.index("IMPORTS") + 1] == f"['{name}.py']"


@pytest.mark.parametrize("command", COMMANDS, ids=EXAMPLES)
def test_example_trains_and_detects(in_folder_of_examples, command):
    assert command[:2] == ["tools/train_net.py", "--config-file"]
    small = ["MODEL.DEVICE", "cpu", "MODEL.FLOW_DET.HIDDEN_DIM", "32"]
    small += ["MODEL.FLOW_DET.NUM_CLASSES", "3", "MODEL.FLOW_DET.NUM_QUERIES", "5"]
    model = Trainer.build_model(load_config(str(ROOT / command[2]), [*command[3:], *small]))
    inputs = [record(seed=i) for i in range(2)]
    with EventStorage():
        losses = model.train()(inputs)
        sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert any(p.grad.abs().sum() > 0 for p in model.flow.blocks[-1].parameters())
    assert len(model.eval()(inputs)) == 2


def test_the_solver_is_exact_for_a_constant_velocity(in_folder_of_examples):
    exec(EXAMPLES["my_solver"], {})
    z_1 = solve(constants(2.0, 4.0), torch.zeros(1, DIM), None, "heun", num_steps=3).z_1
    torch.testing.assert_close(z_1, torch.full_like(z_1, 3.0))
