#!/usr/bin/env python
"""Measures AP, number of steps and time of a trained detector with early exit.

    benchmarks/early_exit.py --run output/digits_demo
    benchmarks/early_exit.py --run output/digits_demo --steps 16 --exits 0.01 0.03

With early exit the steps of an image stop once no box that could be reported moves by more than a
share of the image's side. The command evaluates the mode `multi_step` with several values of this
share (MODEL.FLOW_DET.EARLY_EXIT; 0 takes all steps), one image at a time. The time is that of the
integration without the backbone, relative to the time of all steps. `KEY VALUE` pairs override the
config of the run.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors

# isort: split
import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from flowdet.data.detection.loaders import build_test_loader
from flowdet.detection import FlowMatchingDetector
from flowdet.engine import keep_freed_memory
from flowdet.evaluation.detection import build_evaluator
from flowdet.experiments.measurement import load_run
from flowdet.flow import InferencePlan
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import changed_keys, write_results

METRICS = ("AP50", "AP75", "steps", "time_ratio")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="FOLDER", help="output folder of a training")
    add("--weights", help="checkpoint (default: model_final.pth of the run)")
    add("--steps", type=at_least_one, default=8, metavar="N", help="maximum number of steps")
    exits = "values of EARLY_EXIT (default: 0.003 0.01 0.03)"
    add("--exits", nargs="+", type=float, default=[0.003, 0.01, 0.03], metavar="SHARE", help=exits)
    add("--output", type=Path, metavar="FILE", help="JSON file for the results")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, None)


@torch.no_grad()
def measure(cfg: CfgNode, model: FlowMatchingDetector, exits: list[float]) -> dict[float, dict]:
    """Evaluates a detector on `DATASETS.TEST[0]` with each value of EARLY_EXIT.

    Returns:
        For each value of EARLY_EXIT: `AP50` and `AP75` in percent, and the mean `steps` and
        `seconds` of the integration per image.
    """
    name = cfg.DATASETS.TEST[0]
    suffix = "-subset" if cfg.TEST.CLASS_SUBSET else ""
    evaluators = {share: build_evaluator(cfg, name) for share in exits}
    steps, seconds = ({share: [] for share in exits} for _ in range(2))
    for evaluator in evaluators.values():
        evaluator.reset()
    for (x,) in tqdm(build_test_loader(cfg, name), unit="image"):
        tokens, z_0 = model.encode([x]), model.initial_noise(1)
        for share in exits:
            model.settings = replace(model.settings, early_exit=share)
            start = time.perf_counter()
            solution = model.solve(tokens, z_0)
            seconds[share].append(time.perf_counter() - start)
            steps[share] += solution.steps.tolist()
            (detections,) = model.detections(solution.z_1, [x])
            evaluators[share].process([x], [{"instances": detections}])
    results = {}
    for share in exits:
        ap = evaluators[share].evaluate()["bbox"]
        results[share] = {key: ap[f"{key}{suffix}"] for key in ("AP50", "AP75")}
        for key, values in (("steps", steps[share]), ("seconds", seconds[share])):
            results[share][key] = sum(values) / len(values)
    return results


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with user_errors():
        cfg, model = load_run(args.run, args.weights, [*args.opts, "TEST.BATCH_SIZE", "1"])
        if not isinstance(model, FlowMatchingDetector):
            raise ValueError(f"{args.run} is not a run of a FlowMatchingDetector: it has no steps")
        plan = InferencePlan("multi_step", args.steps)
        model.settings = replace(model.settings, plan=plan)
        exits = list(dict.fromkeys([0.0, *args.exits]))
        results = measure(cfg, model, exits)
    for result in results.values():
        result["time_ratio"] = result["seconds"] / results[0.0]["seconds"]
    table = [[share, *(result[key] for key in METRICS)] for share, result in results.items()]
    formats = ("g", *[".2f"] * len(METRICS))
    print(tabulate(table, ["early exit", *METRICS], floatfmt=formats))
    if args.output:
        common = {"method": "flow", "dataset": cfg.DATASETS.TEST[0], "num_steps": args.steps}
        rows = [
            common | {"early_exit": share, "metric": key, "mean": round(result[key], 3)}
            for share, result in results.items()
            for key in METRICS
        ]
        write_results(
            args.output,
            [row | {"std": None, "n": 1} for row in rows],
            command=typed_command(),
            config=str(args.run / "config.yaml"),
            seeds=[cfg.SEED],
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    main()
