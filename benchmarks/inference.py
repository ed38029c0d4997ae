#!/usr/bin/env python
"""Compares the inference time of the flow detector with that of its backprop baseline.

    benchmarks/inference.py
    benchmarks/inference.py --pairs voc_flow_r18_frozen:voc_backprop_r18_frozen --batch-size 8
    benchmarks/inference.py --output docs/results/inference_ratio.json

The command runs on the CPU with random weights and synthetic images, so it needs neither a dataset
nor a checkpoint. The two detectors of a pair run in turn, and the ratio is computed for each round,
so that a change in the load of the machine affects both. `model` is the whole inference from pixels
to detections. `decoder` is the part after the tokens: all block calls, including the re-runs for
box stability. `KEY VALUE` pairs override every config.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors
from flowdet.engine import keep_freed_memory, load_config

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from flowdet.detection.set_detector import SetDetector
from flowdet.detection.tokens import ImageTokens
from flowdet.detection.transformer_block import TransformerFlowBlock
from flowdet.engine.resolve import resolve_model
from flowdet.experiments.timing import interleaved_seconds
from flowdet.experiments.training_steps import synthetic_batch
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import changed_keys, method_of, write_results

PAIRS = ("digits_flow:digits_backprop", "voc_flow_r18_frozen:voc_backprop_r18_frozen")
WARM_UP_ROUNDS = 3


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pairs", nargs="+", default=PAIRS, metavar="FLOW:BACKPROP", help="names of configs")
    add("--batch-size", type=at_least_one, default=1, metavar="B", help="images per call")
    add("--rounds", type=at_least_one, default=50, help="measurements of each part (default: 50)")
    add("--output", type=Path, metavar="FILE", help="JSON file for the results")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides for every config")
    return parse_with_overrides(parser, argv)


def detector_config(name: str, overrides: Sequence[str]) -> CfgNode:
    """Returns the resolved config of a detector, with random weights and without a feature cache.

    With a cache the backbone would run only once for each image.
    """
    fixed = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.FLOW_DET.FEATURE_CACHE_GIB", "0.0"]
    return resolve_model(load_config(name, [*overrides, *fixed]))


def build_detector(cfg: CfgNode) -> SetDetector:
    """Builds a detector in evaluation mode, with random weights of a fixed seed."""
    torch.manual_seed(0)
    return build_model(cfg).eval()


@torch.no_grad()
def run_decoder(model: SetDetector, tokens: ImageTokens) -> None:
    """Runs the decoder of a detector: all block calls for given tokens."""
    model.stability_factors(model.refine(tokens))


@torch.no_grad()
def count_block_calls(model: SetDetector, tokens: ImageTokens) -> int:
    """Counts the block calls of the decoder."""
    calls = []
    blocks = [module for module in model.modules() if isinstance(module, TransformerFlowBlock)]
    hooks = [block.register_forward_hook(lambda *_: calls.append(1)) for block in blocks]
    run_decoder(model, tokens)
    for hook in hooks:
        hook.remove()
    return len(calls)


def measure_pair(cfgs: dict[str, CfgNode], batch_size: int, rounds: int) -> list[dict]:
    """Measures a flow detector and its baseline; returns rows of a result file.

    Args:
        cfgs: the resolved configs, by `flow` and `backprop`.
        batch_size: images per call.
        rounds: measurements.
    """
    parts: dict[str, dict] = {"model": {}, "decoder": {}}
    rows = []
    common = {"dataset": cfgs["flow"].DATASETS.TEST[0], "batch_size": batch_size}
    common["threads"] = torch.get_num_threads()
    for method, cfg in cfgs.items():
        model, batch = build_detector(cfg), synthetic_batch(cfg, batch_size)
        with torch.no_grad():
            tokens = model.encode(batch)
        parts["model"][method] = partial(model.inference, batch)
        parts["decoder"][method] = partial(run_decoder, model, tokens)
        calls = count_block_calls(model, tokens)
        rows.append({"method": method, "metric": "block_calls", "mean": calls, "std": None, "n": 1})
    for part, runs in parts.items():
        durations = interleaved_seconds(list(runs.values()), rounds, WARM_UP_ROUNDS)
        seconds = dict(zip(runs, durations))
        for method, values in seconds.items():
            milliseconds = [1000 * x / batch_size for x in values]
            rows.append(_row(milliseconds, method, "ms_per_image", part))
        pairs = zip(seconds["flow"], seconds["backprop"], strict=True)
        ratios = [flow / backprop for flow, backprop in pairs]
        rows.append(_row(ratios, "flow", "inference_ratio_to_backprop", part))
    return [row | common for row in rows]


def _row(values: list[float], method: str, metric: str, part: str) -> dict:
    numbers = {
        "mean": round(statistics.fmean(values), 3),
        "std": round(statistics.stdev(values), 3) if len(values) > 1 else None,
        "median": round(statistics.median(values), 3),
        "n": len(values),
    }
    return {"method": method, "metric": metric, "part": part, **numbers}


def print_table(rows: list[dict]) -> None:
    """Prints one line per result row."""
    keys = ("dataset", "method", "metric", "part", "mean", "std", "median", "n")
    print(tabulate([[row.get(key, "") for key in keys] for row in rows], keys))


def split_pair(pair: str) -> dict[str, str]:
    """Splits `FLOW:BACKPROP` into config names, by method.

    Raises:
        ValueError: the text is not two names with a colon between them.
    """
    names = pair.split(":")
    if len(names) != 2 or not all(names):
        raise ValueError(f"--pairs takes FLOW:BACKPROP, two names of configs, got {pair!r}")
    return dict(zip(("flow", "backprop"), names))


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with user_errors():
        pairs = [split_pair(pair) for pair in args.pairs]
        configs = [
            {method: detector_config(name, args.opts) for method, name in pair.items()}
            for pair in pairs
        ]
        for cfgs, pair in zip(configs, pairs):
            for method, cfg in cfgs.items():
                if not method_of(cfg).startswith(method):
                    raise ValueError(f"--pairs: {pair[method]} is not a {method} detector")
    rows = [row for cfgs in configs for row in measure_pair(cfgs, args.batch_size, args.rounds)]
    print_table(rows)
    if args.output:
        write_results(
            args.output,
            rows,
            command=typed_command(),
            config=", ".join(name for pair in pairs for name in pair.values()),
            seeds=[0],
            settings={
                name: changed_keys(cfg)
                for cfgs, pair in zip(configs, pairs)
                for name, cfg in zip(pair.values(), cfgs.values())
            },
        )


if __name__ == "__main__":
    main()
