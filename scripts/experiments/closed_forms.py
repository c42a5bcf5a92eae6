"""Fixed points on quadratics: of the methods in closed form, and of any affine gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.problem import Problem
from litmaml.tasks import Tasks


def matrix(method: str, a: Tensor, alpha: float, steps: int) -> Tensor:
    """M of a method for one Hessian A (d, d)."""
    one = torch.eye(len(a), dtype=a.dtype)
    shrink: Tensor = torch.linalg.matrix_power(one - alpha * a, steps)
    if method == "joint":
        return a
    if method == "FO-MAML":
        return a @ shrink
    if method == "Reptile":
        return one - shrink
    if method.startswith("ZO"):
        biased: Tensor = torch.linalg.matrix_power((1 - alpha * a.trace() / 2) * one - alpha * a, steps)
        return a @ biased @ shrink
    return a @ shrink @ shrink


def fixed_point(method: str, a: Tensor, c: Tensor, alpha: float, steps: int, weights: Tensor) -> Tensor:
    """(sum p M)^-1 sum p M c for Hessians (T, d, d) and optima (T, d)."""
    m = torch.stack([p * matrix(method, one, alpha, steps) for p, one in zip(weights, a, strict=True)])
    solution: Tensor = torch.linalg.solve(m.sum(0), (m @ c.unsqueeze(-1)).sum(0)).squeeze(-1)
    return solution


def zero_of(gradient: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Where an affine map vanishes, from its values at 0 and at the unit vectors."""
    offset = gradient(torch.zeros(size, dtype=torch.float64))
    slope = torch.stack([gradient(unit) - offset for unit in torch.eye(size, dtype=torch.float64)], dim=1)
    solution: Tensor = torch.linalg.solve(slope, -offset)
    return solution


def reptile(problem: Problem, w: Tensor, tasks: Tasks) -> Tensor:
    """Reptile's outer gradient theta_0 - theta_N, the mean over tasks (Nichol et al. 2018, arXiv 1803.02999)."""
    problem.weights = w
    *_, fast = problem.inner_loop().path(tasks, problem.steps)
    return w - next(iter(fast.values())).detach().flatten(1).mean(0)


def hessians(tasks: Tasks) -> tuple[Tensor, Tensor]:
    """A and c of linear regressions."""
    inputs, targets = tasks.query.inputs, tasks.query.targets
    return inputs.mT @ inputs / inputs.shape[1], torch.linalg.solve(inputs, targets).squeeze(-1)
