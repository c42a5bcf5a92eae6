"""The ``torch.autograd.Function``s of a model, each by itself: whether its backward pass is differentiated rightly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from litmaml.learner.trial.applied import applied, of_the_program
from litmaml.learner.trial.function_modes import in_double
from litmaml.learner.trial.state import own_streams

_RADII = (1e-7, 4e-7)
_WRONG = 1e-3
"""The share of a derivative that rounding does not explain, in float64 at these radii."""


class Applied(TorchFunctionMode):
    """A context that notes which ``torch.autograd.Function``s of somebody's model are applied in it.

    Attributes:
        calls: Their classes with the arguments of a first application, one for every form of these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Any, tuple[Any, tuple[Any, ...]]] = {}
        self._last: Any = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The first operation of each: later ones may find other things under its arguments' names.
        if (found := applied()) and found.frame is not self._last:
            self._last = found.frame
            if not of_the_program(found.function):
                self.calls.setdefault((found.function, *map(_form, found.arguments)), found[:2])
        return function(*args, **(kwargs or {}))


def _form(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.shape, argument.dtype, argument.requires_grad
    return argument if isinstance(argument, bool | int | float | str) else type(argument)


def names_tried(noted: Applied) -> set[str]:
    """The names of the functions whose backward passes have right derivatives; of others it could not be tried.

    The backward pass of y = f(x) is a function B(x, g) of x and of the gradient g by y. Whether or not B is the
    derivative of f (it is not where a gradient is reversed or goes straight through), the second derivatives of a model
    are made of those of B, which are compared here with central differences.

    Raises:
        ValueError: One of these is wrong.
    """
    tried: set[str] = set()
    untried: set[str] = set()
    for function, arguments in noted.calls.values():
        name = function.__name__
        try:
            with in_double(), torch.autocast("cpu", enabled=False), torch.enable_grad():
                wrong = _wrong(function, arguments)
        except Exception:  # whatever it does with other numbers, in float64 on the CPU
            untried.add(name)
            continue
        if wrong is not None:
            raise ValueError(
                f"model: the derivative of the backward pass of {name}, a torch.autograd.Function, is not its change, "
                f"it is off by {wrong:.1%}, and with it second derivatives are wrong: write that pass by operations on "
                "what ctx.save_for_backward has kept, none of them detached, or use FirstOrder or FiniteDifference"
            )
        tried.add(name)
    return tried - untried


def _wrong(function: Any, arguments: Sequence[Any]) -> float | None:
    """How far a derivative of B along x or along g is from its difference, if two radii agree; else None."""
    backward = _Backward(function, arguments)
    with own_streams(5, torch.device("cpu")):
        value, leaves = backward.weighed(backward.x)
        point = [leaf.detach() for leaf in leaves]
        steps = [torch.randn_like(part) * (part.square().mean().sqrt() or 1.0) for part in point]
    slopes = [torch.zeros_like(part) for part in point]
    if value.requires_grad:
        slopes = list(torch.autograd.grad(value, leaves, materialize_grads=True))
    least = max(1e-6 * float(value.detach().abs()), 1e-300)
    count = len(backward.x)
    for moved in (range(count), range(count, len(point))):
        along = [step if k in moved else torch.zeros_like(step) for k, step in enumerate(steps)]
        found = sum(float((slope * step).sum()) for slope, step in zip(slopes, along, strict=True))
        near, far = (backward.difference(point, along, radius) for radius in _RADII)
        apart = min(abs(found - near), abs(found - far))
        off = apart / max(abs(found), abs(near), least)
        if off > _WRONG and abs(near - far) < 0.1 * apart:
            return off
    return None


class _Backward:
    """B(x, g) of a function in float64, at the tensors x among its arguments that a gradient is taken by."""

    def __init__(self, function: Any, arguments: Sequence[Any]) -> None:
        self._function, self._given = function, [_double(argument) for argument in arguments]
        self._places = [k for k, a in enumerate(arguments) if isinstance(a, Tensor) and a.requires_grad]
        self.x = [self._given[k] for k in self._places]

    def weighed(self, point: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """<B(x, g), v> for a constant v, and the leaves of its graph: those of x, and those of g.

        Args:
            point: x and g; x alone: some g.
        """
        leaves = [part.clone().requires_grad_() for part in point]
        x = leaves[: len(self._places)]
        arguments = list(self._given)
        for place, leaf in zip(self._places, x, strict=True):
            arguments[place] = leaf.clone()  # a function may write into what it gets
        with own_streams(4, torch.device("cpu")):
            outputs = self._function.apply(*arguments)
        outputs = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if _is_derived(y)]
        if len(leaves) == len(x):
            leaves += [torch.randn_like(y).requires_grad_() for y in outputs]
        pulled = torch.autograd.grad(outputs, x, leaves[len(x) :], create_graph=True, materialize_grads=True)
        everything = torch.cat([part.flatten() for part in pulled])
        return everything @ torch.arange(1.0, len(everything) + 1).cos(), leaves

    def difference(self, point: Sequence[Tensor], along: Sequence[Tensor], radius: float) -> float:
        """The central difference of that number along a direction."""

        def at(length: float) -> float:
            moved = [part + length * step for part, step in zip(point, along, strict=True)]
            return float(self.weighed(moved)[0].detach())

        return (at(radius) - at(-radius)) / (2 * radius)


def _double(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    argument = argument.detach().cpu()
    return argument.double() if argument.is_floating_point() else argument


def _is_derived(output: Any) -> bool:
    return isinstance(output, Tensor) and output.requires_grad
