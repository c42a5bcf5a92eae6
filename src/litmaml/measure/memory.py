"""What an outer gradient holds in memory, measured, and how that grows with tasks and inner steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient
from litmaml.outer.memory import MOST_MEASURED, Held, peak_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks, select


@dataclass(frozen=True)
class Memory:
    """What the outer gradient of a chunk of T tasks by N >= 2 inner steps holds at its peak, beyond weights and data:

        M(T, N) = shared + T (task + N step)

    shared: However many tasks there are. task: For each, mostly of the query's pass. step: For each of its inner steps;
    by unrolling the pass of a step with its second derivatives, by recomputing the fast weights alone. All in MB.
    """

    shared: float
    task: float
    step: float

    def megabytes(self, tasks: int, steps: int) -> float:
        """M(T, N)."""
        return self.shared + tasks * (self.task + steps * self.step)


def memory_of(inner_loop: InnerLoop, outer_gradient: OuterGradient, tasks: Tasks) -> Memory:
    """The three numbers, by outer gradients of at most 4 tasks by 2 and 4 steps; of one task nothing is shared."""
    less, more = 2, 4

    @cache
    def peak(steps: int, count: int) -> float:
        some = select(tasks, slice(0, count))
        compute = MetaGradientOf(inner_loop, outer_gradient, steps, tasks_per_chunk=count)
        compute(some)  # what is found out once is not counted
        return peak_of(partial(compute, some), some.query.device) / 2**20

    short, many = Held.of(partial(peak, less), tasks.size), min(tasks.size, MOST_MEASURED)
    step = max(peak(more, many) - peak(less, many), 0.0) / (more - less) / many
    return Memory(shared=short.shared, task=short.each - less * step, step=step)
