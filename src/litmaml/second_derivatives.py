"""Layers whose second derivative in torch is slow or wrong, with a right one for the exact outer gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from litmaml.batch_norm import lean_batch_norm


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / |v|, the norm over all dimensions but ``dim`` (all of them for -1), by operations that torch derives twice.

    The second derivative of torch's own fused operation is wrong on CPUs: it fails gradgradcheck.
    """
    over = [k for k in range(v.dim()) if dim == -1 or k != dim % v.dim()]
    length = torch.linalg.vector_norm(v, dim=over, keepdim=dim != -1) if over else v.abs()
    return v * (g / length)


_REPLACED: dict[Callable[..., Any], Callable[..., Tensor]] = {
    functional.batch_norm: lean_batch_norm,
    torch._weight_norm: weight_norm,
}


class SecondDerivatives(TorchFunctionMode):
    """A context in which such layers have second derivatives of their own, and batch norm no third."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _REPLACED.get(function, function)(*args, **(kwargs or {}))


def has_weight_norm(model: nn.Module) -> bool:
    """Whether a layer's weights are normalised, by a parametrization or by torch's older hooks."""
    return any(
        type(module).__name__ == "_WeightNorm"
        or any(type(hook).__name__ == "WeightNorm" for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )
