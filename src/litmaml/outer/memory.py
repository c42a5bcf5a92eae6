"""What an outer gradient holds in memory at its peak, and how many tasks a GPU's memory takes at once."""

from __future__ import annotations

import logging
import math
import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litmaml.randomness import seeded
from litmaml.tasks import Tasks, form, select

logger = logging.getLogger(__name__)

MOST_MEASURED = 4
"""Tasks that are measured: more tell nothing new."""
_SHARE = 0.8
"""Of what is free: the outer optimizer's state is still to come, and memory falls to pieces."""
_MOST_FORMS = 32
"""Forms of tasks that are measured, which takes three small outer gradients each."""


class Held(NamedTuple):
    """What T tasks hold, in bytes: shared + T each."""

    shared: float
    each: float

    @classmethod
    def of(cls, peak: Callable[[int], float], tasks: int) -> Held:
        """By the peaks of at most 4 tasks and of half as many; of one task nothing is shared."""
        many = min(tasks, MOST_MEASURED)
        few, most = many // 2, peak(many)
        each = (most - (peak(few) if few else 0.0)) / (many - few)
        return cls(max(most - many * each, 0.0), each)

    def by(self, tasks: int) -> float:
        """M(T)."""
        return self.shared + tasks * self.each


class Fitting:
    """How many tasks memory holds at once, where nobody has said how many go together.

    On a GPU what a few tasks hold is measured once for each form of tasks, and held against the memory that is free
    when the first form comes. All forms to come are held against the same number, and a run that goes on from a
    checkpoint takes it over: in how many chunks tasks are taken changes the rounding of their sum.
    """

    def __init__(self) -> None:
        self._room: float | None = None
        self._most = sys.maxsize
        self._held: dict[Any, Held] = {}

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps: the bytes there are for tasks, and how many are few enough; or nothing."""
        state: dict[str, float] = {} if self._room is None else {"room": self._room}
        return state if self._most == sys.maxsize else state | {"most": self._most}

    def take(self, state: Any) -> None:
        """Go on as the run that this is the state of; of another form nothing is taken."""
        room, most = (state.get(name) if isinstance(state, dict) else None for name in ("room", "most"))
        self._room = room if isinstance(room, float) else None
        self._most = most if isinstance(most, int) and most >= 1 else sys.maxsize

    def size(self, tasks: Tasks, kind: Any, gradient: Callable[[Tasks], Any], copies: int = 1) -> int:
        """How many of these tasks to take at once.

        Args:
            tasks: T of them.
            kind: What memory depends on beside the form of tasks.
            gradient: Of a few tasks, which is measured.
            copies: How many such gradients live at the same time.
        """
        size = min(tasks.size, self._most)
        free = free_memory(tasks.query.device)
        if free is None or size <= MOST_MEASURED:
            return size
        if self._room is None or (not self._held and self._room > free):  # of a larger device
            self._room = _SHARE * free
        key = kind, copies, form(tasks, lambda part: (part.shape[1:], part.dtype))
        held = self._held.get(key)
        if new := held is None:
            if len(self._held) < _MOST_FORMS:
                held = _measured(tasks, gradient)
            else:  # ever new forms: as the largest
                held = max(self._held.values(), key=lambda each: each.by(size))
            if held is None:
                return size
            self._held[key] = held
        while size > 1 and copies * held.by(size) > self._room:
            size = math.ceil(size / 2)
        if new and size < tasks.size:
            said = "memory holds %d of %d tasks at once, which changes rounding alone; a number that is set stays"
            logger.warning("tasks_per_chunk: " + said, size, tasks.size)
        return size

    def halve(self, size: int) -> bool:
        """Take half as many at once from now on, since so many were too many; whether these are fewer."""
        if size == 1:
            return False
        self._most = size // 2
        logger.warning("tasks_per_chunk: memory does not hold %d tasks at once; from now on it is %d", size, self._most)
        return True


def _measured(tasks: Tasks, gradient: Callable[[Tasks], Any]) -> Held | None:
    """What tasks like these hold; None where their gradient raises an error, which is for the step to tell of."""
    device = tasks.query.device
    try:
        with seeded(0, device):
            gradient(select(tasks, slice(MOST_MEASURED)))  # what is found out once is not counted
            return Held.of(lambda count: peak_of(partial(gradient, select(tasks, slice(count))), device), MOST_MEASURED)
    except torch.OutOfMemoryError:
        return Held(0.0, math.inf)
    except Exception:
        return None


def free_memory(device: torch.device) -> int | None:
    """The bytes of a GPU that nobody uses, with those that torch keeps for its next tensors; elsewhere None."""
    if device.type != "cuda":
        return None
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def peak_of(run: Callable[[], Any], device: torch.device) -> float:
    """The most bytes that live at once of what a run allocates."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before)
    with _Allocations() as allocations:
        run()
    return float(allocations.peak)


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """Bytes of the storages that operations made and that still live: now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._register(leaf.untyped_storage())
        return result

    def _register(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
