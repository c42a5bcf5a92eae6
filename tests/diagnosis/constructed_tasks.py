"""Models and tasks whose curvature and noise are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.tasks import Batch, Tasks


class HalfSquare(nn.Module):
    """mean (p - t)^2 / 2: a quadratic with Hessian mean r r' where p = <r, w>."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean() / 2


class LogCosh(nn.Module):
    """mean log cosh(p - t), Hessian mean sech^2(p - t) r r'."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).cosh().log().mean()


class Cubic(nn.Module):
    """mean (p - t)^3 / 6, Hessian mean (p - t) r r'."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).pow(3).mean() / 6


class Mean(nn.Module):
    """The mean of the predictions: the model gives the losses itself."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return predictions.mean()


class NoisyQuadratic(nn.Module):
    """Of an example (u, t): u |w|^2 / 2 - <t, w>, with gradient u w - t and Hessian u I."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))

    def forward(self, examples: Tensor) -> Tensor:
        return examples[:, 0] * self.w.square().sum() / 2 - examples[:, 1:] @ self.w


def linear(weights: Tensor) -> nn.Linear:
    """<r, w> with the given w."""
    model = nn.Linear(len(weights), 1, bias=False, dtype=weights.dtype)
    model.weight.data = weights[None].clone()
    return model


def loop(model: nn.Module, loss: nn.Module, lr: float, steps: int) -> InnerLoop:
    return InnerLoop(model, loss, SGD(lr), ["*"], steps)


def tasks_of(rows: Tensor, targets: Tensor, queries: int = 0) -> Tasks:
    """T tasks of examples (T, n, d) with targets (T, n, 1), the last ``queries`` of them the query, else all."""
    cut = rows.shape[1] - queries
    support = Batch(rows[:, :cut], targets[:, :cut])
    query = Batch(rows[:, cut:], targets[:, cut:]) if queries else support
    return Tasks((support,), query, torch.arange(len(rows)))


def quadratics(tasks: int = 8, size: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tasks:
    """Random rows r; the optimum of each task is random."""
    stream = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, 2 * size, size, generator=stream, dtype=torch.float64)
    centres = torch.randn(tasks, size, 1, generator=stream, dtype=torch.float64)
    return tasks_of(rows.to(dtype), (rows @ centres).to(dtype))


def hessians_of_quadratics(tasks: Tasks) -> Tensor:
    """mean r r' of each task (T, d, d)."""
    rows = tasks.support[0].inputs.double()
    return rows.mT @ rows / rows.shape[1]


def axes(scales: Tensor, centre: Tensor) -> Tasks:
    """Two equal tasks with rows a_k e_k and targets a_k c_k: separable losses of a_k (w_k - c_k)."""
    rows = torch.diag(scales).expand(2, -1, -1)
    targets = (scales * centre)[:, None].expand(2, -1, -1)
    return tasks_of(rows, targets)
