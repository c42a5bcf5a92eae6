"""What is drawn: random numbers of a model, replayed for the oracle, and directions, fixed for both."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from oracles import Directions
from torch import Tensor, nn

from litmaml.outer import estimators
from litmaml.tasks import Tasks


class Drawn:
    """The state of the random generators at each forward pass of a model, by what it is given."""

    def __init__(self, model: nn.Module) -> None:
        self.passes: list[tuple[Tensor, Any]] = []
        self.mapped = False
        self.handle = model.register_forward_pre_hook(self._record)

    def _record(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if torch._C._functorch.is_functorch_wrapped_tensor(args[0]):
            self.mapped = True
        else:
            state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  # as models draw
            self.passes.append((args[0].clone(), state))

    def _of(self, inputs: Tensor) -> list[Any]:
        return [state for given, state in self.passes if torch.equal(given, inputs)]

    def replay(self, tasks: Tasks, steps: int) -> Callable[[int, int], None]:
        def draw(task: int, j: int) -> None:
            if j == steps:
                state = self._of(tasks.query.inputs[task])[0]
            elif len(tasks.support) == 1:
                state = self._of(tasks.support[0].inputs[task])[j]
            else:
                state = self._of(tasks.support[j].inputs[task])[0]
            _set(state)

        return draw

    def put_back(self, inputs: Tensor, again: int) -> None:
        """The generators as they were at one of the passes of these inputs, which are counted from 0."""
        _set(self._of(inputs)[again])


def _set(state: Any) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002  # as models draw
    random.setstate(state[2])


class FixedDirections(Directions):
    """A context in which each Hop draws the points given, for every task."""

    def __enter__(self) -> None:
        self.before = vars(estimators)["normal_directions"]
        vars(estimators)["normal_directions"] = self

    def __exit__(self, *error: object) -> None:
        vars(estimators)["normal_directions"] = self.before
