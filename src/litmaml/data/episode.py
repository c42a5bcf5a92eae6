"""How many examples a task consists of: what is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from litmaml.shown import spelled


@dataclass(frozen=True, kw_only=True, repr=False)
class Episode:
    """The numbers of classes, examples and batches of one task.

    A number that is left out is the task source's own, and of ``test`` that of ``train``.

    Args:
        ways: Classes of a task; only where tasks have classes.
        shots: Support examples (of each class, in classification) in one support or Hessian batch.
        queries: Query examples (of each class, in classification).
        support_batches: 1: every inner step uses the same support batch (the finite-sum case). N: a fresh one for
            each of N inner steps (the resampling case).
        hessian_batches: 0: the Hessian products of the outer gradient use each step's own support batch. N: a fresh
            batch for each of N inner steps.
    """

    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    support_batches: int | None = None
    hessian_batches: int | None = None

    def __repr__(self) -> str:
        return spelled(self)

    def over(self, default: Episode) -> Episode:
        """This episode with the numbers of another one where it leaves them out."""
        return replace(default, **{name: number for name, number in asdict(self).items() if number is not None})


class Sizes(NamedTuple):
    """The numbers of an episode, none left out; ``ways`` is 0 where tasks have no classes."""

    ways: int
    shots: int
    queries: int
    support_batches: int
    hessian_batches: int

    @property
    def batches(self) -> list[int]:
        """The examples (of each class) in each batch of a task: the support, the Hessian batches, the query."""
        return [self.shots] * (self.support_batches + self.hessian_batches) + [self.queries]


FEW_SHOT = Episode(ways=5, shots=1, queries=15, support_batches=1, hessian_batches=0)
"""Of classification, if nothing else is asked for."""

NOT_SAID = Episode()
"""Of a task source that has numbers of its own."""

AS_IN_TRAINING = Episode()

LEAST = Episode(ways=2, shots=1, queries=1, support_batches=1, hessian_batches=0)
"""The least that each number may be."""

LEAST_WITHOUT_CLASSES = replace(LEAST, ways=None)


def sizes_of(episode: Episode, name: str, least: Episode) -> Sizes:
    """The numbers of an episode, once they are checked.

    Args:
        episode: With all numbers, but ``ways`` where tasks have no classes.
        name: The argument that it is, train or test.
        least: The least that each number may be; without ``ways`` where tasks have no classes.

    Raises:
        ValueError: Naming the number.
    """
    found, bounds = asdict(episode), asdict(least)
    if found["ways"] is not None and bounds["ways"] is None:
        raise ValueError(f"{name}.ways: these tasks have no classes, got {found['ways']}; leave it out")
    for field, number in found.items():
        if number is None and field != "ways":
            raise ValueError(f"{name}.{field}: has to be a number, got none; give one, such as {bounds[field]}")
        if number is not None and number < bounds[field]:
            raise ValueError(
                f"{name}.{field}: must be at least {bounds[field]}, got {number}; give {bounds[field]} or more"
            )
    return Sizes(**{field: number or 0 for field, number in found.items()})
