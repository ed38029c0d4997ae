"""detectron2's trainer with flowdet's loaders, optimizer, hooks, evaluators and checkpoints."""

from __future__ import annotations

import logging
import os
import weakref

from detectron2.config import CfgNode
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
)
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import TensorboardXWriter
from detectron2.utils.logger import setup_logger
from fvcore.nn import parameter_count_table
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flowdet.config.errors import ConfigError
from flowdet.data.workers import worker_errors
from flowdet.engine.atomic_file import full_disk_errors
from flowdet.engine.checkpoint import FlowDetCheckpointer
from flowdet.engine.checkpoint_files import (
    complete_final,
    newest_checkpoint,
)
from flowdet.engine.checkpoint_notes import check_resumed_classes, read_notes
from flowdet.engine.dataset_versions import dataset_versions, warn_of_changed_datasets
from flowdet.engine.distributed import distributed_model, share_buffers
from flowdet.engine.evaluation_hooks import (
    Evaluation,
    WriteAfterEvaluation,
    WriteBeforeCheckpoint,
)
from flowdet.engine.hooks import (
    SeedEveryIteration,
    UpdateAverage,
    average_of,
)
from flowdet.engine.interruption import StopAtInterrupt
from flowdet.engine.logging_hooks import (
    ForgetOldScalars,
    LogCost,
    LogLearningRates,
    LogPreviews,
    MetricPrinter,
)
from flowdet.engine.metrics_file import METRICS, MetricsWriter, cut_metrics
from flowdet.engine.model_builder import build_model
from flowdet.engine.optimizer import build_optimizer
from flowdet.engine.previews import MAX_SAMPLES, draw_previews
from flowdet.engine.progress import LiveLine
from flowdet.engine.resumed_state import fitted_state, settings_of, use_settings
from flowdet.engine.state_form import check_state_form
from flowdet.engine.step_check import NON_FINITE, StepCheck
from flowdet.engine.task_builders import task_of
from flowdet.temporary_file import remove_temporary_files
from flowdet.terminal import LoaderWithBar, log_above_bars, on_terminal


class Trainer(DefaultTrainer):
    """Trains the `MODEL.META_ARCHITECTURE` of a resolved config, in one or more processes."""

    def __init__(self, cfg: CfgNode):
        # not DefaultTrainer's, whose DistributedDataParallel needs GPUs and waits for the gradient
        # of every parameter
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        # the number of iterations that are done
        self._done = 0
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        loop = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = loop(distributed_model(model), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FlowDetCheckpointer(
            self.model,
            cfg.OUTPUT_DIR,
            reinit_classes=cfg.MODEL.REINIT_CLASSES,
            class_names=cfg.MODEL.CLASS_NAMES,
            category_ids=cfg.MODEL.CATEGORY_IDS,
            trainer=weakref.proxy(self),
        )
        self.register_hooks(self.build_hooks())
        # after the moving average is made: a copy of the model copies its hooks as well
        self._check = StepCheck(
            self._plain_model, optimizer, cfg.OUTPUT_DIR, amp=cfg.SOLVER.AMP.ENABLED
        )
        self._trainer.register_hooks([self._check])

    def resume_or_load(self, resume: bool = True) -> None:
        """Like detectron2's method; a resumed run also continues with the next training images.

        Raises:
            ValueError: the resumed run has other classes than the config, or its optimizer has
                other parameters than the model.
        """
        if resume and self.cfg.MODEL.CLASS_NAMES:
            check_resumed_classes(self.cfg.OUTPUT_DIR, self.cfg.MODEL.CLASS_NAMES)
        try:
            super().resume_or_load(resume)
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise ValueError(
                f"--resume: the optimizer's state in {newest_checkpoint(self.cfg.OUTPUT_DIR)} does "
                "not fit the parameters of the model: set the keys of the config as they were, or "
                "start anew in another OUTPUT_DIR with MODEL.WEIGHTS"
            ) from error
        if comm.is_main_process():
            remove_temporary_files(self.cfg.OUTPUT_DIR)
            self.checkpointer.datasets = dataset_versions(self.cfg)
            if self.start_iter > 0:
                notes = read_notes(newest_checkpoint(self.cfg.OUTPUT_DIR))
                warn_of_changed_datasets(notes.datasets, self.checkpointer.datasets)
            if 0 < self.max_iter <= self.start_iter:
                complete_final(self.cfg.OUTPUT_DIR, newest_checkpoint(self.cfg.OUTPUT_DIR))
            if self.start_iter > 0:
                cut_metrics(self.cfg.OUTPUT_DIR, self.start_iter, self.max_iter)
        self._done = self.start_iter
        if self.start_iter > 0:
            self._trainer.reset_data_loader(
                lambda: task_of(self.cfg).build_train_loader(self.cfg, self.start_iter)
            )

    def load_state_dict(self, state_dict):
        own, optimizer = self.state_dict(), self._trainer.optimizer
        check_state_form(state_dict, own)
        settings = settings_of(optimizer)
        super().load_state_dict(fitted_state(state_dict, own))
        use_settings(optimizer, self.scheduler, settings)

    def train(self) -> dict | None:
        """Trains, and returns the results of the last evaluation; None without an evaluation.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM ended the training, see `StopAtInterrupt`.
        """
        try:
            # TensorBoard's file, and those that evaluators write
            with worker_errors(), full_disk_errors(self.cfg.OUTPUT_DIR):
                super().train()
        except OSError as error:
            if self._interruption.interrupted:
                # where processes are not forked, Ctrl-C also ends those that load the data
                raise KeyboardInterrupt from error
            raise
        return getattr(self, "_last_eval_results", None)

    def run_step(self):
        """Trains one iteration.

        Raises:
            FloatingPointError: a prediction, loss or gradient is not finite. The weights are those
                before the iteration, and the step is saved, see `StepCheck`.
        """
        try:
            super().run_step()
        except NON_FINITE as error:
            raise FloatingPointError(self._check.report(error, self.iter)) from error

    def after_train(self):
        # with no iteration left, detectron2 counts one
        self.iter = min(self.iter, max(self.start_iter, self.max_iter))
        if self._done < self.max_iter:
            # detectron2 would also evaluate after an error in the last iteration
            for hook in self._hooks:
                if isinstance(hook, EvalHook):
                    hook._eval_after_train = False
        super().after_train()

    def after_step(self):
        super().after_step()
        self._done = self.iter + 1

    def build_hooks(self):
        cfg, average = self.cfg, self._average()
        if average is not None:
            self.checkpointer.add_checkpointable("ema", average)
        # the first of detectron2's hooks; the others are those below
        timer, rates, precise_statistics, *_ = super().build_hooks()
        hooks = [LiveLine(cfg)] if on_terminal() else []
        hooks += [SeedEveryIteration(cfg.SEED)] if cfg.SEED >= 0 else []
        # before the hooks that save and evaluate it
        hooks += [UpdateAverage(average)] if average is not None else []
        hooks += [timer, rates, ForgetOldScalars(), LogLearningRates()]
        hooks += [LogCost(cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.DEVICE), precise_statistics]
        period = cfg.SOLVER.CHECKPOINT_PERIOD
        # after the hooks that change the state of the training, before those that save and evaluate
        self._interruption = StopAtInterrupt(period)
        hooks.append(self._interruption)
        writers = self.build_writers() if comm.is_main_process() else []
        if writers:
            metrics = next(x for x in writers if isinstance(x, MetricsWriter))
            hooks += [
                WriteBeforeCheckpoint(period, metrics),
                PeriodicCheckpointer(self.checkpointer, period),
            ]

        def run_evaluation() -> dict:
            self._last_eval_results = evaluate(cfg, self.model, average)
            return self._last_eval_results

        # after the checkpoint, which is then there if the evaluation fails
        hooks.append(Evaluation(cfg.TEST.EVAL_PERIOD, run_evaluation, cfg.OUTPUT_DIR))
        hooks += self._previews(average)
        if writers:
            hooks.append(WriteAfterEvaluation(writers, cfg.TEST.EVAL_PERIOD))
        return hooks

    def build_writers(self):
        folder = self.cfg.OUTPUT_DIR
        # the command has created it; a training that starts from Python has not
        os.makedirs(folder, exist_ok=True)
        return [
            MetricPrinter(self.max_iter),
            MetricsWriter(os.path.join(folder, METRICS)),
            TensorboardXWriter(folder),
        ]

    @property
    def _plain_model(self) -> nn.Module:
        """The model without DistributedDataParallel."""
        return getattr(self.model, "module", self.model)

    def _average(self) -> AveragedModel | None:
        decay = self.cfg.SOLVER.EMA_DECAY
        return average_of(self._plain_model, decay) if decay else None

    def _previews(self, average: AveragedModel | None) -> list[HookBase]:
        cfg, model = self.cfg, self._plain_model if average is None else average.module
        if not 0 <= cfg.TEST.SAMPLE_IMAGES <= MAX_SAMPLES:
            raise ConfigError(
                f"TEST.SAMPLE_IMAGES must be from 0 to {MAX_SAMPLES}, got {cfg.TEST.SAMPLE_IMAGES}"
            )
        if not cfg.TEST.SAMPLE_IMAGES:
            return []
        return [LogPreviews(cfg.TEST.EVAL_PERIOD, lambda: draw_previews(cfg, model))]

    @classmethod
    def build_model(cls, cfg):
        """Like detectron2's method.

        Raises:
            ConfigError: keys of the model do not fit each other.
        """
        model = build_model(cfg)
        table = parameter_count_table(model, max_depth=1)
        logging.getLogger(__name__).info("Parameters:\n%s", table)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        return task_of(cfg).build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        loader = task_of(cfg).build_test_loader(cfg, dataset_name)
        return LoaderWithBar(loader, f"evaluate {dataset_name}") if on_terminal() else loader

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Like detectron2's method, but all processes use the buffers that are saved.

        COCO's evaluator writes the detections to OUTPUT_DIR/inference.
        """
        share_buffers(model)
        evaluators = evaluators or _evaluators(cfg, "inference")
        with worker_errors(), log_above_bars():
            return super().test(cfg, model, evaluators)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return task_of(cfg).build_evaluator(cfg, dataset_name, output_folder)


def evaluate(cfg: CfgNode, model: nn.Module, average: AveragedModel | None = None) -> dict:
    """Evaluates a model on `DATASETS.TEST`.

    Args:
        cfg: a resolved config.
        model: the model.
        average: the moving average of its weights, which is also evaluated.

    Returns:
        The metrics by the name of the task. The names for the moving average end in "_ema". With
        several datasets, one such dict per dataset.
    """
    results = Trainer.test(cfg, model)
    if average is None:
        return results
    averaged = Trainer.test(cfg, average.module, _evaluators(cfg, "inference_ema"))
    if len(cfg.DATASETS.TEST) == 1:
        return results | _renamed(averaged)
    return {name: tasks | _renamed(averaged[name]) for name, tasks in results.items()}


def _evaluators(cfg: CfgNode, folder: str) -> list[DatasetEvaluator]:
    """Builds the evaluators of all test datasets, which write their detections to a folder in
    OUTPUT_DIR; of several datasets, to a folder each."""
    names = cfg.DATASETS.TEST
    folders = [
        os.path.join(cfg.OUTPUT_DIR, folder, *([name] if names[1:] else [])) for name in names
    ]
    return [Trainer.build_evaluator(cfg, name, path) for name, path in zip(names, folders)]


def _renamed(tasks: dict[str, dict]) -> dict[str, dict]:
    return {f"{task}_ema": metrics for task, metrics in tasks.items()}
