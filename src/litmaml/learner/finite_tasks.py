"""Which tasks of all processes are finite, and the mean gradient over just these.

Lightning takes the mean over accumulated batches, and DDP the mean over processes, however many tasks each is of. With
batch a on rank r of c_ar finite tasks and their mean gradient g_ar, over A batches and W ranks that would be
(1/AW) sum_ar g_ar; wanted is sum_ar c_ar g_ar / sum_ar c_ar. So each batch hands over (c_ar / n) g_ar, with the same n
for all of an outer step, and the sum is corrected by n A W / sum_ar c_ar. Where all tasks are finite and all batches
are of n tasks, both factors are 1, and nothing is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Count(NamedTuple):
    """The tasks of one batch over all processes.

    kept: how many are finite, on each process. sizes: how many there are. bad: the numbers of the others.
    """

    kept: list[int]
    sizes: list[int]
    bad: list[int]


def count_finite(numbers: Tensor, finite: Tensor, processes: int) -> Count:
    """Count a batch's finite tasks; with several processes, every one has to ask, and all get the same answer."""
    kept, size, bad = int(finite.sum()), len(finite), numbers[~finite].tolist()
    if processes == 1:
        return Count([kept], [size], bad)
    mine = torch.tensor([kept, size], device=finite.device)
    pairs = [torch.empty_like(mine) for _ in range(processes)]
    torch.distributed.all_gather(pairs, mine)
    all_kept, sizes = (list(column) for column in zip(*(pair.tolist() for pair in pairs), strict=True))
    if all_kept != sizes:
        lists: list[list[int]] = [[] for _ in range(processes)]
        torch.distributed.all_gather_object(lists, bad)
        bad = sorted(number for part in lists for number in part)
    return Count(all_kept, sizes, bad)


def of_all_processes(values: Tensor, processes: int) -> Tensor:
    """The values (T,) of every process one after another, of which each may have another number."""
    if processes == 1:
        return values
    parts: list[Tensor] = [values] * processes
    torch.distributed.all_gather_object(parts, values)
    return torch.cat([part.to(values.device) for part in parts])


class OuterStep:
    """Weighs the batches of one outer step by their finite tasks; see above."""

    def __init__(self) -> None:
        self._n = 0.0
        self._kept = self._processes = 0

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
