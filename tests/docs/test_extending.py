"""Runs the examples of docs/extending.md as they are printed."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils.events import EventStorage

from flowdet.detection.build import DETECTION_BLOCK_REGISTRY
from flowdet.engine import Trainer, load_config
from flowdet.flow import INFERENCE_MODES, FlowEnsemble, solve
from tests.detection.tiny import record
from tests.flow.toy import DIM, IdentityTime, TimesBlock, constants

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE, re.S))
COMMANDS = [shlex.split(x.replace("\\\n", "")) for x in re.findall(r"```sh\n(.*?)```", PAGE, re.S)]


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Writes all examples to the working directory; removes afterwards what they register."""
    registries = [BACKBONE_REGISTRY._obj_map, DETECTION_BLOCK_REGISTRY._obj_map, INFERENCE_MODES]
    before = [dict(registry) for registry in registries]
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


def test_every_example_has_a_command():
    assert len(EXAMPLES) == 3
    imports = [command[command.index("IMPORTS") + 1] for command in COMMANDS]
    assert imports == [f"['{name}.py']" for name in EXAMPLES]


@pytest.mark.parametrize("command", COMMANDS, ids=EXAMPLES)
def test_example_trains_and_detects(in_folder, command):
    assert command[:2] == ["tools/train_net.py", "--config-file"]
    small = ["MODEL.DEVICE", "cpu", "MODEL.FLOW_DET.HIDDEN_DIM", "32"]
    small += ["MODEL.FLOW_DET.NUM_CLASSES", "3", "MODEL.FLOW_DET.NUM_QUERIES", "5"]
    small += ["MODEL.FLOW_DET.SCORE_THRESHOLD", "0"]
    model = Trainer.build_model(load_config(str(ROOT / command[2]), [*command[3:], *small]))
    inputs = [record(seed=i) for i in range(2)]
    with EventStorage():
        losses = model.train()(inputs)
        sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert any(p.grad.abs().sum() > 0 for p in model.flow.blocks[-1].parameters())
    results = model.eval()(inputs)
    assert len(results) == 2 and all(len(result["instances"]) for result in results)


def test_heun_is_exact_where_the_velocity_of_each_block_is_constant(in_folder):
    exec(EXAMPLES["my_solver"], {})
    z_1 = solve(constants(2.0, 4.0), torch.zeros(1, DIM), None, "heun", num_steps=3).z_1
    torch.testing.assert_close(z_1, torch.full_like(z_1, 3.0), rtol=0, atol=1e-5)


def test_heun_is_more_exact_than_euler(in_folder):
    exec(EXAMPLES["my_solver"], {})
    ensemble = FlowEnsemble([TimesBlock()], IdentityTime())

    def error(mode):
        # the velocity 3 t^2 leads from 0 to 1
        return (solve(ensemble, torch.zeros(1, DIM), None, mode, num_steps=8).z_1 - 1).abs().max()

    assert error("heun") < error("multi_step") / 3
