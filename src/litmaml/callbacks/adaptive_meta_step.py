"""Outer steps as long as the theory allows at the weights that training has come to."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from litmaml.data import TaskDataModule
from litmaml.inner import SGD
from litmaml.inner.rates import is_rate
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.outer_optimizer import RATES
from litmaml.measure.curvature import curvature
from litmaml.measure.estimate import Estimate
from litmaml.measure.hessians import gradient_norms
from litmaml.measure.theory import FALLAH_RATES, outer_smoothness, step_constant
from litmaml.outer import PathGradient
from litmaml.tasks import MetaBatch, Tasks, stacks_of

_OWN = 2**40
"""The number of the first of the callback's own tasks: training does not come so far. Where there are only finitely
many tasks, and numbers go round, they are training's tasks all the same."""


class AdaptiveMetaStep(Callback):
    """Sets the outer rate before every outer step: beta_k = c / L~(w_k), on tasks of its own.

    With L the largest curvature of a task's loss, rho the Lipschitz constant of its Hessian and alpha the inner rate,

        N = 1:  L~(w) = 4 L + 2 rho alpha mean_j |grad f_j(w)|                                     (Fallah et al.)
        N > 1:  L~(w) = q^(2N) L + rho/L (q^(2N-1) - q^(N-1)) q^N mean_j |grad f_j(w)|, q = 1 + alpha L   (Ji et al.)

    (the second for N = 1 too where alpha > 1/L), with the mean over fresh tasks j, whose numbers training never comes
    to. (Of a finite number of tasks, as with ``pool`` or a finite taskset of learn2learn, training sees the same.)
    Such steps never overshoot where L and rho hold: with exact gradients the loss falls at every step. They are short:
    expect many. Fallah, Mokhtari and Ozdaglar 2020 (arXiv 1908.10400); Ji, Yang and Liang 2020 (arXiv 2002.07836v1),
    equations 9 and 10.

    Logs train/outer_rate (beta), train/outer_smoothness (L~), train/smoothness (L) and train/hessian_lipschitz (rho).
    The outer optimizer has to be plain SGD, the inner one SGD without momentum or weight decay.

    Args:
        constant: c; by default for N = 1 1/12 with SecondOrder, 1/18 with FirstOrder and 1/25 with FiniteDifference,
            and 1/100 for all else.
        smoothness: L; by default estimated along the inner paths, which does not see what lies off them.
        hessian_lipschitz: rho; by default estimated likewise.
        tasks: B', the fresh tasks of each step.
        every: Outer steps after which L and rho are estimated anew.

    Raises:
        ValueError: An argument is out of its range, or the optimizers are others than the theory has.
    """

    def __init__(
        self,
        constant: float | None = None,
        smoothness: float | None = None,
        hessian_lipschitz: float | None = None,
        tasks: int = 8,
        every: int = 50,
    ) -> None:
        for name, value in (("constant", constant), ("smoothness", smoothness)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: has to be a positive number or left out, got {value}")
        if hessian_lipschitz is not None and not 0 <= hessian_lipschitz < float("inf"):
            raise ValueError(f"hessian_lipschitz: has to be at least 0 or left out, got {hessian_lipschitz}")
        for name, count in (("tasks", tasks), ("every", every)):
            if count < 1:
                raise ValueError(f"{name}: has to be at least 1, got {count}")
        self.constant, self.smoothness, self.hessian_lipschitz = constant, smoothness, hessian_lipschitz
        self.tasks, self.every = tasks, every
        self._known: tuple[float, float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses what the theory does not cover."""
        learner = _learner(pl_module)
        if not isinstance(getattr(trainer, "datamodule", None), TaskDataModule):
            raise ValueError(
                "AdaptiveMetaStep: takes tasks of its own from a TaskDataModule; fit with one as datamodule"
            )
        for optimizer in trainer.optimizers:
            name = type(optimizer).__name__
            if name != "SGD" or any(group["momentum"] or group["weight_decay"] for group in optimizer.param_groups):
                raise ValueError(
                    f"optimizer: AdaptiveMetaStep is the theory of plain gradient steps, got {name}; set it to "
                    "torch.optim.SGD without momentum or weight decay"
                )
        if trainer.lr_scheduler_configs:
            raise ValueError("lr_scheduler: AdaptiveMetaStep sets the outer rate itself; leave the scheduler out")
        if not isinstance(learner.outer_gradient, PathGradient):
            raise ValueError(
                "outer_gradient: AdaptiveMetaStep is the theory of gradients along the path of the inner steps, got "
                f"{type(learner.outer_gradient).__name__}; use SecondOrder, FirstOrder or FiniteDifference"
            )
        if learner.outer_loss.has_own("step_weights", "task_weights", "along"):
            raise ValueError(
                "outer_loss: AdaptiveMetaStep is the theory of the mean loss after the last inner step, got "
                f"{type(learner.outer_loss).__name__}; use MeanLoss"
            )
        inner = learner.inner_loop.optimizer
        if not isinstance(inner, SGD) or inner.momentum or inner.weight_decay:
            more = ""
            if isinstance(inner, SGD):
                more = " with momentum" if inner.momentum else " with weight decay"
            raise ValueError(
                f"inner_optimizer: AdaptiveMetaStep is the theory of plain inner gradient steps, got "
                f"{type(inner).__name__}{more}; use SGD without momentum or weight decay"
            )
        self._known = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        learner = _learner(pl_module)
        if self._known is None or trainer.global_step % self.every == 0:
            self._known = self._curvature(trainer, learner)
        smoothness, lipschitz = self._known
        tasks = self._fresh(trainer, learner, 0)
        # On the query: samples that nothing else has used.
        norms = [gradient_norms(learner.inner_loop, stack.query) for stack in stacks_of(tasks)]
        norm = float(torch.cat(norms).mean())
        outer = outer_smoothness(smoothness, lipschitz, _rate(learner), learner.inner_steps, norm)
        constant = self.constant or step_constant(learner.outer_gradient, learner.inner_steps)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if group.get("name") != RATES:  # whose rate is rates_lr
                    group["lr"] = constant / outer
        learner.log("train/outer_rate", constant / outer)
        learner.log("train/outer_smoothness", outer)
        learner.log("train/smoothness", smoothness)
        learner.log("train/hessian_lipschitz", lipschitz)

    def _curvature(self, trainer: Trainer, learner: MetaLearner) -> tuple[float, float]:
        """L and rho, given or estimated."""
        smoothness, lipschitz = self.smoothness, self.hessian_lipschitz
        if smoothness is None or lipschitz is None:
            tasks = self._fresh(trainer, learner, 1)
            if not isinstance(tasks, Tasks):
                raise ValueError(
                    f"AdaptiveMetaStep: estimates L and rho of tasks of one size, got {len(tasks)} sizes; give it "
                    "smoothness and hessian_lipschitz"
                )
            found = curvature(learner.inner_loop, tasks, learner.inner_steps)
            smoothness = _told("smoothness", found.smoothness) if smoothness is None else smoothness
            lipschitz = _told("hessian_lipschitz", found.hessian_lipschitz) if lipschitz is None else lipschitz
        if smoothness <= 0:
            raise ValueError(
                "smoothness: estimated as 0, so the loss does not curve; give AdaptiveMetaStep smoothness=L"
            )
        most = FALLAH_RATES.get(type(learner.outer_gradient), 1.0)
        if learner.inner_steps == 1 and _rate(learner) * smoothness > most * 1.000001 and self._known is None:
            rank_zero_warn(
                f"AdaptiveMetaStep: the inner rate {_rate(learner):.3g} is above {most:.3g}/L = "
                f"{most / smoothness:.3g}, up to which the theorem holds; the outer steps may be too long"
            )
        return smoothness, lipschitz

    def _fresh(self, trainer: Trainer, learner: MetaLearner, half: int) -> MetaBatch:
        """Tasks whose numbers neither training nor an earlier step has had, rendered where the learner is.

        Each step has two halves, so that the estimate of L and rho is independent of the gradients."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning gives it the attribute
        first = _OWN + (2 * trainer.global_step + half) * self.tasks
        tasks = data.tasks.sample("train", range(first, first + self.tasks), data.seed)
        tasks = data.transfer_batch_to_device(tasks, learner.device, 0)
        rendered: MetaBatch = data.on_after_batch_transfer(tasks, 0)
        return rendered


def _learner(module: LightningModule) -> MetaLearner:
    if not isinstance(module, MetaLearner):
        raise ValueError(f"AdaptiveMetaStep: needs a MetaLearner, got {type(module).__name__}")
    return module


def _rate(learner: MetaLearner) -> float:
    """alpha; the largest where rates are learnt."""
    optimizer = learner.inner_loop.optimizer
    assert isinstance(optimizer, SGD)
    learnt = [float(rate.detach().max()) for name, rate in learner.inner_loop.learnt.values().items() if is_rate(name)]
    return max(learnt, default=optimizer.lr)


def _told(name: str, estimate: Estimate) -> float:
    if estimate.value is None:
        raise ValueError(f"{name}: cannot be estimated: {estimate.note}; give AdaptiveMetaStep {name}=...")
    return estimate.value
