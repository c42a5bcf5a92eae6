"""Whether two sets of predictions are one but for rounding, each output judged by its own size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litmaml.learner.trial.function_modes import in_double
from litmaml.learner.trial.model_copy import copy_of, in_double_precision
from litmaml.tasks import Tree, copies, tree_map

_AT_LEAST = 1e-5
"""The share of an output's size that a sum in another order may change, where the model is taken in float64 too."""

_SMALLEST = 1e-3
"""The share of the largest output below which another one's size is not told from its rounding."""


def rounding_share(dtype: torch.dtype) -> float:
    """The share of an output's size that rounding in a precision explains; the model itself is not looked at."""
    return min(1e3 * torch.finfo(dtype).eps, 1e-2)


def sizes(outputs: Tensor) -> Tensor:
    """The largest finite number of each output over the n examples, of outputs (n, ...) or of a single number."""
    numbers = outputs.detach().abs().nan_to_num(0, 0, 0).double()
    if not numbers.numel() or not numbers.dim():
        return numbers
    of_each = numbers.amax(0)
    return of_each.clamp(min=_SMALLEST * float(of_each.max()))


def rounding_of(model: nn.Module, inputs: Tree) -> Tensor:
    """How far each output may be off by rounding alone.

    Ten times as far as the model in its own precision is off from itself in float64 on these inputs, and at least
    1e-5 of the output's size. Where it does not take float64: ``rounding_share`` of the size.

    Args:
        model: In eval mode; called with the inputs alone it gives a tensor. It is not changed.
        inputs: Some inputs (n, ...), or a tree of such.
    """
    with torch.no_grad():
        own: Tensor = model(copies(inputs))
        exact = _in_double(model, inputs)
    if exact is None or exact.shape != own.shape:
        return rounding_share(own.dtype) * sizes(own)
    apart = (own.to(exact) - exact).abs().nan_to_num(0, 0, 0).amax(0)  # of what is not finite nothing is told
    return torch.maximum(10 * apart, _AT_LEAST * sizes(exact)).to(own.device)


def off(found: Tensor, wanted: Tensor, allowed: Tensor) -> float:
    """The largest difference, if one is larger than allowed for its output; else 0. NaN is NaN."""
    if found.shape != wanted.shape:
        return float("inf")
    one, other = (x.detach().to(torch.complex128 if x.is_complex() else torch.float64) for x in (found, wanted))
    apart = (one - other).abs()
    same = (one == other) | (one.isnan() & other.isnan()) | (apart <= allowed.to(apart.device))
    return 0.0 if bool(same.all()) else float(apart[~same].nan_to_num(torch.inf).max())


def _in_double(model: nn.Module, inputs: Tree) -> Tensor | None:
    # A copy, since what is on the CPU in float64 already would be the caller's own.
    examples = copies(tree_map(lambda part: part.cpu().double() if part.is_floating_point() else part.cpu(), inputs))
    try:
        with in_double():
            exact: Tensor = in_double_precision(copy_of(model))(examples)
    except Exception:  # such as of a layer that insists on float32
        return None
    return exact if exact.dtype in (torch.float64, torch.complex128) else None
