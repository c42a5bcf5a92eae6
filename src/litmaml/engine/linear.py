"""Linear maps of sequences with each task's own weights, as one matrix product per task.

Under ``vmap`` torch computes x W^T of an x with further dimensions than rows, such as tokens, by a product for each
task and token, of a few rows each, and its derivative by W by as many, which it then adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from litmaml.engine.switches import is_on

_linear: Callable[..., Tensor] = functional.linear


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # named as torch does
    """``functional.linear``, by the rows of all further dimensions at once where each task has its own weights."""
    of_rows = input.dim() > 2 and weight.dim() == 2
    if not (of_rows and is_on("linear") and torch._C._functorch.is_batchedtensor(weight)):
        return _linear(input, weight, bias)
    y: Tensor = _linear(input.flatten(0, -2), weight, bias)
    return y.view(*input.shape[:-1], weight.shape[0])


def attention(*args: Any, **kwargs: Any) -> Any:
    """``functional.multi_head_attention_forward`` whose projections are taken by ``linear``."""
    # It is seen as a whole by a mode that changes functions, and what it calls is not. Another thread meanwhile gets
    # the same numbers. What somebody else has put there stays.
    if functional.linear is not _linear:
        return functional.multi_head_attention_forward(*args, **kwargs)
    functional.linear = linear
    try:
        return functional.multi_head_attention_forward(*args, **kwargs)
    finally:
        functional.linear = _linear
