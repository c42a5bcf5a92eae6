"""Convolutions whose second derivative takes as few operations as it needs.

With y = w * x and g the gradient by y, those by x and w are linear in g. With u and v the gradients by these two, those
one derivative further are

    by g:  w * u + v * x,    by x:  the gradient by images of (g, v),    by w:  that by kernels of (g, u),

of which each is one operation. Torch goes over the groups for the last one, and under ``vmap`` each task with kernels
of its own is a group. It computes that by x also where x are images that need none, the most expensive part of a first
layer. Elsewhere torch's own is as fast or faster: it computes no gradient that is not asked for, such as that by
kernels behind other layers which no inner step changes, and it does nothing in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from litmaml.engine.batch_norm import signed
from litmaml.engine.switches import is_on

_conv2d = torch.conv2d


def twice_differentiable(
    input: Tensor,  # named as torch does
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.conv2d``; as it is but for each task's own kernels that need a gradient.

    Of a single task only where the images need none, by kernels that are adapted, which are no leaves of the graph.
    """
    taken = is_on("twice_differentiable") and input.dim() == 4 and input.is_floating_point()
    single = not torch._C._functorch.is_functorch_wrapped_tensor(input) and weight.grad_fn is not None
    gains = torch._C._functorch.is_batchedtensor(weight) or (single and not input.requires_grad)
    derived = torch.is_grad_enabled() and _needs_gradient(weight) and not _is_forward_mode()
    if not (taken and gains and derived) or isinstance(padding, str):
        return _conv2d(input, weight, bias, stride, padding, dilation, groups)
    how = _How(pair(stride), pair(padding), pair(dilation), groups)
    tensors = [None if tensor is None else _as_cast(tensor) for tensor in (input, weight, bias)]
    if len({tensor.dtype for tensor in tensors if tensor is not None}) > 1:  # of which only some are of several tasks
        tensors = [input, weight, bias]
    return _Convolution.apply(*tensors, how)  # type: ignore[no-any-return, no-untyped-call]  # torch leaves apply untyped


def _is_forward_mode() -> bool:
    """Whether derivatives are taken along with the numbers (``torch.func.jvp``), which only torch's operations do."""
    return forward_ad._current_level >= 0


def pair(number: Any) -> tuple[int, int]:
    """Those of two dimensions, of which torch takes one for both, also in a list."""
    numbers = tuple(number) if isinstance(number, Sequence) else (number,)
    return numbers[0], numbers[-1]


class _How(NamedTuple):
    """The settings of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def of_tasks(self, size: int) -> _How:
        return self._replace(groups=size * self.groups)


class _Convolution(torch.autograd.Function):
    """y."""

    @staticmethod
    @signed
    def forward(images: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        return _uncast(images, weight, bias, how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        images, weight, _, ctx.how = inputs
        ctx.save_for_backward(images, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        by_bias = g.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if ctx.needs_input_grad[0]:
            return *_ByBoth.apply(g, *ctx.saved_tensors, ctx.how), by_bias, None  # type: ignore[no-untyped-call]  # as above
        return None, _ByKernel.apply(g, *ctx.saved_tensors, ctx.how), by_bias, None  # type: ignore[no-untyped-call]  # as above

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], images: Tensor, weight: Tensor, bias: Tensor | None, how: _How
    ) -> Any:
        """T tasks as T groups of channels."""
        size = info.batch_size
        images, weight = _channels(images, dims[0], size), _kernels(weight, dims[1], size)
        bias = None if bias is None else _kernels(bias, dims[2], size)
        y = _Convolution.apply(images, weight, bias, how.of_tasks(size))  # type: ignore[no-untyped-call]  # as above
        return y.unflatten(1, (size, -1)), 1


class _ByBoth(torch.autograd.Function):
    """The gradients by the images and by the kernels, from that by the output."""

    @staticmethod
    @signed
    def forward(g: Tensor, images: Tensor, weight: Tensor, how: _How) -> tuple[Tensor, Tensor]:
        return _gradients(g, images, weight, how, True, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.how = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, u: Tensor, v: Tensor) -> tuple[Tensor | None, ...]:
        g, images, weight = ctx.saved_tensors
        by_g = _uncast(u, weight, None, ctx.how) + _uncast(images, v, None, ctx.how)
        by_images, _ = _gradients(g, images, v, ctx.how, True, False)
        _, by_weight = _gradients(g, u, weight, ctx.how, False, True)
        return by_g, by_images, by_weight, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], g: Tensor, images: Tensor, weight: Tensor, how: _How) -> Any:
        """T tasks as T groups of channels."""
        size, stacked = info.batch_size, _stacked(info.batch_size, dims, g, images, weight)
        by_images, by_weight = _ByBoth.apply(*stacked, how.of_tasks(size))  # type: ignore[no-untyped-call]  # as above
        return (by_images.unflatten(1, (size, -1)), by_weight.unflatten(0, (size, -1))), (1, 0)


class _ByKernel(torch.autograd.Function):
    """The second of these alone."""

    @staticmethod
    @signed
    def forward(g: Tensor, images: Tensor, weight: Tensor, how: _How) -> Tensor:
        return _gradients(g, images, weight, how, False, True)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, images, _, ctx.how = inputs
        ctx.save_for_backward(images)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        (images,) = ctx.saved_tensors
        return _uncast(images, v, None, ctx.how), None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], g: Tensor, images: Tensor, weight: Tensor, how: _How) -> Any:
        """T tasks as T groups of channels."""
        size, stacked = info.batch_size, _stacked(info.batch_size, dims, g, images, weight)
        found = _ByKernel.apply(*stacked, how.of_tasks(size))  # type: ignore[no-untyped-call]  # as above
        return found.unflatten(0, (size, -1)), 0


def _gradients(
    g: Tensor, images: Tensor, weight: Tensor, how: _How, by_images: bool, by_weight: bool
) -> tuple[Tensor, Tensor]:
    """Those asked for of a convolution's images and kernels; each does not depend on what it is the gradient by."""
    stride, padding, dilation, groups = how
    first, second, _ = torch.ops.aten.convolution_backward(
        g, images, weight, None, stride, padding, dilation, False, (0, 0), groups, (by_images, by_weight, False)
    )
    return first, second


def _stacked(size: int, dims: tuple[int | None, ...], g: Tensor, images: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return _channels(g, dims[0], size), _channels(images, dims[1], size), _kernels(weight, dims[2], size)


def _channels(images: Tensor, dim: int | None, tasks: int) -> Tensor:
    """Images (n, c, h, w), of each task those at its place in ``dim``, with all tasks' channels beside one another."""
    if dim is None:
        return images.unsqueeze(1).expand(-1, tasks, -1, -1, -1).flatten(1, 2)
    return images.movedim(dim, 1).flatten(1, 2)


def _kernels(weight: Tensor, dim: int | None, tasks: int) -> Tensor:
    """Kernels (o, c, k, k), or biases (o,), of each task, one after the other."""
    return (weight.expand(tasks, *weight.shape) if dim is None else weight.movedim(dim, 0)).flatten(0, 1)


def _as_cast(tensor: Tensor) -> Tensor:
    """As autocast gives it to a convolution, on a CPU not of several tasks at once: here, for what is saved."""
    device = tensor.device.type
    wrapped = device == "cpu" and torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if wrapped or not torch.is_autocast_enabled(device) or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def _uncast(images: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
    device = images.device.type
    if not torch.is_autocast_enabled(device):
        return _conv2d(images, weight, bias, *how)
    with torch.autocast(device, enabled=False):
        return _conv2d(images, weight, bias, *how)


def _needs_gradient(tensor: Tensor) -> bool:
    """Also one of several tasks at once, which itself does not tell."""
    while not tensor.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.requires_grad
