"""A head that does not start as it was learnt, but in each task anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from litmaml.inner.class_losses import ignored_index, takes_class_indices
from litmaml.inner.head import head_parts, last_head, named_head
from litmaml.inner.places import all_places
from litmaml.tasks import Batch, MetaBatch, Tasks, Tree, select, stacks_of
from litmaml.weights import Params

HeadStart = Literal["learnt", "zero", "prototypes"]
HEAD_STARTS = ("learnt", "zero", "prototypes")


@dataclass(frozen=True)
class TaskHead:
    """How a task's head begins: its weights are adapted, but never trained, and the layer's own are not looked at.

    With c_k the mean of the head's inputs x over the support examples of class k, ``prototypes`` is

        W_k = 2 c_k,   b_k = -|c_k|^2,   with the logits W_k x + b_k = |x|^2 - |x - c_k|^2,

    the distances from the class means but for what all logits have in common (ProtoMAML, Triantafillou et al. 2020,
    arXiv 1903.03096). By these theta_0 depends on the other weights, and the outer gradient runs through it. A head
    without a bias has W alone, which is the nearest mean only where all means have one length. ``zero`` gives all
    classes one probability, and none a start over another.

    There are as many rows as the task has classes, whatever the width of the layer.

    Args:
        name: Of the layer in the model.
        start: zero or prototypes.
        parts: The names of its weight and mostly its bias.
        classifies: Whether targets are class indices; if not, there are as many rows as in the layer.
        ignored: The index at examples that do not count, if there is one.
        weighed: How many classes the loss weighs, if it does, and so every task has.
    """

    name: str
    start: Literal["zero", "prototypes"]
    parts: tuple[str, ...]
    classifies: bool = True
    ignored: int | None = None
    weighed: int | None = None

    def weights(self, own: Mapping[str, Tensor], features: Callable[[Tree], Tensor], tasks: Tasks) -> Params:
        """Its weights in each task (T, classes, ...).

        Args:
            own: The layer's weights in the model, for their shapes.
            features: (inputs) -> what goes into the head (T, n, d).
            tasks: T; all batches that they adapt to make the class means.

        Raises:
            ValueError: What goes into the head is not flat, or targets are no class indices, or the tasks differ in
                their number of classes.
        """
        rows = self.with_classes(tasks).classes
        if self.start == "zero":
            shapes = {name: own[name].shape for name in self.parts}
            return {n: own[n].new_zeros(tasks.size, rows or shape[0], *shape[1:]) for n, shape in shapes.items()}
        assert rows is not None  # of what classifies
        like = own[self.parts[0]]
        seen, device = [features(batch.inputs) for batch in tasks.support], like.device.type
        if seen[0].dim() != 3:
            raise ValueError(
                f"head_start: prototypes are means of flat inputs of the head (n, d), got {tuple(seen[0].shape[1:])}; "
                "pool before the head, or set it to zero"
            )
        labels = [self._labels(batch) for batch in tasks.support]
        # Under autocast the sums would be rounded.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            means, _ = class_means([part.to(like.dtype) for part in seen], labels, rows)
        made = {"weight": 2 * means, "bias": -means.square().sum(2)}
        return {name: made[name.rpartition(".")[2]] for name in self.parts}

    def by_classes(self, tasks: MetaBatch) -> MetaBatch:
        """The tasks in stacks of one number of classes, which each of them names.

        Raises:
            ValueError: Targets are no class indices, a class of a task has no support example to start from, or the
                loss weighs another number of classes.
        """
        if not self.classifies:
            return tasks
        found = []
        for stack in stacks_of(tasks):
            counts = self._counts(stack)
            self._check_weighed(stack, counts)
            for count in sorted({*counts}):
                alike = [k for k, own in enumerate(counts) if own == count]
                some = stack if len(alike) == stack.size else select(stack, alike)
                found.append(some._replace(classes=count))
        return found[0] if isinstance(tasks, Tasks) and len(found) == 1 else tuple(found)

    def with_classes(self, tasks: Tasks) -> Tasks:
        """The tasks of a stack, which name the number of classes that they have in common.

        Raises:
            ValueError: They differ in it, or as ``by_classes``.
        """
        if not self.classifies or tasks.classes is not None:
            return tasks
        counts = self._counts(tasks)
        if len({*counts}) > 1:
            few, many = (counts.index(end(counts)) for end in (min, max))
            raise ValueError(
                f"head_start: tasks of one stack have one number of classes, got {counts[few]} in task "
                f"{int(tasks.numbers[few])} and {counts[many]} in task {int(tasks.numbers[many])}; put them in stacks "
                "by inner_loop.by_classes(tasks)"
            )
        return tasks._replace(classes=counts[0])

    def _counts(self, tasks: Tasks) -> list[int]:
        """The number of classes of each task: one more than its largest index."""
        support = torch.cat([self._labels(batch) for batch in tasks.support], dim=1)
        # Of queries that are other things, such as probabilities, the support has to do.
        query = self._labels(tasks.query) if _are_indices(tasks.query.targets) else support
        counts = torch.cat([support, query], dim=1).amax(1).add(1).tolist()
        if self.start == "prototypes":
            for k, count in enumerate(counts):
                if missing := sorted({*range(count)} - {*support[k].tolist()}):
                    raise ValueError(
                        f"head_start: prototypes are means of support examples, and task {int(tasks.numbers[k])} has "
                        f"none of class {missing[0]} of {count}; number a task's classes from 0 with support examples "
                        "of each, or set it to zero"
                    )
        return counts

    def _check_weighed(self, tasks: Tasks, counts: Sequence[int]) -> None:
        others = [k for k, count in enumerate(counts) if self.weighed not in (None, count)]
        if others:
            raise ValueError(
                f"loss: its weight is for {self.weighed} classes, and task {int(tasks.numbers[others[0]])} has "
                f"{counts[others[0]]}, as many as its head that starts anew has logits (head_start); leave the weight "
                f"out, or have {self.weighed} classes in every task"
            )

    def _labels(self, batch: Batch) -> Tensor:
        targets: Tensor = batch.targets
        if not _are_indices(targets):
            given = isinstance(targets, Tensor)
            got = f"{tuple(targets.shape)} of {targets.dtype}" if given else type(targets).__name__
            raise ValueError(
                f"head_start: {self.start} takes one class index per example as targets (T, n), got {got}; set it to "
                "learnt"
            )
        return targets if self.ignored is None else targets.masked_fill(targets == self.ignored, -1)


def class_means(seen: Sequence[Tensor], labels: Sequence[Tensor], classes: int) -> tuple[Tensor, Tensor]:
    """The means (T, classes, d) of each class's examples over all batches, and how many these are (T, classes).

    Args:
        seen: (T, n, d) of each batch.
        labels: (T, n) class indices of each batch; others than 0 to classes - 1 are of no class.
        classes: The number of classes.
    """
    total, members = seen[0].new_zeros(()), seen[0].new_zeros(())
    for part, indices in zip(seen, labels, strict=True):
        belongs = (indices.unsqueeze(2) == torch.arange(classes, device=part.device)).to(part.dtype)
        total, members = total + belongs.mT @ part, members + belongs.sum(1)
    return total / members.unsqueeze(2), members


def task_head(model: nn.Module, loss: nn.Module, head: str | None, start: str) -> TaskHead | None:
    """The head of these settings; None where it starts as it was learnt.

    Args:
        model: Has the layer.
        loss: Tells whether targets are class indices.
        head: Its name; by default the layer that is registered last.
        start: One of ``HEAD_STARTS``.

    Raises:
        ValueError: There is no such head, or it cannot start so.
    """
    if start not in HEAD_STARTS:
        raise ValueError(f"head_start: got {start!r}; one of {', '.join(HEAD_STARTS)}")
    if head is not None:
        named_head(model, head)
    if start == "learnt":
        return None
    name = last_head(model) if head is None else head
    layer = named_head(model, name)
    if start == "prototypes" and not isinstance(layer, nn.Linear):
        raise ValueError(
            f"head_start: prototypes are rows of a Linear layer, and {name or 'the model'} is a "
            f"{type(layer).__name__}; set it to zero"
        )
    if start == "prototypes" and not takes_class_indices(loss) and type(loss).__module__.startswith("torch.nn."):
        raise ValueError(
            f"head_start: prototypes are means of classes, and {type(loss).__name__} takes no class indices; set it to "
            "zero or learnt"
        )
    parts = head_parts(model, name)
    if tied := [place for place, own in all_places(model).items() if own in parts or place in parts]:
        raise ValueError(
            f"head_start: the head shares a weight ({tied[0]}), which would start so too; set it to learnt"
        )
    return TaskHead(
        name=name,
        start="zero" if start == "zero" else "prototypes",
        parts=parts,
        classifies=start == "prototypes" or takes_class_indices(loss),
        ignored=ignored_index(loss),
        weighed=len(weight) if isinstance(weight := getattr(loss, "weight", None), Tensor) and weight.dim() else None,
    )


def _are_indices(targets: Tree) -> bool:
    return isinstance(targets, Tensor) and targets.dim() == 2 and targets.dtype in (torch.int64, torch.uint8)
