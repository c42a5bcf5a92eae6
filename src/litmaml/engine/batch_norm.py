"""Batch normalisation whose second derivative takes half the passes over memory that torch's takes.

With w the weight, b the bias, m the mean of a channel's M values and 1/r^2 their variance plus eps, and

    z = r (x - m),    P(u) = u - mean(u) - z mean(u z),

the layer is y = w z + b. With g the gradient by y, those by x, w and b are w r P(g), sum g z and sum g. With u, a and c
the gradients by these three, those one derivative further are

    by g:  w r P(u) + a z + c
    by w:  r s,   s = sum u P(g) = sum u g - (sum u sum g + sum u z sum g z) / M
    by x:  r P((a - w r sum(u z)/M) g - (w r sum(g z)/M) u) - (w r^2 s / M) z

in which the first P with its two sums, and the last, are each one call of torch's kernel for the first derivative.
Torch's second derivative of batch norm is a sixth of the exact outer gradient of a Conv4 on a CPU; this one takes less
than half of that. There is no third derivative, and a try says so (torch's own is wrong: m and r are constants to it).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from litmaml.engine.switches import is_on


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a layer of the model is batch norm, of any number of dimensions."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def lean_batch_norm(*args: Any, **kwargs: Any) -> Tensor:
    """``functional.batch_norm`` with the second derivative above, and no third, by the statistics of the batch."""
    if not (is_on("batch_norm") and _takes(*args, **kwargs)):
        return functional.batch_norm(*args, **kwargs)
    x, weight, bias = args[0], kwargs["weight"], kwargs["bias"]
    like = weight if weight is not None else bias if bias is not None else x
    weight = like.new_ones(x.shape[1]) if weight is None else weight
    bias = like.new_zeros(x.shape[1]) if bias is None else bias
    normalised: Tensor = _BatchNorm.apply(x, weight, bias, kwargs["eps"])[0]  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return normalised


def _takes(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> bool:
    """Whether it is batch norm by the batch's own statistics, and in order: torch says what is wrong otherwise."""
    if not training or running_mean is not None or running_var is not None or x.dim() < 2 or eps <= 0:
        return False
    channels = x.shape[1]
    return x.numel() > channels and all(p is None or p.shape == (channels,) for p in (weight, bias))


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.eps = inputs
        _, mean, rate = output
        ctx.mark_non_differentiable(mean, rate)
        ctx.save_for_backward(x, weight, mean, rate)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return *_FirstDerivative.apply(g, *ctx.saved_tensors, ctx.eps), None  # type: ignore[no-untyped-call]  # as above

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        """T tasks as T times as many channels."""
        size = info.batch_size

        def stacked(tensor: Tensor, dim: int | None, to: int) -> Tensor:
            if dim is None:
                return tensor.unsqueeze(to).expand(*tensor.shape[:to], size, *tensor.shape[to:])
            return tensor.movedim(dim, to)

        places = zip((x, weight, bias), dims[:3], (1, 0, 0), strict=True)
        x, weight, bias = (stacked(tensor, dim, to) for tensor, dim, to in places)
        y, *statistics = _BatchNorm.apply(x.flatten(1, 2), weight.flatten(), bias.flatten(), eps)  # type: ignore[no-untyped-call]  # as above
        return (y.unflatten(1, x.shape[1:3]), *(s.unflatten(0, weight.shape) for s in statistics)), (1, 0, 0)


class _FirstDerivative(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rate: Tensor, eps: float) -> Any:
        return _derivative(g, x, weight, mean, rate, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "batch norm has no third derivative here: a loss that is made of derivatives itself needs a model with "
                "another normalisation, such as nn.GroupNorm"
            )
        g, x, weight, mean, rate, sum_gz, sum_g = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        dims = (0, *range(2, x.dim()))
        channel = (-1,) + (1,) * (x.dim() - 2)

        by_g, sum_uz, sum_u = _derivative(u, x, weight, mean, rate, ctx.eps)
        products = torch.addcmul(sum_u * sum_g, sum_uz, sum_gz)
        by_weight = rate * torch.sub((u * g).sum(dims), products, alpha=1 / count)
        share = weight * rate / count
        mixed = torch.addcmul(a, share, sum_uz, value=-1).view(channel) * g
        mixed = torch.addcmul(mixed, u, (share * sum_gz).view(channel), value=-1)
        by_x, *_ = _derivative(mixed.to(g.dtype), x, torch.ones_like(weight), mean, rate, ctx.eps)
        centred = x - mean.view(channel)
        by_x = torch.addcmul(by_x, centred, (share * rate * by_weight).view(channel), value=-1)
        by_g = torch.addcmul(by_g, centred, (a * rate).view(channel)) + c.view(channel)
        return by_g.to(g.dtype), by_x.to(x.dtype), by_weight.to(weight.dtype), None, None, None


def _derivative(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rate: Tensor, eps: float) -> Any:
    """(w r P(g), sum g z, sum g)."""
    return torch.ops.aten.native_batch_norm_backward(g, x, weight, None, None, mean, rate, True, eps, [True] * 3)
