"""What tasks that come one after another cost before they are trained on."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from litmaml.data import OnlineTasks, TaskDataModule
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.admitted import short
from litmaml.runs.training_form import cannot_go_on
from litmaml.tasks import MetaBatch


class Regret(Callback):
    """Of a run on ``OnlineTasks``: F_t(w_t), the outer loss of the newest task t at the weights that its round begins
    with, and at the end the regret

        sum_t F_t(w_t) - sum_t F_t(w_T)

    against the last weights w_T, which stand for the best ones in hindsight: against these it is at least as large.
    Where all F_t are strongly convex, it is of order log T for the leader (Finn et al. 2019, arXiv 1902.08438).

    Logs train/online_loss, F_t(w_t), and train/online_mean, its mean over the rounds by now; at the end regret.

    Attributes:
        losses: F_0(w_0), F_1(w_1), ...; they are in the checkpoint.
        regret: After the end.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.regret: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse other data, and rounds that begin in the middle of an outer step."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, MetaLearner) or not isinstance(data, TaskDataModule):
            raise ValueError("Regret: needs a MetaLearner and a TaskDataModule; fit with both")
        if not isinstance(data.tasks, OnlineTasks):
            raise ValueError(
                f"data.tasks: Regret is of OnlineTasks, got {type(data.tasks).__name__}; put it into OnlineTasks, or "
                "leave the callback out"
            )
        if pl_module.outer_loss.has_own("step_weights"):
            raise ValueError(
                "outer_loss: Regret compares one loss before and after, got "
                f"{type(pl_module.outer_loss).__name__}, which may be another in each epoch; use MeanLoss, or "
                "leave the callback out"
            )
        together = data.meta_batch * trainer.world_size * trainer.accumulate_grad_batches
        if data.tasks.every % together:
            raise ValueError(
                "data.tasks.every: a round has to be of whole outer steps, so that its newest task can be looked at "
                f"before, got {data.tasks.every} draws for steps of {together}; give a multiple"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning gives it the attribute
        draws = trainer.global_step * data.meta_batch * trainer.world_size * trainer.accumulate_grad_batches
        if batch_idx % trainer.accumulate_grad_batches or draws % data.tasks.every:
            return
        del self.losses[draws // data.tasks.every :]
        self.losses.append(float(self._losses(trainer, pl_module, range(len(self.losses), len(self.losses) + 1))[0]))
        pl_module.log("train/online_loss", self.losses[-1])
        pl_module.log("train/online_mean", sum(self.losses) / len(self.losses))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        after = self._losses(trainer, pl_module, range(len(self.losses)))
        self.regret = sum(self.losses) - float(after.sum())
        rank_zero_info(f"regret over {len(self.losses)} rounds against the last weights: {self.regret:.4g}")
        for logger in trainer.loggers:
            logger.log_metrics({"train/regret": self.regret}, trainer.global_step)

    def _losses(self, trainer: Trainer, pl_module: LightningModule, rounds: range) -> torch.Tensor:
        """F_t of these tasks at the weights as they are, on every process alike."""
        assert isinstance(pl_module, MetaLearner)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # as above
        tasks = data.tasks.tasks.sample("train", rounds, data.seed)
        tasks = data.transfer_batch_to_device(tasks, pl_module.device, 0)
        rendered: MetaBatch = data.on_after_batch_transfer(tasks, 0)
        return pl_module.meta_gradient(pl_module.inner_loop.by_classes(rendered)).losses

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses) or None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        losses = state_dict["losses"]
        if losses is not None and not (isinstance(losses, list) and all(type(loss) is float for loss in losses)):
            raise cannot_go_on("callbacks.Regret.losses", f"have to be numbers, got {short(losses)}")
        self.losses = losses or []
