"""Metrics of a task: the default one, the value of one task alone, and which cannot be taken."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litmaml.inner.class_losses import ignored_index
from litmaml.tasks import MetaBatch, Tree, named_tensors, stacks_of, tensors_of, tree_map


def count_right(predictions: Tensor, targets: Tensor, ignore_index: int | None = None) -> tuple[Tensor, Tensor]:
    """How many places have their likeliest class right, and how many count.

    Args:
        predictions: Scores of the classes (n, classes, ...).
        targets: Class indices (n, ...), or probabilities (n, classes, ...), of which the likeliest class is right.
        ignore_index: The index at places that do not count.
    """
    soft = targets.is_floating_point() and targets.shape == predictions.shape
    truth = targets.argmax(1) if soft else targets
    right = predictions.argmax(1) == truth
    if ignore_index is None or soft:
        return right.sum(), torch.full_like(right.sum(), right.numel())
    counts = truth != ignore_index
    return (right & counts).sum(), counts.sum()


class Accuracy(Metric):
    """The share of examples, or of the places in them, whose likeliest class is right; NaN where no place counts.

    Args:
        ignore_index: The index at places that do not count, such as padding.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> Accuracy(ignore_index=-100)(scores, torch.tensor([0, 1, -100]))
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("right", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        right, total = count_right(predictions, targets, self.ignore_index)
        self.right, self.total = self.right + right, self.total + total

    def compute(self) -> Tensor:
        return self.right.float() / self.total


def default_metrics(loss: nn.Module) -> dict[str, Metric]:
    """Accuracy for torch's cross entropies of classes, else none.

    None for binary cross entropy either: whether an entry, a label or a whole set of them counts is for the user to
    say, by ``BinaryAccuracy`` or ``MultilabelAccuracy`` of torchmetrics.
    """
    cross_entropy = isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)
    return {"accuracy": Accuracy(ignored_index(loss))} if cross_entropy else {}


def value_of(metric: Metric, predictions: Tensor, targets: Tree) -> Tensor:
    """The metric of these predictions alone: ``compute`` would take those of all processes together.

    A metric of torchmetrics for classification takes whole numbers, and gets them also of targets that are real numbers
    for the loss's sake, as binary cross entropy needs them.
    """
    real = isinstance(targets, Tensor) and targets.is_floating_point()
    if real and type(metric).__module__.startswith("torchmetrics.classification."):
        targets = whole if bool((targets == (whole := targets.long())).all()) else targets
    if metric.device != predictions.device:
        metric.to(predictions.device)
    metric.reset()
    value: Tensor = metric(predictions, targets)
    metric.reset()
    return value


def values_of_all(
    metrics: Mapping[str, Metric], tasks: MetaBatch, predictions: Tree, kept: Tensor | None
) -> tuple[dict[str, Tensor], int]:
    """The metrics of all examples of the tasks that are kept, and how many these are; nothing of none.

    Of stacks it is the mean, each counting by its tasks.

    Args:
        metrics: By name.
        tasks: T in all.
        predictions: (T, n, ...), of stacks a tuple of such.
        kept: (T,) whether a task is; None: all are.
    """
    stacks = stacks_of(tasks)
    # A mask has to wait for the device.
    seen_of = [slice(None)] * len(stacks) if kept is None else kept.split([s.size for s in stacks])  # type: ignore[no-untyped-call]  # of torch
    of_stacks = predictions if isinstance(predictions, tuple) else (predictions,)
    parts = []
    for stack, made, seen in zip(stacks, of_stacks, seen_of, strict=True):
        if len(chosen := made[seen]):
            targets = tree_map(lambda part, seen=seen: part[seen].flatten(0, 1), stack.query.targets)
            parts.append((len(chosen), chosen.flatten(0, 1), targets))
    count = sum(size for size, *_ in parts)
    values = {}
    for name, metric in metrics.items() if parts else ():
        shares = [value_of(metric, *examples) * (size / count) for size, *examples in parts]
        values[name] = torch.stack(shares).sum()
    return values, count


def values_of(metric: Metric, predictions: Tensor, targets: Tree, finite: Tensor) -> Tensor:
    """The metric of each task (T,), NaN for one that is not finite, which the metric does not get to see.

    Args:
        metric: Any metric with one number.
        predictions: (T, n, ...).
        targets: (T, n, ...).
        finite: (T,) whether a task is.
    """
    missing = torch.full((), torch.nan, device=predictions.device)

    def of_task(k: int) -> Tensor:
        return value_of(metric, predictions[k], tree_map(lambda part: part[k], targets)).to(missing)

    return torch.stack([of_task(k) if seen else missing for k, seen in enumerate(finite.tolist())])


def check_metrics(metrics: Mapping[str, Metric], loss: nn.Module, predictions: Tensor, targets: Tree) -> None:
    """Refuse metrics that fail on the first task, have more than one number, or count what the loss ignores.

    Args:
        metrics: By name.
        loss: That of the learner.
        predictions: (n, ...) of the first task.
        targets: (T, n, ...) of all tasks.

    Raises:
        ValueError: With the metric's name.
    """
    ignored = ignored_index(loss)
    labels = [part for part in tensors_of(targets) if not part.is_floating_point()]
    padded = ignored is not None and any(bool((part == ignored).any()) for part in labels)
    first = tree_map(lambda part: part[0], targets)
    for name, metric in metrics.items():
        kind = type(metric).__name__
        if not isinstance(metric, Metric):
            raise ValueError(
                f"metrics.{name}: has to be a Metric of torchmetrics, got {kind}; name the parts of a collection"
            )
        if padded and getattr(metric, "ignore_index", ignored) != ignored:
            raise ValueError(
                f"metrics.{name}: {kind} would count places that the loss ignores, got its ignore_index "
                f"{getattr(metric, 'ignore_index', None)}; set it to {ignored}"
            )
        try:
            value: object = value_of(metric, predictions, first)
        except Exception as error:  # whatever a metric of somebody's raises
            raise ValueError(
                f"metrics.{name}: {kind} cannot be taken of predictions {tuple(predictions.shape)} "
                f"({predictions.dtype}) and "
                + ", ".join(
                    f"{what} {tuple(part.shape)} ({part.dtype})" for what, part in named_tensors(first, "targets")
                )
                + f": {error}; set it up for these, or leave it out"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(
                f"metrics.{name}: {kind} has to give one number for each task, got {got}; set its average, or name its "
                "parts as metrics of their own"
            )
