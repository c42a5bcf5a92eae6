"""What an outer step changes, as it was before the step, so that the step can be taken back."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator
from typing import Any, final

import torch
from lightning.pytorch import Trainer
from torch import Tensor

MOST_BYTES = 128 * 2**20
"""Of what is copied: a large GPU does it in a tenth of a millisecond, and keeps it twice."""


@final
class BeforeStep:
    """Weights, the optimizer's state and options, schedules, and Lightning's counts of batches and steps.

    Nothing else changes: a model that keeps something between two passes is refused. Tensors are copied on their
    device, into memory that is made once; nobody waits for it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._optimizer = trainer.optimizers[0]
        self._originals: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._fits = True

    def take(self) -> bool:
        """Keep everything as it is now; whether it is little enough to be kept."""
        self._state = {weight: dict(kept) for weight, kept in self._optimizer.state.items()}
        self._groups = [dict(group) for group in self._optimizer.param_groups]
        tensors = [*self._tensors()]
        if len(tensors) != len(self._originals) or any(map(operator.is_not, tensors, self._originals)):
            self._fits = sum(tensor.nbytes for tensor in tensors) <= MOST_BYTES
            self._originals = tensors
            self._copies = [torch.empty_like(tensor) for tensor in tensors] if self._fits else []
        if not self._fits:
            return False
        _copy(self._originals, self._copies)
        # Of a schedule's lists some are changed in place.
        self._schedules = [copy.deepcopy(each.scheduler.state_dict()) for each in self._trainer.lr_scheduler_configs]
        self._counts = [dict(vars(part)) for part in self._counters()]
        self._lines = self._trainer.fit_loop.epoch_loop._batches_that_stepped
        return True

    def put_back(self) -> None:
        """Make everything what it was."""
        _copy(self._copies, self._originals)
        # The step may have begun a state, or put other tensors into one.
        self._optimizer.state.clear()
        self._optimizer.state.update({weight: dict(kept) for weight, kept in self._state.items()})
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.clear()
            group.update(kept)
        for config, state in zip(self._trainer.lr_scheduler_configs, self._schedules, strict=True):
            config.scheduler.load_state_dict(state)
        for part, counts in zip(self._counters(), self._counts, strict=True):
            vars(part).update(counts)
        self._trainer.fit_loop.epoch_loop._batches_that_stepped = self._lines

    def _tensors(self) -> Iterator[Tensor]:
        for group in self._groups:
            yield from group["params"]
            yield from (option for option in group.values() if isinstance(option, Tensor))
        for kept in self._state.values():
            yield from (value for value in kept.values() if isinstance(value, Tensor))

    def _counters(self) -> Iterator[Any]:
        """What Lightning counts in an epoch, by which a run goes on from a checkpoint."""
        loop = self._trainer.fit_loop.epoch_loop
        steps = loop.automatic_optimization.optim_progress.optimizer
        for progress in (loop.batch_progress, loop.scheduler_progress, steps.step, steps.zero_grad):
            yield from (progress, progress.total, progress.current)


@torch.no_grad()
def _copy(tensors: Iterable[Tensor], into: Iterable[Tensor]) -> None:
    """Copy each tensor, together with those of its kind, for which one call to a device is enough."""
    alike: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for tensor, place in zip(tensors, into, strict=True):
        sources, places = alike.setdefault((tensor.device, tensor.dtype), ([], []))
        sources.append(tensor)
        places.append(place)
    for sources, places in alike.values():
        torch._foreach_copy_(places, sources)
