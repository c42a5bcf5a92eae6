"""An estimator of Hessian-vector products by itself, on a task whose Hessian is known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.problem import linear, stacked
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FiniteDifference, GaussianSmoothing, PathGradient, ZerothOrder
from litmaml.outer.gradient import Point
from litmaml.problems import LinearRegression, LogCoshLoss
from litmaml.randomness import task_streams
from litmaml.tasks import Tasks
from litmaml.weights import Params, Weights


class CubicLoss(nn.Module):
    """mean e^2 / 2 + e^3 / 6 of the errors e: its Hessian is no constant, and its derivatives are known."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        error = predictions - targets
        return (error**2 / 2 + error**3 / 6).mean()


_SECOND: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    CubicLoss: lambda error: 1 + error,
    LogCoshLoss: lambda error: 1 / error.cosh() ** 2,
}


def estimator(method: str, samples: int, probe: float | None) -> PathGradient:
    """An estimator by its name, number of directions and probe length."""
    if method == "HF":
        return FiniteDifference(probe)
    if method == "GGS":
        return GaussianSmoothing(samples, probe)
    return ZerothOrder(samples, probe, method.removeprefix("ZO "))  # type: ignore[arg-type]  # one of the literals


class Hop:
    """An estimator of H v on one task, many independent draws at a time; and H itself."""

    def __init__(self, size: int, loss: type[nn.Module] = CubicLoss, dtype: torch.dtype = torch.float64) -> None:
        tasks = LinearRegression(size, (0.005, 0.05)).sample("train", [0], 0)
        model = linear(size)
        w = torch.full((size,), 0.3, dtype=torch.float64)
        nn.utils.vector_to_parameters(w, model.parameters())
        inputs, targets = tasks.query.inputs[0], tasks.query.targets[0]
        errors = inputs @ w - targets[:, 0]
        self.hessian = inputs.mT @ (_SECOND[loss](errors).unsqueeze(1) * inputs) / size
        self._tasks = Tasks(
            (),
            tasks.query._replace(inputs=tasks.query.inputs.to(dtype), targets=tasks.query.targets.to(dtype)),
            tasks.numbers,
        )
        self._inner_loop = InnerLoop(model.to(dtype), loss(), SGD(1.0), ["*"], 1)

    def __call__(self, outer_gradient: PathGradient, vectors: Tensor, seed: int) -> Tensor:
        """Hop(v) for each v of (T, d), each with directions of its own."""
        tasks = stacked(self._tasks, len(vectors))
        fast, _ = self._inner_loop.start(tasks)
        fast = {name: weight.detach().clone().requires_grad_() for name, weight in fast.items()}
        vector: Params = {name: vectors.view_as(weight) for name, weight in fast.items()}
        weights = Weights({name: weight.detach()[0] for name, weight in fast.items()}, {})
        drawn = outer_gradient.directions(weights, task_streams(seed, "train", range(tasks.size), "directions"), 1)
        at = Point(self._inner_loop.losses, fast, {}, tasks.query, directions=drawn[0] if drawn else None)
        with torch.enable_grad():
            rows, _ = outer_gradient.hop(at, vector)
        return next(iter(rows.values())).flatten(1).detach()


def relative_error(found: Tensor, true: Tensor) -> float:
    """Root mean square of |found - true| over that of |true|, rows being draws."""
    return float(((found - true).square().sum(1).mean() / true.square().sum(1).mean()).sqrt())
