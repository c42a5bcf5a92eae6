"""What would make a run of a MetaLearner wrong, refused before it costs hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from litmaml.data.task_checks import check_class_numbers, check_classes, check_data, check_overlap
from litmaml.inner import InnerOptimizer
from litmaml.inner.batch_norms import has_new_statistics
from litmaml.inner.class_losses import ignored_index, takes_class_indices
from litmaml.inner.head import check_named
from litmaml.inner.loop import InnerLoop
from litmaml.learner.head_checks import take_over, wide_enough
from litmaml.learner.metrics import check_metrics
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.loss_checks import check_class_indices, check_loss_on
from litmaml.learner.trial.loss_ranges import check_ranges
from litmaml.outer import OuterGradient, OuterLoss, WorstCaseLoss
from litmaml.randomness import seeded
from litmaml.tasks import Tasks, of_each_form, ordinary, select

_KINDS: dict[str, tuple[type, tuple[str, str]]] = {
    "model": (nn.Module, ("a torch.nn.Module", "litmaml.models.Conv4(ways=5)")),
    "inner_optimizer": (InnerOptimizer, ("a litmaml.inner.InnerOptimizer", "litmaml.inner.SGD(lr=0.1)")),
    "outer_gradient": (OuterGradient, ("a litmaml.outer.OuterGradient", "litmaml.outer.SecondOrder()")),
    "loss": (nn.Module, ("a torch.nn.Module", "torch.nn.CrossEntropyLoss()")),
    "outer_loss": (OuterLoss, ("a litmaml.outer.OuterLoss", "litmaml.outer.MeanLoss()")),
}
"""What the arguments of a learner are, in words, and one of them."""
_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


def check_settings(counts: Mapping[str, int | None], on_nonfinite: str) -> None:
    """Refuse counts below 1, and another way with tasks that are not finite than there are.

    Raises:
        ValueError: Naming the argument.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: has to be at least 1, got {value}")
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"on_nonfinite: got {on_nonfinite!r}; one of raise, skip")


def check_parts(*parts: object) -> None:
    """Refuse what is no object of the kind that an argument takes, such as a class in the place of one.

    Args:
        parts: A learner's model, inner optimizer, outer gradient, loss and outer loss; None leaves the choice to it.

    Raises:
        ValueError: Naming the first such argument.
    """
    for (name, (kind, such)), part in zip(_KINDS.items(), parts, strict=True):
        if isinstance(part, kind) or (part is None and name != "model"):
            continue
        if isinstance(part, type) and issubclass(part, kind):
            raise ValueError(f"{name}: takes an object, got the class {part.__name__}; write {part.__name__}(...)")
        got = repr(part) if isinstance(part, str) else type(part).__name__
        raise ValueError(f"{name}: takes {such[0]}, got {got}; give such as {such[1]}")


def check_loss(loss: nn.Module) -> None:
    """Refuse a loss with trainable parameters.

    Raises:
        ValueError: Naming the first.
    """
    if uncovered := [name for name, weight in loss.named_parameters() if weight.requires_grad]:
        raise ValueError(
            f"loss: its trainable parameter {uncovered[0]!r} is in no weight set: neither the inner nor the outer "
            "loop trains a loss; freeze it (requires_grad_(False)) or move it into the model"
        )


def check_pool(outer_loss: OuterLoss, distribution: object) -> None:
    """Refuse a loss of the worst tasks where the data has others than so many.

    Args:
        outer_loss: Of the learner.
        distribution: That the tasks come from, or None.

    Raises:
        ValueError: There is no end of its tasks, or another number of them.
    """
    if not isinstance(outer_loss, WorstCaseLoss) or distribution is None:
        return
    pool = getattr(distribution, "pool", None)
    if pool != outer_loss.tasks:
        there = f"{pool} tasks" if pool else f"tasks without end (of {type(distribution).__name__})"
        raise ValueError(
            f"outer_loss.tasks: WorstCaseLoss has a weight for each of all tasks, got {outer_loss.tasks} for {there}; "
            "give both one number, the data's as data.tasks.pool; tasks without end come in litmaml.data.FiniteTasks"
        )


def check_trainer(trainer: Trainer) -> None:
    """Refuse what of a trainer makes the outer gradient wrong; for precisions see ``check_precision``.

    Raises:
        ValueError: Naming the trainer's argument.
    """
    strategy = type(trainer.strategy).__name__
    if strategy in _SHARDED:
        raise ValueError(
            f"strategy: {strategy} splits weights between processes, but the inner loop calls the model with "
            "weights of its own; use ddp, which holds them whole on each process"
        )
    if getattr(trainer.strategy, "_layer_sync", None) is not None:
        raise ValueError(
            "trainer.sync_batchnorm: batch norm would take the statistics of several processes' tasks together; leave "
            "it out, and choose by model.batch_norm what batch norm normalises by"
        )


def check_first_batch(
    inner_loop: InnerLoop,
    outer_gradient: OuterGradient | None,
    metrics: Mapping[str, Metric],
    stacks: Sequence[Tasks],
    shares_examples: bool,
    finite: bool,
    head: str | None = None,
    most_ways: int = 0,
) -> None:
    """Refuse or tell of what makes results wrong by the first batch: its data, the model, the loss or the metrics.

    Args:
        inner_loop: The model with its loss; what the batch tells of it is noted there, see ``try_first_batch``.
        outer_gradient: By which it is to be trained; None in evaluation.
        metrics: By name.
        stacks: Of the first batch.
        shares_examples: Support and query are the same by design.
        finite: Whether a number that is not finite is refused; else its task will be skipped.
        head: The layer that was named as the one that gives the logits, if one was.
        most_ways: The most classes of later tasks, where each draws how many it has.

    Raises:
        ValueError: Naming the argument, with the remedy.
    """
    for stack in stacks:
        check_tasks(stack, inner_loop.loss, shares_examples, finite)
    if takes_class_indices(inner_loop.loss):
        check_class_numbers(stacks, ignored_index(inner_loop.loss))
    if head is not None:
        with torch.inference_mode(False), seeded(0, stacks[0].query.device):
            few = select(ordinary(stacks[0]).support[0].task(0).inputs, slice(4))
            check_named(inner_loop.model, few, head, inner_loop.output)
    tried = wide_enough(inner_loop, stacks, training=outer_gradient is not None)
    for remark in try_first_batch(tried, stacks, outer_gradient):
        rank_zero_info(remark)
    take_over(inner_loop, tried)
    if outer_gradient is not None and has_new_statistics(inner_loop.model):
        rank_zero_warn(
            "batch_norm: frozen, and the running statistics are those of new layers (mean 0, variance 1), so that "
            "nothing is normalised; load pretrained weights, or set it to batch or group"
        )
    for stack in stacks:
        predictions = check_labels(tried, stack)
        if inner_loop.head is None and takes_class_indices(inner_loop.loss) and predictions.shape[1] < most_ways:
            raise ValueError(
                f"ways: tasks have up to {most_ways} classes, but the model gives {predictions.shape[1]} logits; make "
                f"the model for {most_ways} ways, or a head for each task (head_start: prototypes or zero)"
            )
        check_metrics(metrics, inner_loop.loss, predictions, stack.query.targets)


def check_tasks(tasks: Tasks, loss: nn.Module, shares_examples: bool, finite: bool) -> None:
    """Refuse or tell of what makes results wrong by the data alone; see ``litmaml.data.task_checks``.

    Args:
        tasks: Of the first batch.
        loss: Tells whether integer targets are classes.
        shares_examples: Support and query are the same by design.
        finite: Whether a number that is not finite is refused; else its task will be skipped.
    """
    check_data(tasks, finite=finite)
    if takes_class_indices(loss):
        check_classes(tasks, ignored_index(loss))
    if not shares_examples:
        check_overlap(tasks)


def check_labels(inner_loop: InnerLoop, tasks: Tasks) -> Tensor:
    """Refuse outputs and targets that the loss cannot be taken of; see ``check_loss_on``.

    Args:
        inner_loop: Its model has stood the trial of the first batch, and may be called.
        tasks: Of the first batch. Of each form of batch the first task's outputs are looked at, and of each batch all
            targets.

    Returns:
        The predictions (n, ...) on the first task's query before adaptation.

    Raises:
        ValueError: Naming model, targets or loss, with the remedy.
    """
    loss, query = inner_loop.loss, tasks.query
    predictions: list[Tensor] = []
    for batch in of_each_form([query, *tasks.adapting], sized=True):
        one = batch.task(0)
        with torch.no_grad(), seeded(0, batch.device):
            outputs: Tensor = inner_loop.own_predictions(one.inputs)
        check_loss_on(loss, outputs, one.targets)
        predictions.append(outputs)
        if not isinstance(batch.targets, Tensor):  # which part stands for classes, only the loss itself tells
            for k in range(1, batch.tasks):
                check_loss_on(loss, outputs, batch.task(k).targets)
    for batch in (query, *tasks.adapting):
        if not isinstance(batch.targets, Tensor):
            continue
        if takes_class_indices(loss):
            check_class_indices(loss, predictions[0].shape[1], batch.targets)
        check_ranges(loss, predictions[0], batch.targets)
    return predictions[0]
