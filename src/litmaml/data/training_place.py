"""How far training has come, counted in tasks: what goes on with another batch or on other processes."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A place in training, and the numbers of the tasks that follow it.

    epoch: the epoch. first: the number of its first task. seen: of its tasks, those that outer steps were taken on.
    """

    epoch: int = 0
    first: int = 0
    seen: int = 0


class Batches(NamedTuple):
    """What is left of an epoch: batches of tasks, counted from the epoch's beginning.

    done: how many batches came before, as if all had been of this size. left: the tasks of each further batch.
    """

    done: int
    left: list[range]


def batches_left(length: int, together: int, ranks: int, seen: int) -> Batches:
    """The batches after ``seen`` of an epoch's ``length`` tasks, ``together`` at a time on all ``ranks``.

    Batches end at multiples of ``together``. Where a run goes on in between, since its batches were of another size,
    the first is the rest up to there, and with too few tasks for all processes the one after it, too.

    >>> batches_left(24, 8, 1, 12)
    Batches(done=1, left=[range(12, 16), range(16, 24)])

    Raises:
        ValueError: At the very end of the epoch there are too few tasks for all processes.
    """
    done = seen // together
    if seen >= length:
        return Batches(length // together, [])
    end = (done + 1) * together
    if end - seen < ranks:
        if end >= length:
            raise ValueError(
                f"trainer.devices: {end - seen} of the epoch's {length} tasks are left, too few for {ranks} processes; "
                f"finish the epoch with at most {end - seen}"
            )
        done, end = done + 1, end + together
    return Batches(done, [range(seen, end), *(range(k, k + together) for k in range(end, length, together))])
