import re
from pathlib import Path

from detectron2.config import get_cfg

from flowdet.config import add_flowdet_config

ROOT = Path(__file__).parents[1]


def leaves(node, prefix=""):
    """{dotted key: value} of a nested mapping."""
    found = {}
    for name, value in node.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def detectron2_and_ours():
    cfg = get_cfg()
    theirs = leaves(cfg)
    add_flowdet_config(cfg)
    return theirs, leaves(cfg)


def added_keys():
    theirs, all_keys = detectron2_and_ours()
    return sorted(set(all_keys) - set(theirs))


def source():
    files = [*(ROOT / "flowdet").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    lines = [line for f in files for line in f.read_text().splitlines()]
    # defaults and comments name keys without reading them
    return "\n".join(line for line in lines if not re.match(r"\s*(#|node\.[A-Z_]+ = )", line))


def test_every_key_is_read_somewhere():
    text, unread = source(), []
    for key in added_keys():
        section, name = f"cfg.{key}".split(".")[-2:]
        # cfg.SOLVER.OPTIMIZER, flow_cfg.NUM_BLOCKS, node.BLOCK_LAYERS, solver.MAX_EPOCHS
        if not re.search(rf"\b({section}|flow_cfg|node|{section.lower()})\.{name}\b", text):
            unread.append(key)
    assert len(added_keys()) > 30 and unread == []


def test_adding_the_keys_changes_none_of_detectron2():
    theirs, all_keys = detectron2_and_ours()
    assert {key: all_keys[key] for key in theirs} == theirs
