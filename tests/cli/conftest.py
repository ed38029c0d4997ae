"""Runs commands as a user types them, in the process of the tests."""

import io
import logging
import os
import runpy
import subprocess
import sys
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_pascal_voc
from detectron2.utils import logger as detectron2_logger

from flowdet.data.classification.datasets import register_classification_datasets
from flowdet.data.detection.builtin import datasets_root, register_digits
from flowdet.data.detection.digits import make_digits
from flowdet.events import warn_of_untrained_blocks

ROOT = Path(__file__).parents[2]
LOGGERS = ("detectron2", "fvcore", "flowdet")


class CommandRunner:
    """Runs scripts of the checkout and restores what they change in the process.

    Call it with the path of a script, relative to the checkout, and the words of its command line.
    It returns the exit status and the output, standard output and error together. An exception
    that a process would print as a traceback is raised.

    Args:
        datasets: the value of DETECTRON2_DATASETS.
    """

    def __init__(self, datasets):
        self.datasets = datasets

    def __call__(self, script, *words):
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output), restored_process():
            os.chdir(ROOT)
            os.environ |= {"DETECTRON2_DATASETS": str(self.datasets), "PYTHONPATH": str(ROOT)}
            register_datasets()
            sys.argv = [str(script), *map(str, words)]
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
                status = 0
            except SystemExit as end:
                status = exit_status(end)
        return status, output.getvalue()


def exit_status(end):
    """The exit status of a process that ends with this SystemExit, whose message is printed."""
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
        return 1
    return end.code or 0


def register_datasets():
    """Registers the built-in datasets again, in the folder that DETECTRON2_DATASETS names now."""
    for name in [x for x in DatasetCatalog if x.startswith("voc_20")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_all_pascal_voc(str(datasets_root()))
    register_digits(datasets_root())
    register_classification_datasets(datasets_root())


@contextmanager
def restored_process():
    """Restores the global state that a command changes.

    It is: working directory, environment, command line, import path, warning filters,
    cudnn's benchmark flag, loggers, messages that are logged once, and datasets.
    """
    folder, environment, argv, path = os.getcwd(), dict(os.environ), sys.argv, list(sys.path)
    benchmark = torch.backends.cudnn.benchmark
    names = set(DatasetCatalog)
    try:
        with warnings.catch_warnings(), fresh_loggers():
            yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.path[:] = argv, path
        torch.backends.cudnn.benchmark = benchmark
        for name in set(DatasetCatalog) - names:
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
        register_datasets()


@contextmanager
def fresh_loggers():
    """Loggers as in a new process; their earlier handlers and counters are restored at the end."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(x.handlers[:], x.level, x.propagate) for x in loggers]
    counters = dict(detectron2_logger._LOG_COUNTER)
    clear_logging_caches()
    for logger in loggers:
        logger.handlers[:] = []
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before):
            for added in logger.handlers:
                # log files alone: other handlers belong to the process or to pytest
                if type(added) is logging.StreamHandler and hasattr(added.stream, "name"):
                    if added.stream not in (sys.__stdout__, sys.__stderr__):
                        added.stream.close()
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        clear_logging_caches()
        detectron2_logger._LOG_COUNTER.update(counters)


def clear_logging_caches():
    """Forgets which loggers have handlers and which messages have been logged."""
    detectron2_logger.setup_logger.cache_clear()
    detectron2_logger._cached_log_stream.cache_clear()
    detectron2_logger._LOG_COUNTER.clear()
    warn_of_untrained_blocks.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A `CommandRunner` with a digits dataset of 8 training and 4 test images."""
    folder = tmp_path_factory.mktemp("commands")
    make_digits(folder / "digits", num_train=8, num_test=4)
    return CommandRunner(folder)


@pytest.fixture
def trainings_in_process(run, monkeypatch):
    """Comparisons train in this process instead of starting one per training."""

    class InProcess:
        def __init__(self, words, stdout, **_):
            assert words[:3] == [sys.executable, "-m", "flowdet.cli.train"]
            self.returncode, output = run("tools/train_net.py", *words[3:])
            stdout.write(output)

        def poll(self):
            return self.returncode

    processes = SimpleNamespace(
        Popen=InProcess, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
    )
    monkeypatch.setattr("flowdet.experiments.comparison.subprocess", processes)
