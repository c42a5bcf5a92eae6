"""Shorter formats on the device against float64 on the CPU: is anything rounded that is not to be, and by how much."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from gpu_checks.parts import Case, Setting
from gpu_checks.problems import METHODS, error, gradient, images, reference
from litmaml.engine.float32 import Float32Precision, set_float32_precision
from litmaml.outer import FiniteDifference, GaussianSmoothing, OuterGradient, ZerothOrder

_FLOAT32, _TF32, _BFLOAT16 = 1e-5, 5e-3, 0.1
_COARSE = {"GaussianSmoothing": 0.5, "ZerothOrder": 0.05}
"""How far the estimates may be off under TF32, which rounds away much of the differences that they take."""


def of_operations(setting: Setting) -> Iterator[Case]:
    """Products and convolutions of float32, forward and backward: only where it is asked for may they take TF32."""
    for name in ("matrix product", "convolution", "convolution, grouped"):
        yield Case(f"{name}, highest", _FLOAT32, functools.partial(_operation, setting, name, "highest"))
        yield Case(f"{name}, high", _TF32, functools.partial(_operation, setting, name, "high"))


def _operation(setting: Setting, name: str, precision: Float32Precision) -> float:
    set_float32_precision(precision)
    try:
        torch.manual_seed(0)
        x, weight = torch.randn(16, 64, 14, 14, dtype=torch.float64), torch.randn(64, 64, 3, 3, dtype=torch.float64)
        if name == "matrix product":
            x, weight = x.flatten(1)[:, :4096], torch.randn(4096, 128, dtype=torch.float64)
        elif name == "convolution, grouped":
            weight = torch.randn(64, 16, 3, 3, dtype=torch.float64)
        true = _with_gradients(x, weight)
        found = _with_gradients(x.to(setting.device, torch.float32), weight.to(setting.device, torch.float32))
    finally:
        set_float32_precision("highest")
    pairs = zip(found, true, strict=True)
    return max(float((a.cpu().double() - b).norm() / b.norm()) for a, b in pairs)


def _with_gradients(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = x @ weight if x.dim() == 2 else functional.conv2d(x, weight, padding=1, groups=x.shape[1] // weight.shape[1])
    return y.detach(), *torch.autograd.grad(y.square().mean(), (x, weight))


def of_gradients(setting: Setting) -> Iterator[Case]:
    """Outer gradients of the transformer, which has no kinks, in float32, TF32 and mixed precision."""
    for method in METHODS:
        yield Case(f"{method}, float32", 1e-3, functools.partial(_gradient, setting, method, "highest", None))
        yield Case(
            f"{method}, TF32", _COARSE.get(method, 0.02), functools.partial(_gradient, setting, method, "high", None)
        )
        mixed = functools.partial(_gradient, setting, method, "highest", torch.bfloat16)
        yield Case(f"{method}, bf16-mixed", _BFLOAT16, mixed)


def _gradient(setting: Setting, method: str, precision: Float32Precision, autocast: torch.dtype | None) -> float:
    problem = images("layer", setting.small)
    chosen = at_lengths_of(METHODS[method](), torch.float32, problem.model)
    set_float32_precision(precision)
    try:
        found = gradient(problem.to(setting.device, torch.float32), chosen, autocast, tasks_per_chunk=64)
    finally:
        set_float32_precision("highest")
    return error(found, reference(problem, chosen))


def at_lengths_of(method: OuterGradient, dtype: torch.dtype, model: torch.nn.Module) -> OuterGradient:
    """The method with the default probe length of a precision, so that in float64 it is the same estimate."""
    eps = torch.finfo(dtype).eps
    if isinstance(method, FiniteDifference):
        size = torch.cat([weight.detach().flatten() for weight in model.parameters()]).norm()
        return FiniteDifference(0.2 * eps ** (1 / 3) * (1 + float(size)))
    if isinstance(method, GaussianSmoothing):
        return GaussianSmoothing(method.samples, 0.3 * eps**0.5)
    if isinstance(method, ZerothOrder):
        return ZerothOrder(method.samples, 0.5 * eps**0.25)
    return method
