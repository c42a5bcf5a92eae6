"""The LightningModule: any model, meta-trained with any outer gradient."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from litmaml.data.task_checks import check_splits
from litmaml.inner import SGD, InnerOptimizer
from litmaml.inner.batch_norms import Policy, settle
from litmaml.inner.channels_last import to_channels_last
from litmaml.inner.loop import InnerLoop
from litmaml.inner.task_head import HeadStart
from litmaml.learner.baselines import Baselines
from litmaml.learner.checks import check_first_batch, check_loss, check_parts, check_pool, check_settings, check_trainer
from litmaml.learner.compilation import announce_compiling
from litmaml.learner.convolutions import choose_convolutions
from litmaml.learner.evaluation import Evaluation
from litmaml.learner.experience import Experience
from litmaml.learner.head_checks import check_head
from litmaml.learner.late.check import LateCheck
from litmaml.learner.late.learner import LateLearner
from litmaml.learner.memory_format import choose_format
from litmaml.learner.metrics import default_metrics, values_of_all
from litmaml.learner.outer_optimizer import check_rates_lr, groups_of, outer_optimizer, scheduled
from litmaml.learner.outer_step import OuterStep
from litmaml.learner.precision_checks import check_precision
from litmaml.learner.processes import failing_together
from litmaml.learner.residuals import Residuals
from litmaml.learner.trial.model_checks import check_model
from litmaml.outer import OuterGradient, OuterLoss, SecondOrder
from litmaml.outer.given import with_gradient
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.statistics.interval import Interval
from litmaml.statistics.results import Results
from litmaml.tasks import MetaBatch, Tree, numbers_of, select, stacks_of

_PLAIN = (
    *("inner_steps", "test_inner_steps", "batch_norm", "lr_scheduler_interval"),
    *("rates_lr", "tasks_per_chunk", "head", "on_nonfinite", "max_skipped", "baselines"),
)


class MetaLearner(LateLearner):
    """Meta-trains a model: find weights from which N inner steps on a few examples solve a new task.

    Minimises F(theta) = E_task l(theta_N; query), theta_{j+1} = U(theta_j, grad l(theta_j; support)),
    theta_0 = theta (Finn et al. 2017, arXiv 1703.03400), by the gradient that ``outer_gradient`` gives.

    Args:
        model: Any module that maps a batch of inputs to predictions. Inputs that are a dict are given to it by keyword,
            a tuple by position.
        inner_optimizer: U, the update of the fast weights; by default SGD with rate 0.01.
        outer_gradient: How to differentiate through the inner loop; by default SecondOrder, which is exact.
        loss: (predictions, targets) -> scalar mean over a batch; by default cross entropy.
        metrics: Metrics of predictions and targets by name, each of one number; by default accuracy with the cross
            entropies of classes (CrossEntropyLoss, NLLLoss), else none.
        inner_steps: N, the number of inner steps in training.
        test_inner_steps: N in validation and test; by default as in training.
        outer_loss: What is minimised; by default the mean over tasks of the loss after the last inner step.
        experience: Where a task's data come from while it adapts, such as litmaml.rl.Rollouts, a policy's trajectories;
            by default what the data module serves.
        fast_weights: Patterns of the parameters to adapt: ``*`` for all (MAML), ``head.*`` for the head (ANIL); beside
            ``*`` and ``?``, every character stands for itself. A buffer is adapted where it is named in full.
        frozen_weights: Patterns of the parameters that are neither adapted nor trained, such as a pretrained body.
        per_step_weights: Patterns of the parameters that have a row for each inner step instead of being adapted, such
            as ``*norm*`` (MAML++).
        batch_norm: What the batch norms of any model are made to normalise by: batch, the statistics of the batch
            (transductive, as in MAML); frozen, their running statistics as constants, which a pretrained model brings;
            group, group norm in their place, with the same scale and shift. By default as the model has it: layers in
            evaluation are frozen, and such as would share running statistics between tasks are refused.
        output: Which of the model's outputs are the predictions, where it returns a dict, a tuple or an object: a key,
            a place or an attribute, or several of these with dots between, such as "logits".
        head: The name of the layer that gives the logits, where it is not the last one.
        head_start: Where the head starts in each task: learnt, as the outer loop has it; zero; or prototypes, the class
            means of the support's features (ProtoMAML). In the last two the outer loop does not train it, and tasks
            may differ in their number of classes.
        optimizer: Of the outer loop.
        lr_scheduler: Of the outer loop. ReduceLROnPlateau steps after every validation, by ``val/loss`` or the
            ``monitor`` of Lightning's class of that name.
        lr_scheduler_interval: When other schedules step: after every outer step or every epoch.
        rates_lr: The outer rate of what the inner optimizer learns, such as inner rates, where it is to be another than
            the optimizer's: inner rates of 0.01 cannot take steps of 0.001.
        tasks_per_chunk: Tasks adapted together; memory grows with it. By default the whole batch, or what of it a
            GPU's free memory takes; for convolutions on a CPU as many as its cache and a gigabyte take, or one by one
            where those are few. A model that PyTorch cannot compute for several tasks at once needs 1.
        compile: Compile the whole meta-gradient: minutes at first, then faster, most so for small models.
        channels_last: Keep kernels of two-dimensional convolutions in torch's channels-last format, faster on CPUs and
            for half precision or TF32 on GPUs. By default runs on a CPU do, where a model computes the same so.
        on_nonfinite: What a task whose loss or gradient is not finite does: raise stops the run, on every process, and
            names the task; skip leaves it out and counts it. The mean is over the finite tasks of all processes and
            accumulated batches; without any, no step is taken.
        baselines: Whether tests of classifiers score what the features are worth without adaptation, too; see
            ``Baselines``.
        max_skipped: With skip, the outer steps in a row without any finite task after which the run stops.

    Raises:
        ValueError: The model cannot be meta-learnt so: the message names the layer and the remedy.
    """

    looks_at_weights = False

    def __init__(
        self,
        model: nn.Module,
        inner_optimizer: InnerOptimizer | None = None,
        outer_gradient: OuterGradient | None = None,
        loss: nn.Module | None = None,
        metrics: dict[str, Metric] | None = None,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        outer_loss: OuterLoss | None = None,
        experience: Experience | None = None,
        fast_weights: Sequence[str] = ("*",),
        frozen_weights: Sequence[str] = (),
        per_step_weights: Sequence[str] = (),
        batch_norm: Policy | None = None,
        output: str | int | None = None,
        head: str | None = None,
        head_start: HeadStart = "learnt",
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "step",
        rates_lr: float | None = None,
        tasks_per_chunk: int | None = None,
        compile: bool = False,
        channels_last: bool | None = None,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        max_skipped: int = 10,
        baselines: bool = True,
    ) -> None:
        super().__init__()
        counts = {"inner_steps": inner_steps, "test_inner_steps": test_inner_steps, "max_skipped": max_skipped}
        check_settings(counts, on_nonfinite)
        check_parts(model, inner_optimizer, outer_gradient, loss, outer_loss)
        inner_optimizer = inner_optimizer or SGD()
        outer_gradient = outer_gradient or SecondOrder()
        loss = loss or nn.CrossEntropyLoss()
        metrics = default_metrics(loss) if metrics is None else metrics
        self.batch_norm = settle(model, batch_norm)
        check_model(model, outer_gradient)
        check_loss(loss)
        if channels_last:
            to_channels_last(model)
        self.inner_steps, self.test_inner_steps = inner_steps, test_inner_steps
        self.on_nonfinite, self.max_skipped = on_nonfinite, max_skipped
        self.optimizer, self.lr_scheduler, self.lr_scheduler_interval = optimizer, lr_scheduler, lr_scheduler_interval
        self.tasks_per_chunk, self.rates_lr, self.experience = tasks_per_chunk, rates_lr, experience
        self.head, self.channels_last = head, channels_last
        self.outer_gradient, self.outer_loss = outer_gradient, OuterLoss() if outer_loss is None else outer_loss
        self.inner_loop = InnerLoop(
            model,
            loss,
            inner_optimizer,
            fast_weights,
            inner_steps,
            frozen_weights,
            per_step_weights,
            output,
            head,
            head_start,
        )
        check_rates_lr(rates_lr, self.inner_loop)
        self.meta_gradient = MetaGradientOf(
            self.inner_loop, outer_gradient, inner_steps, tasks_per_chunk, compile, outer_loss=self.outer_loss
        )
        self.metrics = nn.ModuleDict(metrics)
        self._evaluation = Evaluation(self.meta_gradient, metrics, tasks_per_chunk)
        self._episodes = self._evaluation.episodes  # which move with the learner's device
        self._baselines = Baselines(self.meta_gradient, metrics, head)
        self._baseline_episodes = self._baselines.episodes
        self.baselines, self.baseline_results = baselines, dict[str, dict[str, Interval]]()
        self.results = Results()
        self.source_results: dict[str, dict[str, list[Interval]]] = {}
        self.skipped_tasks = self.evaluated_tasks = 0
        self._outer_step, self._late = OuterStep(self.inner_loop, self.outer_loss), LateCheck(self)
        self._tried: set[bool] = set()  # by whether the learner was in training
        chosen = {"fast_weights": fast_weights, "frozen_weights": frozen_weights, "per_step_weights": per_step_weights}
        given = {"compile": compile, "channels_last": channels_last, "output": output, "head_start": head_start}
        plain = {name: getattr(self, name) for name in _PLAIN}
        self.record(plain | {name: [*named] for name, named in chosen.items()} | given)

    # Training

    def training_step(self, tasks: MetaBatch, batch_idx: int) -> Tensor:
        with self._late:
            tasks, measured = self._collected(tasks, self.inner_steps, "train")
            self._try(tasks)
            numbers, writes = numbers_of(tasks), self._writes_line()
            self._late.settle(left=0 if writes else 1)  # what is timed is this step alone
            began = time.perf_counter()
            self.meta_gradient.epoch = self.current_epoch  # here, since a run may be resumed in the middle of one
            result = self._late.gradient(tasks, waits=writes)
            count = self._check_finite(numbers, result.finite, "train", result.whole)
            seconds = time.perf_counter() - began  # where it is logged, the check has waited for the device
            loss, gradients = self._outer_step.add(result, numbers, count, self.global_rank)
            kept, bar = None if result.whole else result.finite, self._late.reads_bar
            self.log("train/loss", loss, prog_bar=bar, batch_size=len(numbers))
            self._log_metrics(tasks, result.predictions, kept, prog_bar=bar)
            self._log_measured(measured)
            if writes:
                self.log("train/meta_gradient_seconds", seconds, batch_size=len(numbers))
                self._log_before(tasks)
            return with_gradient(loss, gradients, self.inner_loop.trained())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradient the mean over the finite tasks of the whole step, over all processes; log its norm."""
        any_finite = self._outer_step.finish(self.trainer.accumulate_grad_batches, self.trainer.world_size)
        if any_finite and self._writes_line():
            gradients = [w.grad for w in self.inner_loop.parameters() if w.grad is not None]
            self.log("train/gradient_norm", nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.experience is not None:
            self.experience.end_batch()
        self._outer_step.check(self.max_skipped)
        super().on_train_batch_end(outputs, batch, batch_idx)

    def _log_before(self, tasks: MetaBatch) -> None:
        """Loss and metrics before adaptation, and residuals: more passes, so only when a line is logged."""
        if self.experience is not None:  # its query is of the adapted weights, and what is before it has measured
            return
        predictions, losses = self._evaluation.unadapted(tasks)
        self.log("train/loss_before", losses.mean(), batch_size=len(losses))
        self._log_metrics(tasks, predictions, None, suffix="_before")
        for name, value in self._residuals.look(self.meta_gradient.residuals(tasks)).items():
            self.log(f"train/{name}", value, batch_size=len(losses))

    def _log_metrics(
        self, tasks: MetaBatch, predictions: Tree, kept: Tensor | None, suffix: str = "", prog_bar: bool = False
    ) -> None:
        values, count = values_of_all(self.metrics_by_name, tasks, predictions, kept)
        for name, value in values.items():
            self.log(f"train/{name}{suffix}", value, prog_bar=prog_bar, batch_size=count)

    def configure_optimizers(self) -> Any:
        optimizer = outer_optimizer(self.optimizer, groups_of(self.inner_loop, self.rates_lr))
        if self.experience is not None:
            batches = self.trainer.accumulate_grad_batches
            self.experience.help_step(optimizer, self.inner_loop, self.outer_loss, batches)
        return scheduled(optimizer, self.lr_scheduler, self.lr_scheduler_interval, self.metrics)

    # Checks

    def _try(self, tasks: MetaBatch) -> None:
        """Try the first batch, once in training and once in evaluation: a model may differ between the two."""
        if self.training in self._tried:
            return
        self._tried.add(self.training)
        trainer = self._trainer  # none where the learner is called by itself
        with failing_together(1 if trainer is None else trainer.world_size):
            distribution = getattr(getattr(trainer, "datamodule", None), "tasks", None)
            shares, most = getattr(distribution, "shares_examples", False), getattr(distribution, "most_ways", 0)
            if self.training:
                check_pool(self.outer_loss, distribution)
            first, *_ = stacks = stacks_of(tasks)
            outer_gradient, finite = self.outer_gradient if self.training else None, self.on_nonfinite == "raise"
            taken = (self.metrics_by_name, stacks, shares, finite, self.head, most)
            check_first_batch(self.inner_loop, outer_gradient, *taken)
            if self.head is None:
                check_head(self.inner_loop, first)
            if (seen := self._seen.get(not self.training)) is not None and not shares:
                check_splits(*((stacks, seen) if self.training else (seen, stacks)))
            self._seen[self.training] = select(first, [0])
            if self.training:
                self.check_record()
        choose_convolutions(self, first, trainer)

    def setup(self, stage: str) -> None:
        check_trainer(self.trainer)
        check_precision(self.trainer, self.inner_loop.model, self.outer_gradient, stage)
        if self.channels_last is None:
            choose_format(self.inner_loop, self.trainer, stage)
        if stage == "fit":
            if self.meta_gradient.compile:
                announce_compiling(self.trainer.strategy.root_device)
            self.inner_loop.check_trainable()
            if not self.training:  # after eval(), which Lightning leaves as it is
                super().train()
                self.evaluated = self._evaluated
        self.skipped_tasks, self._late = 0, LateCheck(self)
        self._outer_step = OuterStep(self.inner_loop, self.outer_loss)
        self._residuals = Residuals()
        self._tried.clear()
        self._baselines.look_anew()
        # Random directions follow the tasks: other tasks by --data.seed, other directions.
        data = getattr(self.trainer, "datamodule", None)
        self.meta_gradient.seed = getattr(data, "seed", 0)
        if self.experience is not None:
            source, seed = getattr(data, "tasks", None), self.meta_gradient.seed
            self.experience.connect(self.inner_loop.model, source, seed, self.trainer.world_size)
            self.experience.help_gradient(self.outer_gradient)
        # Lightning does so only after it has restored a checkpoint, whose float64 weights would be rounded.
        self.trainer.strategy.precision_plugin.convert_module(self)
