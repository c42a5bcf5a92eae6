"""One outer step, of several batches and processes: the mean gradient over just the finite tasks.

Lightning takes the mean over accumulated batches, and DDP the mean over processes, however many tasks each is of. With
batch a on rank r of c_ar finite tasks and their mean gradient g_ar, over A batches and W ranks that would be
(1/AW) sum_ar g_ar; wanted is sum_ar c_ar g_ar / sum_ar c_ar. So each batch hands over (c_ar / n) g_ar, with the same n
for all of an outer step, and the sum is corrected by n A W / sum_ar c_ar. Where all tasks are finite and all batches
are of n tasks, both factors are 1, and nothing is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litmaml.inner.loop import InnerLoop
from litmaml.learner.finite_tasks import Count, of_all_processes
from litmaml.outer import OuterLoss
from litmaml.outer.meta_gradient import MetaGradient
from litmaml.weights import Params


class OuterStep:
    """Weighs the batches of one outer step by their finite tasks, and the next one's afterwards; see above.

    Args:
        inner_loop: Its weights take the step.
        outer_loss: Is told of the losses of each step.

    Attributes:
        without: The steps in a row that had no finite task, by now.
    """

    def __init__(self, inner_loop: InnerLoop, outer_loss: OuterLoss) -> None:
        self._inner_loop, self._outer_loss = inner_loop, outer_loss
        self._n = 0.0
        self._kept = self._processes = self.without = self._computed = 0
        self._losses: list[tuple[Tensor, Tensor]] = []  # of the finite tasks, with their numbers

    def add(self, found: MetaGradient, numbers: Tensor, count: Count, rank: int) -> tuple[Tensor, Params]:
        """The mean loss of this rank's batch, nan of no task at all, and the gradients that it hands over."""
        self._computed += 1
        share, kept = self.share(count, rank), found.finite
        if self._outer_loss.has_own("update"):
            self._losses.append((numbers[kept], found.losses[kept]))
        loss = found.loss if share else torch.full_like(found.loss, torch.nan)
        if share == 1:
            return loss, found.gradients
        return loss, {name: share * gradient for name, gradient in found.gradients.items()}

    def finish(self, batches: int, processes: int) -> bool:
        """Make the weights' gradient the mean over all finite tasks; whether there was any.

        Raises:
            ValueError: The optimizer computes a batch's gradient again, on top of those of the batches before.
        """
        if batches > 1 and self._computed > 1:
            raise ValueError(
                "trainer.accumulate_grad_batches: the optimizer computes gradients several times in a step, and those "
                f"of earlier batches only once, got {batches}; leave it out, and give data.meta_batch all tasks of a "
                "step (memory is set by model.tasks_per_chunk)"
            )
        if self._losses:
            numbers, losses = (torch.cat(parts) for parts in zip(*self._losses, strict=True))
            self._losses = []
            self._outer_loss.update(*(of_all_processes(part, processes) for part in (numbers, losses)))
        correction = self.correction(batches)
        if correction is None:
            self.without += 1
            for weight in self._inner_loop.parameters():
                weight.grad = None  # an optimizer leaves such weights alone, and their momentum
            return False
        self.without = 0
        if correction != 1:
            torch._foreach_mul_([w.grad for w in self._inner_loop.parameters() if w.grad is not None], correction)
        return True

    def check(self, most: int) -> None:
        """End the batch; refuse to go on after so many steps in a row without any finite task.

        Raises:
            FloatingPointError: With the remedy.
        """
        self._computed = 0
        if self.without >= most:
            raise FloatingPointError(
                f"max_skipped: {self.without} outer steps in a row had no task whose loss and gradient are finite; "
                "lower the inner or the outer rate"
            )

    def share(self, count: Count, rank: int) -> float:
        """c_ar / n for this rank's batch."""
        if not self._n:
            self._processes = len(count.sizes)
            self._n = sum(count.sizes) / self._processes
        self._kept += sum(count.kept)
        return count.kept[rank] / self._n

    def correction(self, batches: int) -> float | None:
        """n A W / sum c, for the sum over A = ``batches``; None where no task was finite. Begins the next step."""
        n, kept, processes = self._n, self._kept, self._processes
        self._n, self._kept = 0.0, 0
        return n * batches * processes / kept if kept else None
