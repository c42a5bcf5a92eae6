"""What can be said of tasks from their data alone, before a model is trained on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from litmaml.data.leakage import fingerprints
from litmaml.tasks import Batch, MetaBatch, Tasks, Tree, named_tensors, stacks_of, tensors_of, tree_map


def check_data(tasks: Tasks, weights: torch.dtype | None = None, finite: bool = True) -> None:
    """Refuse tasks without examples, of unlike sizes, with numbers that are NaN or infinite, or of no tensors.

    Args:
        tasks: As the learner gets them.
        weights: The dtype of the model's weights, which floating point inputs have to share; None if any will do.
        finite: Whether NaN and infinite numbers are refused.

    Raises:
        ValueError: Naming inputs or targets, the batch, and the task.
    """
    for name, batch in _batches(tasks):
        _check_tree(name, batch)
        for what, part in (*named_tensors(batch.inputs, "inputs"), *named_tensors(batch.targets, "targets")):
            shape = tuple(part.shape)
            if len(shape) < 2 or shape[0] != tasks.size:
                raise ValueError(
                    f"{what}: the {name} has the shape {shape}, but of {tasks.size} tasks it has to be "
                    f"({tasks.size}, examples, ...); stack the tasks in the first dimension"
                )
            if 0 in shape:
                raise ValueError(f"{what}: the {name} is empty, {shape}; give each task at least one example")
            if finite and (part.is_floating_point() or part.is_complex()) and not part.isfinite().all():
                raise ValueError(_not_finite(tasks, what, name, batch, part))
            if shape[1] != batch.examples:
                raise ValueError(
                    f"{what}: the {name} has {batch.examples} inputs per task and {shape[1]} {what}; give one "
                    "target for each input"
                    if what == "targets"
                    else f"{what}: the {name} has {shape[1]} of them per task, and {batch.examples} of the first "
                    "input; give one of each for every example"
                )
        for what, part in named_tensors(batch.inputs, "inputs"):
            if weights is not None and part.dtype.is_floating_point and part.dtype != weights:
                raise ValueError(
                    f"{what}: the {name} is of {part.dtype} and the model's weights are of {weights}; convert the "
                    f"inputs by .to({weights}), or set trainer.precision"
                )


def check_overlap(tasks: Tasks) -> None:
    """Refuse tasks whose queries were seen in adaptation, and tell of single examples that were.

    An example is its inputs and its targets, compared byte by byte. Where both are the whole of a finite problem this
    is meant; see ``TaskDistribution.shares_examples``.

    Args:
        tasks: As the learner gets them.

    Raises:
        ValueError: Every query example of every task stands in its support too.

    Warns:
        UserWarning: Some do, with their number and the first of them.
    """
    seen, found = 0, ""
    for number, batches in _by_task(tasks):
        *adapting, query = [_examples(batch) for batch in batches]
        support = {example for batch in adapting for example in batch}
        both = [place for place, example in enumerate(query) if example in support]
        seen += len(both)
        if both and not found:
            found = f"the first is query example {both[0]} of task {number}"
    total = tasks.size * tasks.query.examples
    if not seen:
        return
    text = f"query: {seen} of {total} examples of the first batch stand in the support of their task too ({found})"
    if seen == total:
        raise ValueError(
            f"{text}, so that learning by heart looks like learning; draw support and query without replacement, or "
            "set shares_examples = True in the task distribution if this is meant"
        )
    warnings.warn(
        f"{text}: what is measured on them is too good, unless equal examples come up by chance, as with few discrete "
        "inputs; draw support and query without replacement",
        stacklevel=2,
    )


def check_splits(training: MetaBatch, evaluation: MetaBatch) -> None:
    """Tell of tasks that are trained on and evaluated with, compared byte by byte as the learner gets them.

    Warns:
        UserWarning: Every task of the smaller batch stands in the other too.
    """
    first, second = (
        {
            b"".join(sorted(mark for batch in batches for mark in _examples(batch)))
            for stack in stacks_of(tasks)
            for _, batches in _by_task(stack)
        }
        for tasks in (training, evaluation)
    )
    if first <= second or second <= first:
        warnings.warn(
            f"tasks: {min(len(first), len(second))} of the first in training and in evaluation are the same, so that "
            "what is measured on them is too good; let sample() draw others for each split",
            stacklevel=2,
        )


def check_classes(tasks: Tasks, ignored: int | None = -100) -> None:
    """Tell of class indices that are in the query alone or contradict each other.

    Args:
        tasks: Of classification, as the learner gets them; others than one class per example pass.
        ignored: The index that the loss leaves out.

    Raises:
        ValueError: All examples of a task are the same, whatever their class.

    Warns:
        UserWarning: With the first such classes and task.
    """
    if not (known := _class_indices(tasks, ignored)):
        return
    unknown = [(number, labels[-1] - set[int]().union(*labels[:-1])) for number, labels in known]
    if alone := [(number, classes) for number, classes in unknown if classes]:
        number, classes = alone[0]
        warnings.warn(
            f"targets: in {len(alone)} of {tasks.size} tasks the query has classes that the support has no example of "
            f"(task {number}: {_listed(sorted(classes))}); nothing about them can be learnt from the support",
            stacklevel=2,
        )
    _warn_of_contradictions(tasks)


def check_class_numbers(stacks: Sequence[Tasks], ignored: int | None = -100) -> None:
    """Tell of class indices that are not numbered 0, 1, ..., where all tasks of a batch have the same.

    Args:
        stacks: Of the batch. Tasks that lack a class may be alike in one stack and not in another.
        ignored: The index that the loss leaves out.

    Warns:
        UserWarning: With the classes.
    """
    of_tasks = [
        frozenset(set[int]().union(*labels)) for stack in stacks for _, labels in _class_indices(stack, ignored)
    ]
    if len(of_tasks) < 2 or len({*of_tasks}) > 1:
        return
    one = of_tasks[0]
    if one and one != {*range(len(one))}:
        warnings.warn(
            f"targets: the classes of each task are {_listed(sorted(one))}; number them from 0 on without gaps, or the "
            "model has outputs that no example is of",
            stacklevel=2,
        )


def _class_indices(tasks: Tasks, ignored: int | None) -> list[tuple[int, list[set[int]]]]:
    """The number of each task and the classes of each of its batches; none where targets are no class per example."""
    targets = tasks.query.targets
    if not isinstance(targets, Tensor) or targets.dim() != 2 or targets.is_floating_point():
        return []
    return [
        (number, [{*batch.targets.tolist()} - {ignored} for batch in batches]) for number, batches in _by_task(tasks)
    ]


def _warn_of_contradictions(tasks: Tasks) -> None:
    """Looks for the same inputs under two classes."""
    count, where = 0, -1
    for number, batches in _by_task(tasks):
        classes: dict[bytes, set[int]] = {}
        for batch in batches:
            for mark, label in zip(_marks(batch.inputs), batch.targets.tolist(), strict=True):
                classes.setdefault(mark, set()).add(label)
        if len(classes) == 1 and max(map(len, classes.values())) > 1:
            raise ValueError(
                f"inputs: all examples of task {number} are the same, whatever their class; look at what the data are "
                "read from, such as images that are black after scaling"
            )
        double = sum(len(labels) > 1 for labels in classes.values())
        count += double
        where = number if double and where < 0 else where
    if count:
        warnings.warn(
            f"targets: {count} inputs of the first batch stand in two classes of their task (the first in task "
            f"{where}); look for copies or wrong labels in the data",
            stacklevel=3,
        )


def _batches(tasks: Tasks) -> Iterator[tuple[str, Batch]]:
    """All batches with their names."""
    for name, batches in (("support", tasks.support), ("Hessian batch", tasks.hessian or ())):
        for k, batch in enumerate(batches):
            yield (name if len(batches) == 1 else f"{name} {k}"), batch
    yield "query", tasks.query


def _by_task(tasks: Tasks) -> Iterator[tuple[int, list[Batch]]]:
    """The number and the batches (n, ...) of each task, the query last, on the CPU."""
    batches = [tree_map(Tensor.cpu, batch) for _, batch in _batches(tasks)]
    for row, number in enumerate(tasks.numbers.tolist()):
        yield number, [batch.task(row) for batch in batches]


def _examples(batch: Batch) -> list[bytes]:
    """Inputs and targets of each example as one fingerprint."""
    return _marks(batch)


def _marks(tree: Tree) -> list[bytes]:
    """The tensors (n, ...) of a tree as one fingerprint for each of n examples."""
    return [b"".join(marks) for marks in zip(*map(fingerprints, tensors_of(tree)), strict=True)]


_TUPLES = "make tuples of lists, and leave out what is None"
_PADDED = (
    "pad the graphs to one number of nodes and give a dict, such as nodes (T, n, nodes, features), edges (T, n, nodes, "
    "nodes) and there (T, n, nodes), 1 where a node is, which the model gets by keyword"
)
UNEQUAL = "give tasks of unequal size in several stacks, which litmaml.tasks.in_stacks makes of single ones"
_INSTEAD = {"torch_geometric": _PADDED, "dgl": _PADDED}
"""What to do about an object of a package that joins graphs of other sizes in one."""


def _check_tree(name: str, batch: Batch) -> None:
    """Refuse what is no tensor in inputs or targets."""
    for what, tree in (("inputs", batch.inputs), ("targets", batch.targets)):
        if other := [part for part in _ends(tree) if not isinstance(part, Tensor) or part.is_nested]:
            kind = "nested tensor" if isinstance(other[0], Tensor) else type(other[0]).__name__
            raise ValueError(
                f"{what}: the {name} has to be a tensor, or a dict or tuple of tensors, got a {kind} there; "
                f"{_instead_of(other[0])}"
            )
        if not tensors_of(tree):
            raise ValueError(f"{what}: the {name} has no tensor, got {tree!r}; give at least one")


def _instead_of(other: object) -> str:
    """What to give in the place of what is no tensor, or of a list of such."""
    parts = other if isinstance(other, list) else []
    if isinstance(other, Tensor) or len({part.shape for part in parts if isinstance(part, Tensor)}) > 1:
        return UNEQUAL
    if parts:
        return _instead_of(parts[0])
    # A joined graph is of a class that is made as it is needed, and named otherwise than those that it is made of.
    libraries = [kind.__module__.partition(".")[0] for kind in type(other).__mro__]
    return next((_INSTEAD[library] for library in libraries if library in _INSTEAD), _TUPLES)


def _ends(tree: Tree) -> Iterator[object]:
    if isinstance(tree, dict | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _ends(part)
    else:
        yield tree


def _not_finite(tasks: Tasks, what: str, name: str, batch: Batch, part: Tensor) -> str:
    """Which example holds NaN or an infinite number."""
    wrong = ~part.isfinite().flatten(2) if part.dim() > 2 else ~part.isfinite().unsqueeze(-1)
    task, example = (int(place) for place in wrong.any(-1).nonzero()[0])
    labels = batch.targets
    classes = isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point()
    label = "" if not classes else f" (class {int(labels[task, example])})"
    value = part[task, example].flatten()[wrong[task, example]][0].item()
    return (
        f"{what}: example {example}{label} of the {name} of task {int(tasks.numbers[task])} holds {value}, one of "
        f"{int(wrong.any(-1).sum())} such examples; take it out, or put a number there and say in one more input that "
        "it is missing"
    )


def _listed(classes: Sequence[int]) -> str:
    """A few numbers of many."""
    more = f", ... {classes[-1]}" if len(classes) > 6 else ""
    return ", ".join(map(str, classes[:6])) + more
