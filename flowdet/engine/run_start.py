"""What a training logs and writes when it starts."""

from __future__ import annotations

import logging
import os

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from flowdet.engine.atomic_file import write_atomically
from flowdet.engine.run_folder import CONFIG


def start_run(cfg: CfgNode, options: object, config_file: str, *, trains: bool) -> None:
    """Like detectron2's `default_setup`, but a full disk leaves the old config.yaml as it is.

    The loggers must be set up, see `open_log_file`.

    Args:
        cfg: the resolved config, which is written to config.yaml in `OUTPUT_DIR`.
        options: the options of the command line, which are logged.
        config_file: path of the config file, which is logged.
        trains: whether the run trains, not only evaluates.

    Raises:
        DiskError: config.yaml cannot be written.
    """
    logger = logging.getLogger(__name__)
    rank = comm.get_rank()
    logger.info("Process %d of %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Options: %s", options)
    with open(config_file, encoding="utf-8") as file:
        logger.info("%s:\n%s", config_file, file.read())
    if comm.is_main_process():
        text = cfg.dump()
        logger.info("Full config:\n%s", text)
        path = os.path.join(cfg.OUTPUT_DIR, CONFIG)
        write_atomically(path, lambda file: file.write(text.encode()))
        logger.info("Full config saved to %s", path)
    # other random numbers in every process
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if trains:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
