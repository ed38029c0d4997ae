"""The trainer: detectron2's, with flowdet's loaders, optimizer, evaluators, checkpoints."""

from __future__ import annotations

import logging
import weakref

from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from fvcore.nn import parameter_count_table

from flowdet.data.build import build_test_loader, build_train_loader
from flowdet.detection.evaluation import build_evaluator
from flowdet.engine.checkpoint import FlowDetCheckpointer
from flowdet.engine.hooks import DropIdleGradients, SeedEveryIteration
from flowdet.engine.optimizer import build_optimizer


class Trainer(DefaultTrainer):
    """Trains any detectron2 meta-architecture by a resolved flowdet config."""

    def resume_or_load(self, resume: bool = True) -> None:
        """As detectron2's; a resumed run goes on with the images it would have seen next."""
        super().resume_or_load(resume)
        if self.start_iter > 0:
            self._trainer.reset_data_loader(
                lambda: build_train_loader(self.cfg, start_iter=self.start_iter)
            )

    def train(self) -> dict | None:
        """As detectron2's; returns the last evaluation, if there was one."""
        super().train()
        return getattr(self, "_last_eval_results", None)

    def build_hooks(self):
        # called at the end of DefaultTrainer's __init__, which has made a plain checkpointer
        self.checkpointer = FlowDetCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        hooks = super().build_hooks()
        if self.cfg.SEED >= 0:
            hooks.insert(0, SeedEveryIteration(self.cfg.SEED))
        model = getattr(self.model, "module", self.model)
        alternates = getattr(model, "schedule", "joint") == "alternate"
        if alternates and comm.get_world_size() > 1:
            self._trainer.register_hooks([DropIdleGradients()])
        return hooks

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        table = parameter_count_table(model, max_depth=1)
        logging.getLogger(__name__).info("Parameters:\n%s", table)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return build_evaluator(cfg, dataset_name, output_folder)
