"""The LightningModule: any model, meta-trained with any outer gradient."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric
from torchmetrics.aggregation import CatMetric

from litmaml.data.task_checks import check_splits
from litmaml.inner import SGD, InnerOptimizer
from litmaml.inner.divergence import diverges
from litmaml.inner.layers import normalisation_policy
from litmaml.inner.loop import InnerLoop
from litmaml.inner.model_call import Output
from litmaml.learner.checks import check_labels, check_loss, check_tasks, check_trainer
from litmaml.learner.finite_tasks import Count, OuterStep, count_finite, of_all_processes
from litmaml.learner.metrics import check_metrics, default_metrics, value_of, values_of
from litmaml.learner.monitored import metric_of, no_such_metric
from litmaml.learner.precision_checks import check_precision
from litmaml.learner.processes import failing_together
from litmaml.learner.recipe import arguments_of, recipe_of, warn_not_rebuilt
from litmaml.learner.round_trip import not_in_checkpoints, not_made_again, others_of
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.model_checks import check_model
from litmaml.learner.trial.modes import in_evaluation, put
from litmaml.outer import OuterGradient, OuterLoss, SecondOrder
from litmaml.outer.hand_over import hand_over
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.runs.checkpoint import FORMAT, FORMAT_KEY, check_form, read_checkpoint
from litmaml.runs.weights_record import (
    WEIGHTS_KEY,
    check_kinds,
    check_ties,
    check_weights,
    evaluated_parts,
    other_modes,
    record_of,
    restore,
)
from litmaml.shown import first_line, one_line
from litmaml.statistics.interval import Interval, curve
from litmaml.tasks import MetaBatch, Tasks, Tree, chunks, form, numbers_of, select, stacks_of, tree_map
from litmaml.weights import Params

_PLAIN = ("inner_steps", "test_inner_steps", "lr_scheduler_interval", "tasks_per_chunk", "on_nonfinite", "max_skipped")
_NEVER = 2**62


class MetaLearner(LightningModule):
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
        fast_weights: Patterns of the parameters to adapt: "*" for all (MAML), "head.*" for the head (ANIL); beside
            ``*`` and ``?``, every character stands for itself. A buffer is adapted where it is named in full.
        frozen_weights: Patterns of the parameters that are neither adapted nor trained, such as a pretrained body.
        per_step_weights: Patterns of the parameters that have a row for each inner step instead of being adapted, such
            as "*norm*" (MAML++).
        output: Which of the model's outputs are the predictions, where it returns a dict, a tuple or an object: a key,
            a place or an attribute, or several of these with dots between, such as "logits".
        optimizer: Of the outer loop.
        lr_scheduler: Of the outer loop. ReduceLROnPlateau steps after every validation, by ``val/loss`` or the
            ``monitor`` of Lightning's class of that name.
        lr_scheduler_interval: When other schedules step: after every outer step or every epoch.
        tasks_per_chunk: Tasks adapted together; memory grows with it. By default the whole batch; for convolutions on
            a CPU as many as its cache and a gigabyte take, or one by one where those are few. A model that PyTorch
            cannot compute for several tasks at once needs 1.
        compile: Compile the whole meta-gradient: minutes at first, then faster, most so for small models.
        channels_last: Keep the kernels of two-dimensional convolutions in torch's channels-last format, which is
            faster on CPUs and for half precision or TF32 on GPUs.
        on_nonfinite: What a task whose loss or gradient is not finite does: raise stops the run, on every process, and
            names the task; skip leaves it out and counts it. The mean is over the finite tasks of all processes and
            accumulated batches; without any, no step is taken.
        max_skipped: With skip, the outer steps in a row without any finite task after which the run stops.

    Raises:
        ValueError: The model cannot be meta-learnt so: the message names the layer and the remedy.
    """

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
        fast_weights: Sequence[str] = ("*",),
        frozen_weights: Sequence[str] = (),
        per_step_weights: Sequence[str] = (),
        output: str | int | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "step",
        tasks_per_chunk: int | None = None,
        compile: bool = False,
        channels_last: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        max_skipped: int = 10,
    ) -> None:
        super().__init__()
        counts = {"inner_steps": inner_steps, "test_inner_steps": test_inner_steps, "max_skipped": max_skipped}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}: has to be at least 1, got {value}")
        if on_nonfinite not in ("raise", "skip"):
            raise ValueError(f"on_nonfinite: got {on_nonfinite!r}; one of raise, skip")
        inner_optimizer = inner_optimizer or SGD()
        outer_gradient = outer_gradient or SecondOrder()
        loss = loss or nn.CrossEntropyLoss()
        metrics = default_metrics(loss) if metrics is None else metrics
        check_model(model, outer_gradient)
        check_loss(loss)
        if channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which leaves it out
        self.inner_steps, self.test_inner_steps = inner_steps, test_inner_steps
        self.on_nonfinite, self.max_skipped = on_nonfinite, max_skipped
        self.optimizer, self.lr_scheduler, self.lr_scheduler_interval = optimizer, lr_scheduler, lr_scheduler_interval
        self.tasks_per_chunk = tasks_per_chunk
        self.outer_gradient, self.outer_loss = outer_gradient, OuterLoss() if outer_loss is None else outer_loss
        self.inner_loop = InnerLoop(
            model, loss, inner_optimizer, fast_weights, inner_steps, frozen_weights, per_step_weights, output
        )
        self.meta_gradient = MetaGradientOf(
            self.inner_loop, outer_gradient, inner_steps, tasks_per_chunk, compile, outer_loss=self.outer_loss
        )
        self.metrics = nn.ModuleDict(metrics)
        self.results: dict[str, list[Interval]] = {}
        # The values of every task (tasks, N + 1), by metric, until the end of an evaluation.
        self._episodes = nn.ModuleDict({name: CatMetric(nan_strategy="disable") for name in ("loss", *metrics)})
        self.skipped_tasks = self.evaluated_tasks = 0
        self._outer_step, self._steps_without = OuterStep(), 0
        self._losses: list[tuple[Tensor, Tensor]] = []  # of the finite tasks of an outer step, with their numbers
        self._tried: set[bool] = set()  # by whether the learner was in training
        self._seen: Tasks | None = None  # a task that the record is compared on
        self._recorded: dict[str, Any] | None = None  # what the record was found to make again
        self._evaluated = in_evaluation(self.inner_loop)
        patterns = {
            "fast_weights": fast_weights,
            "frozen_weights": frozen_weights,
            "per_step_weights": per_step_weights,
        }
        self._save_recipe(patterns, compile, channels_last, output)

    # Training

    def train(self, mode: bool = True) -> MetaLearner:
        if self.training and not mode:
            self._evaluated = in_evaluation(self.inner_loop)
        return super().train(mode)

    @property
    def evaluated(self) -> list[str]:
        """The parts of the inner loop that are in evaluation while it trains, such as frozen batch norms."""
        return in_evaluation(self.inner_loop) if self.training else self._evaluated

    @evaluated.setter
    def evaluated(self, names: Sequence[str]) -> None:
        self._evaluated = [*names]
        if self.training:
            put(self.inner_loop, names)

    def training_step(self, tasks: MetaBatch, batch_idx: int) -> Tensor:
        self._try(tasks)
        numbers = numbers_of(tasks)
        began = time.perf_counter()
        result = self.meta_gradient(tasks)
        count = self._check_finite(numbers, result.finite, "train")
        seconds = time.perf_counter() - began  # the check has waited for the device
        kept = result.finite
        share = self._outer_step.share(count, self.global_rank)
        loss = result.loss if share else torch.full_like(result.loss, torch.nan)  # of no task at all
        self.log("train/loss", loss, prog_bar=True, batch_size=len(numbers))
        self._log_metrics("train", tasks, result.predictions, kept, prog_bar=True)
        if self._writes_line():
            self.log("train/meta_gradient_seconds", seconds, batch_size=len(numbers))
            self._log_before(tasks)
        weights: Params = {n: w for n, w in self.inner_loop.named_parameters() if w.requires_grad}
        gradients = result.gradients
        if type(self.outer_loss).update is not OuterLoss.update:
            self._losses.append((numbers[kept], result.losses[kept]))
        if share != 1:
            gradients = {name: share * gradient for name, gradient in gradients.items()}
        return hand_over(loss, gradients, weights)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradient the mean over the finite tasks of the whole step, over all processes; log its norm."""
        if self._losses:
            numbers, losses = (torch.cat(parts) for parts in zip(*self._losses, strict=True))
            self._losses = []
            self.outer_loss.update(*(of_all_processes(part, self.trainer.world_size) for part in (numbers, losses)))
        correction = self._outer_step.correction(self.trainer.accumulate_grad_batches)
        if correction is None:
            self._steps_without += 1
            for weight in self.inner_loop.parameters():
                weight.grad = None  # an optimizer leaves such weights alone, and their momentum
            return
        self._steps_without = 0
        if correction != 1:
            torch._foreach_mul_([w.grad for w in self.inner_loop.parameters() if w.grad is not None], correction)
        if self._writes_line():
            gradients = [w.grad for w in self.inner_loop.parameters() if w.grad is not None]
            self.log("train/gradient_norm", nn.utils.get_total_norm(gradients))

    def on_train_epoch_start(self) -> None:
        self.meta_gradient.epoch = self.current_epoch

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._steps_without >= self.max_skipped:
            raise FloatingPointError(
                f"max_skipped: {self._steps_without} outer steps in a row had no task whose loss and gradient are "
                "finite; lower the inner or the outer rate"
            )

    def _writes_line(self) -> bool:
        """Whether Lightning writes a line to the logs after this outer step."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside its class
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def _log_before(self, tasks: MetaBatch) -> None:
        """Loss and metrics before adaptation: one more forward pass, so only when a line is logged."""
        predictions, losses = [], []
        for stack in stacks_of(tasks):
            parts = []
            for chunk in self._chunks(stack):
                with torch.no_grad(), self.meta_gradient.stream_of(chunk):
                    (fast,) = self.inner_loop.path(chunk, 0)
                    parts.append(self.inner_loop.predict(fast, chunk.query.inputs))
            predictions.append(torch.cat(parts))
            losses.append(self.inner_loop.loss_of(predictions[-1], stack.query.targets))
        of_all = torch.cat(losses)
        self.log("train/loss_before", of_all.mean(), batch_size=len(of_all))
        every = torch.ones_like(of_all, dtype=torch.bool)
        self._log_metrics("train", tasks, tuple(predictions), every, suffix="_before")

    def _log_metrics(
        self, stage: str, tasks: MetaBatch, predictions: Tree, kept: Tensor, suffix: str = "", prog_bar: bool = False
    ) -> None:
        """The metrics of all examples of the tasks that are kept; of stacks the mean, each counting by its tasks."""
        stacks = stacks_of(tasks)
        of_stacks = predictions if isinstance(predictions, tuple) else (predictions,)
        parts = []
        for stack, made, seen in zip(stacks, of_stacks, kept.split([s.size for s in stacks]), strict=True):  # type: ignore[no-untyped-call]  # of torch
            if len(chosen := made[seen]):
                targets = tree_map(lambda part, seen=seen: part[seen].flatten(0, 1), stack.query.targets)
                parts.append((len(chosen), chosen.flatten(0, 1), targets))
        count = sum(size for size, *_ in parts)
        for name, metric in self._metrics() if parts else ():
            values = [value_of(metric, *examples) * (size / count) for size, *examples in parts]
            self.log(f"{stage}/{name}{suffix}", torch.stack(values).sum(), prog_bar=prog_bar, batch_size=count)

    def outer_optimizer(self, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of the outer loop, for these weights.

        Raises:
            ValueError: It does not take its options, or its rate is no single number.
        """
        try:
            made = self.optimizer(weights)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model.optimizer: {error}") from error
        for group in made.param_groups:
            rate = group.get("lr")
            if isinstance(rate, Tensor) and rate.dim():  # torch would only say so later, or never
                raise ValueError(f"model.optimizer.lr: has to be one number, got {rate.tolist()}")
        return made

    def configure_optimizers(self) -> Any:
        optimizer = self.outer_optimizer([w for w in self.inner_loop.parameters() if w.requires_grad])
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        how: dict[str, Any] = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", "val/loss")
            if metric_of(monitor, self.metrics) is None:
                raise no_such_metric("model.lr_scheduler.monitor", monitor, self.metrics)
            # Lightning would step it after the checkpoint that follows a validation, and not when that is resumed.
            how |= {"monitor": monitor, "frequency": _NEVER}
        return {"optimizer": optimizer, "lr_scheduler": how}

    def _step_on_plateau(self) -> None:
        """Let each ReduceLROnPlateau look at the validation that has just ended."""
        for config in self.trainer.lr_scheduler_configs:
            if not isinstance(config.scheduler, ReduceLROnPlateau):
                continue
            name, step = metric_of(str(config.monitor), self.metrics) or ("loss", None)
            if str(config.monitor).startswith("val/"):
                config.scheduler.step(self.results[name][-1 if step is None else step].mean)
            else:
                config.scheduler.step(float(self.trainer.callback_metrics[str(config.monitor)]))

    # Validation, test and prediction

    @property
    def evaluation_steps(self) -> int:
        """The number of inner steps in validation, test and prediction."""
        return self.inner_steps if self.test_inner_steps is None else self.test_inner_steps

    def validation_step(self, tasks: MetaBatch, batch_idx: int) -> None:
        self._evaluate("val", tasks, batch_idx)

    def test_step(self, tasks: MetaBatch, batch_idx: int) -> None:
        self._evaluate("test", tasks, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._conclude("val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._step_on_plateau()

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def predict_step(self, tasks: MetaBatch, batch_idx: int) -> dict[str, Tree] | list[dict[str, Tree]]:
        """The adapted predictions on each task's query (T, n, ...), with its targets and the tasks' numbers.

        Of tasks in stacks a list of such, one of each stack.
        """
        self._try(tasks)
        found = [self._predicted(stack) for stack in stacks_of(tasks)]
        return found[0] if isinstance(tasks, Tasks) else found

    def _predicted(self, tasks: Tasks) -> dict[str, Tree]:
        predictions = []
        for chunk in self._chunks(tasks):
            try:
                predictions.append(self._adapted_predictions(chunk))
            except Exception:  # perhaps of a task whose numbers are not finite: it is named
                for task in chunks(chunk, 1):
                    self._try_alone(task)
                raise
        return {
            "numbers": tasks.numbers,
            "predictions": torch.cat(predictions),
            "targets": tasks.query.targets,
        }

    def _adapted_predictions(self, tasks: Tasks) -> Tensor:
        with self.meta_gradient.stream_of(tasks):
            *_, fast = self.inner_loop.path(tasks, self.evaluation_steps)
            return self._predict(fast, tasks)

    def _try_alone(self, task: Tasks) -> None:
        try:
            self._adapted_predictions(task)
        except Exception as error:
            if diverges(self.inner_loop, task, self.evaluation_steps, error):
                raise FloatingPointError(
                    f"the inner loop of predict task {int(task.numbers[0])} is not finite ({first_line(error)}); lower "
                    "the inner rate, or look at the task's data"
                ) from error

    def _evaluate(self, stage: str, tasks: MetaBatch, batch_idx: int) -> None:
        """Keep loss and metrics of each task after each inner step."""
        self._try(tasks)
        all_finite = []
        for chunk in self._chunks(tasks):
            try:
                rows = self._rows(chunk)
            except Exception as error:  # perhaps of a task whose numbers are not finite
                rows = self._rows_alone(chunk, error)
            finite = rows["loss"].isfinite().all(dim=1)
            all_finite.append(finite)
            episodes = dict(self._all_episodes())
            for name, row in rows.items():
                # Flat, since a process without any finite task has to gather the same form as the others.
                episodes[name].update(row[finite].flatten())
        # Once a batch: processes have as many batches, but not as many chunks.
        self._check_finite(numbers_of(tasks), torch.cat(all_finite), stage)

    def _rows(self, tasks: Tasks) -> dict[str, Tensor]:
        """Loss and metrics of each task after each inner step, by name (T, N + 1)."""
        rows: dict[str, list[Tensor]] = {name: [] for name in self._episodes}
        with self.meta_gradient.stream_of(tasks):
            for fast in self.inner_loop.path(tasks, self.evaluation_steps):
                predictions = self._predict(fast, tasks)
                rows["loss"].append(self.inner_loop.loss_of(predictions, tasks.query.targets).detach())
                seen = torch.stack(rows["loss"]).isfinite().all(dim=0)
                for name, metric in self._metrics():
                    rows[name].append(values_of(metric, predictions, tasks.query.targets, seen))
        return {name: torch.stack(row, dim=1) for name, row in rows.items()}

    def _rows_alone(self, tasks: Tasks, error: Exception) -> dict[str, Tensor]:
        """The rows of each task by itself, where an error was raised on all; NaN for those that diverge."""
        nothing = torch.full((1, self.evaluation_steps + 1), torch.nan, device=tasks.query.device)
        parts = []
        for task in chunks(tasks, 1):
            try:
                parts.append(self._rows(task))
            except Exception as own:
                if not diverges(self.inner_loop, task, self.evaluation_steps, own):
                    raise
                parts.append(dict.fromkeys(self._episodes, nothing))
        if all(part["loss"] is not nothing for part in parts):
            raise error  # it is several at once that cannot be computed
        return {name: torch.cat([part[name] for part in parts]) for name in self._episodes}

    def _predict(self, fast: Params, tasks: Tasks) -> Tensor:
        with torch.no_grad():
            return self.inner_loop.predict(fast, tasks.query.inputs)

    def _conclude(self, stage: str) -> None:
        """Log the means over tasks of all processes; keep them with their intervals in ``results``."""
        for name, episodes in self._all_episodes():
            values = torch.as_tensor(episodes.compute()).reshape(-1, self.evaluation_steps + 1)
            self.results[name], self.evaluated_tasks = curve(values), len(values)
            episodes.reset()
            for step, result in enumerate(self.results[name]):
                self.log(f"{stage}/{name}_step_{step}", result.mean, sync_dist=True)
            self.log(f"{stage}/{name}", self.results[name][-1].mean, prog_bar=True, sync_dist=True)
        if self.evaluated_tasks == 0:
            rank_zero_warn(
                f"{stage}: no task has a finite loss, so that its results are not a number (nan); lower the inner rate"
            )

    # Modules in a ModuleDict move with the learner's device, but lose their type.
    def _metrics(self) -> Iterator[tuple[str, Metric]]:
        return cast(Iterator[tuple[str, Metric]], iter(self.metrics.items()))

    def _all_episodes(self) -> Iterator[tuple[str, CatMetric]]:
        return cast(Iterator[tuple[str, CatMetric]], iter(self._episodes.items()))

    def _chunks(self, tasks: MetaBatch) -> Iterator[Tasks]:
        for stack in stacks_of(tasks):
            size = self.tasks_per_chunk or self.inner_loop.default_chunk(stack)
            yield from chunks(stack, 1 if self.inner_loop.draws else size)

    # Checks

    def _try(self, tasks: MetaBatch) -> None:
        """Try the first batch, once in training and once in evaluation: a model may differ between the two."""
        if self.training in self._tried:
            return
        self._tried.add(self.training)
        trainer = self._trainer  # none where the learner is called by itself
        with failing_together(1 if trainer is None else trainer.world_size):
            distribution = getattr(getattr(trainer, "datamodule", None), "tasks", None)
            shares = getattr(distribution, "shares_examples", False)
            first, *_ = stacks = stacks_of(tasks)
            for stack in stacks:
                check_tasks(stack, self.inner_loop.loss, shares, finite=self.on_nonfinite == "raise")
            tried: set[Any] = set()
            for stack in stacks:  # of the size no trial is made: a few examples of the first have to do
                if (like := form(stack, lambda part: (part.shape[2:], part.dtype))) in tried:
                    continue
                tried.add(like)
                for remark in try_first_batch(self.inner_loop, stack, self.outer_gradient if self.training else None):
                    rank_zero_info(remark)
            for stack in stacks:
                predictions = check_labels(self.inner_loop, stack)
                check_metrics(dict(self._metrics()), self.inner_loop.loss, predictions, stack.query.targets)
            if self._seen is not None and not shares:
                check_splits(*((first, self._seen) if self.training else (self._seen, first)))
            self._seen = select(first, [0])
            if self.training:
                self._check_record()

    def _check_record(self) -> None:
        """Take out of the record what it would not make again: to load another model is worse than to load none."""
        now = not_in_checkpoints(self.inner_loop) | dict.fromkeys(self.evaluated, "in evaluation")
        if self._recorded is not None and not others_of(self._recorded, now):
            return
        parts, metrics = (self.inner_loop, self.outer_gradient), dict(self._metrics())
        for name, why in not_made_again(*parts, metrics, self.hparams, self._seen, self.evaluated).items():
            del self.hparams[name]
            warn_not_rebuilt(name, why)
        self._recorded = now

    def setup(self, stage: str) -> None:
        check_trainer(self.trainer)
        check_precision(self.trainer, self.inner_loop.model, self.outer_gradient, stage)
        if stage == "fit":
            self.inner_loop.check_trainable()
            if not self.training:  # after eval(), which Lightning leaves as it is
                super().train()
                self.evaluated = self._evaluated
        self.skipped_tasks = self._steps_without = 0
        self._outer_step, self._losses = OuterStep(), []
        self._tried.clear()
        # Random directions follow the tasks: other tasks by --data.seed, other directions.
        self.meta_gradient.seed = getattr(getattr(self.trainer, "datamodule", None), "seed", 0)
        # Lightning does so only after it has restored a checkpoint, whose float64 weights would be rounded.
        self.trainer.strategy.precision_plugin.convert_module(self)

    def _check_finite(self, numbers: Tensor, finite: Tensor, stage: str) -> Count:
        """The finite tasks of all processes, every one of which comes here with each batch.

        Raises:
            FloatingPointError: On all of them, where one has a task that is not finite and ``on_nonfinite`` is raise.
        """
        count = count_finite(numbers, finite, self.trainer.world_size)
        if not count.bad:
            return count
        if self.on_nonfinite == "raise":
            raise FloatingPointError(
                f"the loss or gradient of {stage} task {count.bad[0]} is not finite ({len(count.bad)} of "
                f"{sum(count.sizes)} tasks of this batch); lower the inner rate, look at the task's data, or set "
                "on_nonfinite to skip"
            )
        self.skipped_tasks += len(count.bad)
        rank_zero_info(
            f"skipped {stage} tasks {count.bad}, whose loss or gradient is not finite: {self.skipped_tasks} by now"
        )
        self.log(f"{stage}/skipped_tasks", float(self.skipped_tasks), batch_size=len(finite))
        return count

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[FORMAT_KEY], checkpoint[WEIGHTS_KEY] = FORMAT, record_of(self.inner_loop, self.evaluated)
        self._check_record()  # training may not have begun, or a callback have changed what no weight holds
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = dict(self.hparams)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Of Lightning, which reads the file by itself and loads it into a learner that is there already."""
        check_form(checkpoint, "the file")
        check_weights(self.inner_loop.model, checkpoint)
        self._restore_modes(checkpoint, told=self.trainer.state.fn == TrainerFn.FITTING)

    def _restore_modes(self, saved: Mapping[str, Any], told: bool) -> None:
        """Put the parts into the modes that they had in training."""
        evaluated = evaluated_parts(self.inner_loop, saved)
        if evaluated is None:
            return
        if told and (other := other_modes(self.evaluated, evaluated)):
            rank_zero_info(f"{other}: each part takes the mode that it has in the checkpoint")
        self.evaluated = evaluated

    @property
    def normalisation(self) -> str:
        """The normalisation policy, which is named beside every result."""
        return normalisation_policy(self.inner_loop.model)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # never a pickle, a hparams file or a url
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **overrides: Any
    ) -> MetaLearner:
        """The learner of a checkpoint: model, inner loop and outer gradient made anew, weights and rates loaded.

        Args:
            checkpoint_path: A file that ``fit`` wrote.
            map_location: The device to load to.
            overrides: Arguments of ``MetaLearner`` to use instead of those recorded, such as ``test_inner_steps=10``,
                or ``model=...`` for a model that the checkpoint could not describe.

        Raises:
            ValueError: The file is no such checkpoint, holds another architecture, or other weights are frozen or one
                in a model that is given.
        """
        saved = read_checkpoint(checkpoint_path, map_location)
        arguments = arguments_of(cls, saved, overrides)
        if "model" not in overrides:
            restore(arguments["model"], saved)
        elif "fast_weights" in overrides:  # which says what to adapt
            check_ties(arguments["model"], saved)
        else:
            check_weights(arguments["model"], saved)
        learner = cls(**arguments)
        learner.load_state_dict(saved["state_dict"])
        learner._restore_modes(saved, told="model" in overrides)
        return learner.to(map_location)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        check_kinds(self.state_dict(), state_dict)
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            what = one_line(" ".join(str(error).split()))[:500]
            raise ValueError(
                "the checkpoint holds the weights of another architecture than the model or inner optimizer that is "
                f"configured; leave these out of the configuration to take the checkpoint's own. {what}"
            ) from error

    def _save_recipe(
        self, patterns: Mapping[str, Sequence[str]], compile: bool, channels_last: bool, output: Output
    ) -> None:
        parts = {
            "model": self.inner_loop.model,
            "inner_optimizer": self.inner_loop.optimizer,
            "outer_gradient": self.outer_gradient,
            "loss": self.inner_loop.loss,
            "outer_loss": self.outer_loss,
            "metrics": dict(self._metrics()),
        }
        plain = {name: getattr(self, name) for name in _PLAIN}
        plain |= {name: list(chosen) for name, chosen in patterns.items()}
        plain |= {"compile": compile, "channels_last": channels_last, "output": output}
        self.save_hyperparameters(recipe_of(parts) | plain)

    def remember(self, recipe: Mapping[str, Any]) -> None:
        """Take the command line's own record of the arguments: it also has those that no object keeps.

        The command line itself logs its whole configuration.
        """
        self.save_hyperparameters(dict(recipe), logger=False)
