"""Operations whose derivatives in torch are slow or wrong, in a form that has right ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from litmaml.engine.batch_norm import lean_batch_norm, lean_max_pool
from litmaml.engine.convolution import convolution
from litmaml.engine.linear import attention, linear
from litmaml.engine.twice_differentiable import twice_differentiable


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / |v|, the norm over all dimensions but ``dim`` (all of them for -1), by operations that torch derives twice.

    The second derivative of torch's own fused operation is wrong on CPUs: it fails gradgradcheck.
    """
    over = [k for k in range(v.dim()) if dim == -1 or k != dim % v.dim()]
    length = torch.linalg.vector_norm(v, dim=over, keepdim=dim != -1) if over else v.abs()
    return v * (g / length)


_embedding = functional.embedding


def embedding(
    words: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of ``weight`` for the words, of which that of padding gets no gradient.

    Under ``vmap`` with a weight per task, torch's own operation forgets which row is that of padding.
    """
    rows = _embedding(words, weight, None, max_norm, norm_type, scale_grad_by_freq, sparse)
    if padding_idx is None:
        return rows
    padding = words == padding_idx % weight.shape[0]
    return torch.where(padding.unsqueeze(-1), rows.detach(), rows)


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6; torch's own operation has no second derivative."""
    return functional.relu6(x + 3) / 6


def _without_cudnn(function: Callable[..., Any]) -> Callable[..., Any]:
    """The recurrence by torch's own kernels: cuDNN's has no second derivative, and none at all in eval mode."""

    def recurrence(*args: Any, **kwargs: Any) -> Any:
        enabled = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = False
        try:
            return function(*args, **kwargs)
        finally:
            torch.backends.cudnn.enabled = enabled

    return recurrence


_IN_OTHER_FORM: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.batch_norm: lean_batch_norm,
    functional.embedding: embedding,
    functional.hardsigmoid: hardsigmoid,
    functional.linear: linear,
    functional.max_pool2d: lean_max_pool,
    functional.multi_head_attention_forward: attention,
    torch._weight_norm: weight_norm,
    torch.conv2d: convolution,
    **{function: _without_cudnn(function) for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
}

_TWICE = _IN_OTHER_FORM | {torch.conv2d: partial(convolution, otherwise=twice_differentiable)}


class Derivatives(TorchFunctionMode):
    """A context in which these operations take their other form, of which batch norm has no third derivative.

    Args:
        twice: Whether second derivatives are to come, for which alone some forms pay.
    """

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self._forms = _TWICE if twice else _IN_OTHER_FORM

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._forms.get(function, function)(*args, **(kwargs or {}))


def needs_other_operations(model: nn.Module) -> bool:
    """Whether a layer is one of these, or a sign of them.

    Recurrence, normalised weights (newer or older way), padding, Hardsigmoid; attention, and normalisation of each row,
    of which sequences are made.
    """
    return any(
        type(module).__name__ == "_WeightNorm"
        or any(type(hook).__name__ == "WeightNorm" for hook in module._forward_pre_hooks.values())
        or (isinstance(module, nn.Embedding) and module.padding_idx is not None)
        or isinstance(module, nn.RNNBase | nn.Hardsigmoid | nn.MultiheadAttention | nn.LayerNorm | nn.RMSNorm)
        for module in model.modules()
    )
