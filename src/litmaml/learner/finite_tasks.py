"""Which tasks of all processes are finite, and the error that names one that is not."""

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


def count_finite(numbers: Tensor, finite: Tensor, processes: int, whole: bool = False) -> Count:
    """Count a batch's finite tasks; with several processes, every one has to ask, and all get the same answer.

    Args:
        numbers: (T,) of the tasks.
        finite: (T,) whether each is.
        processes: How many there are.
        whole: All are known to be, so that nobody waits for the device to tell.
    """
    size = len(finite)
    kept = size if whole else int(finite.sum())
    bad = numbers[~finite].tolist() if kept < size else []
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
    # By way of the CPU: an object's tensors arrive on the device that they were sent from, that of another process.
    parts: list[Tensor] = [values] * processes
    torch.distributed.all_gather_object(parts, values.cpu())
    return torch.cat([part.to(values.device) for part in parts])


def not_finite(count: Count, stage: str, remedy: str = "") -> FloatingPointError:
    """The error that names the first of a batch's tasks that are not finite, with the remedies."""
    return FloatingPointError(
        f"the loss or gradient of {stage} task {count.bad[0]} is not finite ({len(count.bad)} of {sum(count.sizes)} "
        f"tasks of this batch); {remedy}lower the inner rate, look at the task's data, or set on_nonfinite to skip"
    )
