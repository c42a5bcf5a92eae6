"""How far training has come, counted in tasks: what goes on with another batch or on other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from litmaml.runs.training_form import cannot_go_on, is_count


class Place(NamedTuple):
    """A place in training, and the numbers of the tasks that follow it.

    epoch: the epoch. first: the number of its first task. seen: of its tasks, those that outer steps were taken on.
    """

    epoch: int = 0
    first: int = 0
    seen: int = 0


class Saved(NamedTuple):
    """A place as a checkpoint has it.

    place: the place. whole: whether the epoch is at its end. train_tasks: the tasks of an epoch. together: those of a
    batch on all processes.
    """

    place: Place
    whole: bool
    train_tasks: int
    together: int


def read_place(state: Any, begun: int, recorded: int | None, now: int) -> Saved:
    """The place in what a checkpoint has of the task data.

    Args:
        state: What it has.
        begun: Epochs that were begun.
        recorded, now: Tasks of an epoch in the run that was saved, if that is known, and in this one.

    Raises:
        ValueError: It is no such place.
    """
    if not isinstance(state, Mapping) or {*Saved._fields} - state.keys() or not _three(state["place"]):
        raise cannot_go_on("TaskDataModule", "is no place in training")
    saved = Saved(Place(*state["place"]), *(state[name] for name in Saved._fields[1:]))
    counts = {**saved.place._asdict(), "train_tasks": saved.train_tasks, "together": saved.together}
    if odd := [name for name, value in counts.items() if not is_count(value)]:
        raise cannot_go_on(f"TaskDataModule.{odd[0]}", "is no count")
    if recorded is not None and saved.train_tasks not in (recorded, now):
        raise cannot_go_on("TaskDataModule.train_tasks", f"the run had {recorded}, got {saved.train_tasks}")
    if not saved.together or saved.train_tasks % saved.together:
        raise cannot_go_on(
            "TaskDataModule.together", f"has to divide the {saved.train_tasks} tasks of an epoch, got {saved.together}"
        )
    if type(saved.whole) is not bool:
        raise cannot_go_on("TaskDataModule.whole", "is neither true nor false")
    if saved.place.seen > saved.train_tasks or saved.place.epoch > begun:
        raise cannot_go_on(
            "TaskDataModule.place", f"lies beyond the {begun} epochs of {saved.train_tasks} tasks that the run began"
        )
    return saved


def _three(place: object) -> bool:
    return isinstance(place, list) and len(place) == 3


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
