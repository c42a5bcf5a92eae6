"""Inner rates: fixed, or learnt by the outer loop, one for all weights, per tensor or per parameter."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from litmaml.weights import Params

Learn = Literal["none", "one", "tensor", "parameter"]
_CHOICES = ("none", "one", "tensor", "parameter")


def check_rate(lr: float, learn: str, per_step: bool) -> None:
    """Refuse a rate that is not positive, and what cannot be learnt.

    Raises:
        ValueError: With the argument's name.
    """
    if isinstance(lr, str) or not 0 < lr < math.inf:
        raise ValueError(f"lr: the inner rate has to be a positive number, got {lr!r}")
    if learn not in _CHOICES:
        raise ValueError(f"learn: got {learn!r}; one of {', '.join(_CHOICES)}")
    if per_step and learn == "none":
        raise ValueError("per_step: only learnt rates can differ by step; set learn to one, tensor or parameter")


def learnt_rates(lr: float, learn: Learn, per_step: bool, fast: Params, steps: int) -> Params:
    """The rates where learning starts: all ``lr``, with a leading dimension for the N = ``steps`` steps if per step.

    Raises:
        ValueError: A weight is complex, whose rate would be too.
    """
    if learn == "none":
        return {}
    if complex_ones := [name for name, weight in fast.items() if weight.is_complex()]:
        raise ValueError(
            f"learn: a rate of the complex weight {complex_ones[0]} would be complex; set learn to none, or hold the "
            "weight as a real parameter with torch.view_as_complex"
        )
    lead = (steps,) if per_step else ()
    if learn == "one":
        anyone = next(iter(fast.values()))
        return {"rate": anyone.new_full(lead, lr)}
    return {
        f"rate.{name}": weight.new_full(lead + (tuple(weight.shape) if learn == "parameter" else ()), lr)
        for name, weight in fast.items()
    }


def is_rate(name: str) -> bool:
    """Whether what is learnt by this name is a rate."""
    return name == "rate" or name.startswith("rate.")


def rate(lr: float, learn: Learn, per_step: bool, learnt: Params, name: str, j: int) -> float | Tensor:
    """The rate of a weight in inner step ``j``; steps beyond those trained go on with the last one's."""
    if learn == "none":
        return lr
    found = learnt["rate" if learn == "one" else f"rate.{name}"]
    return found[min(j, len(found) - 1)] if per_step else found
