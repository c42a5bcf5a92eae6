"""Sinusoids of unequal size, for what has to take stacks of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from litmaml.data import Sinusoid
from litmaml.tasks import MetaBatch, Split, Tasks, in_stacks


class UnequalSines(Sinusoid):
    """A sinusoid of an odd number has 3 support points and 8 of the query, another one 6 and 4."""

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:  # type: ignore[override]
        return in_stacks([_cut(Sinusoid.sample(self, split, [number], seed)) for number in numbers])


def _cut(task: Tasks) -> Tasks:
    odd = bool(task.numbers % 2)
    (support,), query = task.support, task.query
    s, q = (3, 8) if odd else (6, 4)
    return task._replace(
        support=(support._replace(inputs=support.inputs[:, :s], targets=support.targets[:, :s]),),
        query=query._replace(inputs=query.inputs[:, :q], targets=query.targets[:, :q]),
    )
