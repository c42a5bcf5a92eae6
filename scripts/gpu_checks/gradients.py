"""Float64 gradients on the device against the CPU's: every outer gradient, norm, chunking and switch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from gpu_checks.parts import Case, Setting
from gpu_checks.problems import METHODS, NORMS, Problem, error, gradient, images, reference
from litmaml.models import MLP
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

# What rounding leaves of a difference of neighbouring gradients (r = 1e-6, mu = 4e-9) or losses (mu = 6e-5).
_ROUNDING = {"FiniteDifference": 1e-6, "GaussianSmoothing": 1e-4, "ZerothOrder": 1e-4}
_EXACT = 1e-10
_CHUNKS = (1, 2)
_LONG = 60
"""Seconds that compiling a Conv4 may take: what has begun is not cut off."""


def tolerance(method: str) -> float:
    """How far two computations of a method in float64 may lie apart."""
    return _ROUNDING.get(method, _EXACT)


@functools.cache
def _true(norm: str, method: str, small: bool) -> Params:
    return reference(images(norm, small), METHODS[method]())


def _case(setting: Setting, name: str, norm: str, method: str, **options: Any) -> Case:
    def measure() -> float:
        problem = images(norm, setting.small).to(setting.device, torch.float64)
        found = gradient(problem, METHODS[method](), **options)
        return error(found, _true(norm, method, setting.small))

    return Case(name, tolerance(method), measure)


def of_methods(setting: Setting) -> Iterator[Case]:
    """Every outer gradient with every normalisation, all tasks at once."""
    for method in METHODS:
        for norm in NORMS:
            yield _case(setting, f"{method}, norm {norm}", norm, method, tasks_per_chunk=64)


def of_chunks(setting: Setting) -> Iterator[Case]:
    """Every outer gradient, the tasks in chunks."""
    for method in METHODS:
        for size in _CHUNKS:
            yield _case(setting, f"{method}, chunks of {size}", "batch", method, tasks_per_chunk=size)


def of_channels_last(setting: Setting) -> Iterator[Case]:
    """Every outer gradient in the other order of memory."""
    for method in METHODS:
        yield _case(setting, f"{method}, channels last", "batch", method, channels_last=True, tasks_per_chunk=64)


def of_compiled(setting: Setting) -> Iterator[Case]:
    """The compiled program: of a small network where there is little time."""
    for method in ("SecondOrder",) if setting.small else ("SecondOrder", "FiniteDifference"):
        yield Case(f"{method}, a small network", tolerance(method), functools.partial(_compiled, setting, method))
    if setting.left > _LONG and not setting.small:
        yield _case(setting, "SecondOrder, Conv4", "batch", "SecondOrder", compile=True, tasks_per_chunk=64)


def _compiled(setting: Setting, method: str) -> float:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 1, dtype=torch.float64)
    batch = Batch(x, torch.sin(2 * x))
    problem = Problem(
        MLP(hidden=[4]).double(), Tasks((batch,), batch, torch.arange(3)), steps=1, loss=torch.nn.MSELoss()
    )
    found = gradient(problem.to(setting.device, torch.float64), METHODS[method](), compile=True)
    return error(found, reference(problem, METHODS[method]()))
