"""Batch normalisation with fewer passes over memory than torch's takes, also with max-pooling behind it.

With w the weight, b the bias, m the mean of a channel's M values and 1/r^2 their variance plus eps, and z = r (x - m),
the layer is y = w z + b. Pooling by halves takes the values at some places: let p(t) be t there, and s(q) zero but for
q there; where nothing is pooled both are the identity. With g the gradient by p(y), those by x, w and b are

    w r [s(g) - sum(g)/M - z sum(g p(z))/M],    sum g p(z),    sum g.

With u, a and c the gradients by these three, those one derivative further are

    by g:  w r [p(u) - sum(u)/M] + k p(z) + c,      k = a - w r sum(u z)/M
    by w:  r q,                                     q = sum p(u) g - (sum u sum g + sum u z sum g p(z))/M
    by x:  r [v - sum(v)/M - z sum(v z)/M] - w r^2 q z/M,   v = k s(g) - l u,  l = w r sum(g p(z))/M

where sum v = k sum g - l sum u, and sum v z in the same way, so that no pass is needed for them. All that is as large
as x are sums of multiples of x, u and s(g), and two sums over u. There is no third derivative, and a try says so
(torch's own is wrong: m and r are constants to it).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from litmaml.engine.pooling import halved, is_halving, may_be_sliced
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
    if not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, kwargs["eps"])[0]
    normalised, mean, rate = _BatchNorm.apply(x, weight, bias, kwargs["eps"])  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    if x.dim() == 4 and torch.is_grad_enabled():
        normalised.batch_norm_of = _Known(x, weight, bias, mean, rate, _states(normalised, x, weight))
    return normalised  # type: ignore[no-any-return]


class _Known(NamedTuple):
    """What a y was made of, for the layer behind it; and states, by which nothing has been changed since."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    rate: Tensor
    states: list[Any]


def _states(*tensors: Tensor) -> list[Any]:
    """What is another one after a change in place, by ``detach_`` or by a hook."""
    found: list[Any] = []
    for tensor in tensors:
        found.append(tensor._backward_hooks)
        inside = tensor
        while torch._C._functorch.is_functorch_wrapped_tensor(inside):  # whose own version stays 0
            found.append(inside.grad_fn)
            inside = torch._C._functorch.get_unwrapped(inside)
        found += [inside.grad_fn, None if inside.is_inference() else inside._version]
    return found


def lean_max_pool(y: Tensor, *args: Any, **kwargs: Any) -> Any:
    """``functional.max_pool2d``; of what ``lean_batch_norm`` has just normalised both together, if it halves."""
    halves = is_halving(*args, **kwargs)
    if halves and is_on("pooling") and not torch.is_grad_enabled() and may_be_sliced(y):
        return halved(y)
    known = getattr(y, "batch_norm_of", None) if halves and is_on("batch_norm") else None
    if known is None or known.states != _states(y, *known[:2]):
        return functional.max_pool2d(y, *args, **kwargs)
    return _Halved.apply(*known[:3], y.detach(), known.mean, known.rate)[0]  # type: ignore[no-untyped-call]  # as above


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


def signed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its signature, which torch else makes anew in every call: it takes as long as a small layer."""
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # where inspect looks for it
    return forward


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    @signed
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, *_ = inputs
        _, mean, rate = output
        ctx.mark_non_differentiable(mean, rate)
        ctx.save_for_backward(x, weight, mean, rate)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return *_FirstDerivative.apply(g, *ctx.saved_tensors, None), None  # type: ignore[no-untyped-call]  # as above

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        """T tasks as T times as many channels."""
        x, *channels = _side_by_side(info.batch_size, (x, weight, bias), dims)
        return _apart(info.batch_size, _BatchNorm.apply(x, *channels, eps))  # type: ignore[no-untyped-call]  # as above


class _Halved(torch.autograd.Function):
    """The largest of each 2 x 2 values of y = w z + b, which is known, and their places."""

    @staticmethod
    @signed
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, mean: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        largest, places = torch.ops.aten.max_pool2d_with_indices(y, [2, 2])
        return largest, places

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, _, mean, rate = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, weight, mean, rate, output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return *_FirstDerivative.apply(g, *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call]  # as above

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], x: Tensor, *others: Tensor) -> Any:
        """T tasks as T times as many channels."""
        weight, bias, y, mean, rate = others
        size, (_, by_weight, by_bias, by_y, by_mean, by_rate) = info.batch_size, dims
        (x, *affine) = _side_by_side(size, (x, weight, bias), (dims[0], by_weight, by_bias))
        (y, *statistics) = _side_by_side(size, (y, mean, rate), (by_y, by_mean, by_rate))
        return _apart(size, _Halved.apply(x, *affine, y, *statistics))  # type: ignore[no-untyped-call]  # as above


def _side_by_side(size: int, tensors: tuple[Tensor, ...], dims: tuple[int | None, ...]) -> tuple[Tensor, ...]:
    """What is of T tasks (n, c, ...) and of their channels (c,) as of T c channels, a task's own beside one another."""

    def stacked(tensor: Tensor, dim: int | None, to: int) -> Tensor:
        if dim is None:
            return tensor.unsqueeze(to).expand(*tensor.shape[:to], size, *tensor.shape[to:])
        return tensor.movedim(dim, to)

    first, *others = (stacked(tensor, dim, to) for tensor, dim, to in zip(tensors, dims, (1, 0, 0), strict=False))
    return first.flatten(1, 2), *(each.flatten() for each in others)


def _apart(size: int, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """What is of T c channels as of T tasks, and in which dimension these are."""
    dims = tuple(0 if tensor.dim() == 1 else 1 for tensor in tensors)
    pairs = zip(tensors, dims, strict=True)
    return tuple(tensor.unflatten(dim, (size, -1)) for tensor, dim in pairs), dims  # type: ignore[no-untyped-call]  # torch's


class _FirstDerivative(torch.autograd.Function):
    """The gradients by x, w and b; ``places``: of what is left by pooling."""

    @staticmethod
    @signed
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rate: Tensor, places: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        left = x if places is None else _taken(x, places)
        sum_gz, sum_g = _sums(g, left, mean, rate)
        share = weight * rate / _count(x)
        slope = -share * rate * sum_gz
        by_x = _line(x, slope, -share * sum_g - slope * mean)
        return _with(by_x, g, weight * rate, places).to(x.dtype), sum_gz, sum_g

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "batch norm has no third derivative here: a loss that is made of derivatives itself needs a model with "
                "another normalisation, such as nn.GroupNorm"
            )
        g, x, weight, mean, rate, places, sum_gz, sum_g = ctx.saved_tensors
        count = _count(x)
        share = weight * rate / count
        sum_uz, sum_u = _sums(u, x, mean, rate)
        left, u_left = (x, u) if places is None else (_taken(x, places), _taken(u, places))
        of_g, of_u = a - share * sum_uz, share * sum_gz

        by_g = _line(left, of_g * rate, c - share * sum_u - of_g * rate * mean)
        by_g = _with(by_g, u_left, weight * rate, None)
        products = torch.addcmul(sum_u * sum_g, sum_uz, sum_gz)
        by_weight = rate * torch.sub((u_left * g).sum(_others(g)), products, alpha=1 / count)
        sum_v, sum_vz = of_g * sum_g - of_u * sum_u, of_g * sum_gz - of_u * sum_uz
        slope = -rate * (rate * sum_vz / count + share * by_weight)
        by_x = _line(x, slope, -rate * sum_v / count - slope * mean)
        by_x = _with(_with(by_x, u, -rate * of_u, None), g, rate * of_g, places)
        return by_g.to(g.dtype), by_x.to(x.dtype), by_weight.to(weight.dtype), None, None, None


def _count(x: Tensor) -> int:
    """M."""
    return x.numel() // x.shape[1]


def _others(x: Tensor) -> tuple[int, ...]:
    """The dimensions beside that of channels."""
    return (0, *range(2, x.dim()))


def _channels(numbers: Tensor, x: Tensor) -> Tensor:
    """One number per channel, to be broadcast over x."""
    return numbers.view(-1, *(1,) * (x.dim() - 2))


def _sums(g: Tensor, x: Tensor, mean: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """(sum g z, sum g)."""
    _, of_gz, of_g = torch.ops.aten.native_batch_norm_backward(
        g, x, rate, None, None, mean, rate, True, 0.0, [False, True, True]
    )
    return of_gz, of_g


def _line(x: Tensor, slope: Tensor, constant: Tensor) -> Tensor:
    return torch.addcmul(_channels(constant, x), x, _channels(slope, x))


def _with(total: Tensor, g: Tensor, factor: Tensor, places: Tensor | None) -> Tensor:
    """The total and factor s(g), in the total's memory."""
    if places is None:
        return total.addcmul_(g, _channels(factor, g))
    last = _is_channels_last(total)
    total = total.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    _rows(total, last).scatter_add_(1 if last else 2, _rows(places, last), _rows(g * _channels(factor, g), last))
    return total


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """p(x)."""
    last = _is_channels_last(x)
    found = _rows(x, last).gather(1 if last else 2, _rows(places, last))
    if last:
        found = found.view(-1, *places.shape[2:], places.shape[1]).movedim(-1, 1)
    return found.view(places.shape)


def _rows(x: Tensor, channels_last: bool) -> Tensor:
    """The pixels in one dimension; of an x in this format a view."""
    return x.movedim(1, -1).flatten(1, 2) if channels_last else x.flatten(2)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
