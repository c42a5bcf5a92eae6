"""What the layers hand to each other: trees of tensors, batches, and stacks of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from litmaml.weights import Params

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Tree = Any
"""A tensor, or a dict or tuple of trees; named tuples, such as the ones below, too. None is a tree without a tensor."""

T = TypeVar("T")


# By hand, since torch's own takes thirty microseconds for two batches, a tenth of a small network's compiled step.
# Whether something is a tensor is asked last, which takes long of what is none.
def tree_map(change: Callable[..., Any], tree: T, *others: Any) -> T:
    """The tree with each tensor changed, together with those that stand in the same place of other trees."""
    made: Any = tree
    if isinstance(tree, tuple):
        parts = [tree_map(change, *same) for same in zip(tree, *others, strict=True)]
        made = type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    elif isinstance(tree, dict):
        made = {key: tree_map(change, part, *(other[key] for other in others)) for key, part in tree.items()}
    elif tree is not None and isinstance(tree, Tensor):
        made = change(tree, *others)
    return cast(T, made)


def flattened(tree: Tree) -> tuple[list[Tensor], Any]:
    """The tensors of a tree in order, and what is left of it without them, as something that can be a key."""
    found: list[Tensor] = []

    def rest(part: Tree) -> Any:
        if isinstance(part, tuple):
            return tuple([rest(each) for each in part])
        if isinstance(part, dict):
            return (*part, *[rest(each) for each in part.values()])
        if part is not None and isinstance(part, Tensor):
            found.append(part)
        return (part,) if isinstance(part, int) else part is None

    kept = rest(tree)
    return found, kept


def tensors_of(tree: Tree) -> list[Tensor]:
    """The tensors of a tree in order."""
    return [tree] if isinstance(tree, Tensor) else flattened(tree)[0]


def named_tensors(tree: Tree, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree with names as in Python: ``inputs``, ``inputs['image']``, ``inputs[0]``."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict | tuple):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from named_tensors(part, f"{name}[{key!r}]")


def form(tree: Tree, of: Callable[[Tensor], Any]) -> Any:
    """The tree's form as something that can be a key: its parts' names, and what a function tells of each tensor."""
    tensors, rest = flattened(tree)
    return (*map(of, tensors), rest)


def copies(tree: T) -> T:
    """The tree of copies of its tensors."""
    return tree.clone() if isinstance(tree, Tensor) else tree_map(Tensor.clone, tree)  # type: ignore[return-value]


def select(tree: T, which: slice | Sequence[int] | Tensor) -> T:
    """The chosen rows of each tensor of a tree, in the given order: of a stack its tasks, of inputs examples."""
    return tree_map(lambda part: part[which], tree)


def count_of(tree: Tree) -> int:
    """The number of rows of the tensors of a tree."""
    return len(tensors_of(tree)[0])


def forms(tree: Tree) -> str:
    """The shapes and dtypes of a tree, for people, to whom thousands of numbers say nothing; no parts that are None.

    >>> forms({"ids": torch.zeros(2, 3, dtype=torch.int64), "mask": None})
    "{'ids': (2, 3) int64, 'mask': None}"
    """
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape)} {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {forms(part)}" for key, part in tree.items()) + "}"
    if hasattr(tree, "_fields"):
        parts = [f"{name}={forms(part)}" for name, part in zip(tree._fields, tree, strict=True) if part is not None]
        return f"{type(tree).__name__}({', '.join(parts)})"
    if isinstance(tree, tuple):
        return "(" + ", ".join(map(forms, tree)) + ("," if len(tree) == 1 else "") + ")"
    return repr(tree)


class Batch(NamedTuple):
    """Labelled examples of T stacked tasks, n of each.

    inputs: A tensor (T, n, ...), or a tree of such: the model gets a tuple's parts by position, a dict's by keyword.
    targets: (T, n) class indices, or (T, n, ...) values, or a tree of such, which the loss gets as it is.
    """

    inputs: Tree
    targets: Tree

    def __repr__(self) -> str:
        return forms(self)

    @property
    def device(self) -> torch.device:
        """Of its tensors."""
        return self._first.device

    @property
    def tasks(self) -> int:
        """T."""
        return len(self._first)

    @property
    def examples(self) -> int:
        """n."""
        return self._first.shape[1]

    @property
    def _first(self) -> Tensor:
        return self.inputs if isinstance(self.inputs, Tensor) else tensors_of(self.inputs)[0]

    def task(self, k: int) -> Batch:
        """The examples of one task alone, (n, ...)."""
        return tree_map(lambda part: part[k], self)

    def rows(self, which: slice | Sequence[int] | Tensor) -> Batch:
        """The chosen tasks."""
        return select(self, which)


class StepTasks(NamedTuple):
    """What T tasks bring to one inner step.

    support: The batch that it adapts to. hessian: The batch of the Hessian products, or None: the support batch.
    directions: Of a sampled outer gradient, by weight (T, Q, ...), or None.
    """

    support: Batch
    hessian: Batch | None = None
    directions: Params | None = None


class Tasks(NamedTuple):
    """T stacked tasks.

    support: what the inner loop adapts to: one batch that every inner step uses again (the finite-sum case of
        Ji et al.), or N batches, a fresh one for each of N inner steps (resampling; S_j, Fallah's D_in).
    query: what the outer loss is taken on (T, D_o).
    hessian: N batches for the Hessian products (D_j, D_h), or None: each step's own support batch.
    numbers: (T,) int64, the task numbers; they name a task in errors and seed its random directions.
    directions: What a sampled outer gradient draws for each of N inner steps, by weight (T, Q, ...), or None.
    weights: (T,) what each task counts in the outer loss, 1 on the average, or None: all alike.
    classes: The number of classes of each of them, where their heads are made for it, or None.
    """

    support: tuple[Batch, ...]
    query: Batch
    numbers: Tensor
    hessian: tuple[Batch, ...] | None = None
    directions: tuple[Params, ...] | None = None
    weights: Tensor | None = None
    classes: int | None = None

    def __repr__(self) -> str:
        return forms(self)

    def step(self, j: int) -> StepTasks:
        """What inner step ``j`` takes; where there are fewer batches than steps, they go round."""
        return StepTasks(
            self.support[j % len(self.support)],
            None if self.hessian is None else self.hessian[j % len(self.hessian)],
            None if self.directions is None else self.directions[j],
        )

    def check_batches(self, steps: int) -> None:
        """Refuse numbers of batches that do not fit N = ``steps`` inner steps.

        Raises:
            ValueError: There are neither one nor N.
        """
        for batches in (self.support, self.hessian or self.support):
            if len(batches) not in (1, steps):
                raise ValueError(
                    f"support_batches, hessian_batches: {len(batches)} per task do not fit {steps} inner steps; set "
                    "support_batches to 1 or to the number of steps"
                )

    @property
    def size(self) -> int:
        """T, the number of tasks."""
        return len(self.numbers)

    @property
    def adapting(self) -> tuple[Batch, ...]:
        """The batches that inner steps are taken on: support, and Hessian products' own."""
        return self.support + (self.hessian or ())


MetaBatch = Tasks | Sequence[Tasks]
"""Tasks of one size, or of several: one stack for each size, which no chunk crosses. Means are over tasks."""


def stacks_of(tasks: MetaBatch) -> tuple[Tasks, ...]:
    """The stacks of tasks of one size."""
    return (tasks,) if isinstance(tasks, Tasks) else tuple(tasks)


def numbers_of(tasks: MetaBatch) -> Tensor:
    """The numbers (T,) of all tasks, stack after stack."""
    return tasks.numbers if isinstance(tasks, Tasks) else torch.cat([stack.numbers for stack in tasks])


def in_stacks(tasks: Iterable[Tasks]) -> tuple[Tasks, ...]:
    """Stacks of those tasks that have one size, in the order in which their sizes come first.

    A hundred sizes make a hundred small stacks, each of which costs a pass: a data source may round them.

    Args:
        tasks: One or some of one size each, without directions and weights.

    Example:
        >>> def task(number, n):
        ...     batch = Batch(torch.zeros(1, n, 2), torch.zeros(1, n))
        ...     return Tasks((batch,), batch, torch.tensor([number]))
        >>> [stack.numbers.tolist() for stack in in_stacks([task(0, 3), task(1, 5), task(2, 3)])]
        [[0, 2], [1]]
    """
    alike: dict[Any, list[Tasks]] = {}
    for some in tasks:
        alike.setdefault(form(some, lambda part: (part.shape[1:], part.dtype)), []).append(some)
    return tuple(tree_map(lambda *parts: torch.cat(parts), *same) for same in alike.values())


def of_each_form(batches: Iterable[Batch], sized: bool = False) -> list[Batch]:
    """The first batch of each form: shapes and dtypes of single inputs and targets; ``sized``: and their number."""
    first: dict[Any, Batch] = {}
    for batch in batches:
        first.setdefault(form(batch, lambda part: (part.shape[1 if sized else 2 :], part.dtype)), batch)
    return [*first.values()]


def map_batches(change: Callable[[Batch], Batch], tasks: Tasks) -> Tasks:
    """The tasks with each of their batches changed."""
    return tasks._replace(
        support=tuple(change(batch) for batch in tasks.support),
        query=change(tasks.query),
        hessian=None if tasks.hessian is None else tuple(change(batch) for batch in tasks.hessian),
    )


def chunks(tasks: Tasks, size: int) -> list[Tasks]:
    """The tasks in order, at most ``size`` at a time."""
    if size >= tasks.size:
        return [tasks]
    return [select(tasks, slice(start, start + size)) for start in range(0, tasks.size, size)]


def ordinary(tasks: Tasks) -> Tasks:
    """The tasks, with copies of inference tensors, which autograd may not save."""
    return copies(tasks) if tensors_of(tasks.query)[0].is_inference() else tasks
