"""Tasks of unequal size whose inputs and targets are trees, models of such, and their gradient by a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from oracles import sum_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from litmaml.outer import FiniteDifference, FirstOrder, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.randomness import normal_directions, task_streams
from litmaml.tasks import Batch, Tasks, Tree, in_stacks
from litmaml.weights import Params

STEPS, RATE = 2, 0.1
SIZES = [(3, 5), (40, 4), (7, 9), (3, 5), (12, 6)]
"""Rows of support and query of each task."""

OUTER: dict[str, Callable[[], OuterGradient]] = {
    "SecondOrder": SecondOrder,
    "SecondOrder recompute": lambda: SecondOrder(recompute=True),
    "FirstOrder": FirstOrder,
    "FiniteDifference": lambda: FiniteDifference(radius=0.01),
    "GaussianSmoothing": lambda: GaussianSmoothing(samples=3, smoothing=0.1),
    "ZerothOrder": lambda: ZerothOrder(samples=3, smoothing=0.3),
}


class Two(nn.Module):
    """A function of two inputs, the second of which has another width."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(2, 4), nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.left(x) * self.right(context)))
        return out


class Nested(Two):
    """The same of inputs within inputs, which says more than its predictions."""

    def forward(self, parts: dict[str, Any], pair: tuple[Tensor, Tensor]) -> Any:  # type: ignore[override]
        found = super().forward(parts["inner"]["x"] + pair[0], pair[1])
        return {"all": (found.sum(), {"scores": found})}


class Normalised(nn.Module):
    """Batch norm by the statistics of the rows: padding would change them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(2, 4), nn.BatchNorm1d(4, track_running_stats=False)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.norm(self.body(x))))
        return out


class Attending(nn.Module):
    """Each row looks at all rows of its set."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 4), nn.Linear(4, 1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.body(x)[None]
        out: Tensor = self.head(rows + self.attention(rows, rows, rows, need_weights=False)[0])[0]
        return out


class Weighed(nn.Module):
    """Squared error of targets that come with weights."""

    def forward(self, predictions: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return (targets["weight"] * (predictions - targets["value"]).square()).mean()


class Case:
    """A model with the trees that it takes: ``inputs`` and ``targets`` make them of noise (1, n, ...)."""

    def __init__(
        self,
        model: Callable[[], nn.Module],
        inputs: Callable[[int], Tree],
        loss: Callable[[], nn.Module] = nn.MSELoss,
        targets: Callable[[int], Tree] | None = None,
        call: Callable[[nn.Module, Params, Tree], Tensor] | None = None,
        output: str | None = None,
    ) -> None:
        self.model, self.inputs, self.loss, self.output = model, inputs, loss, output
        self.targets = targets or (lambda n: torch.randn(1, n, 1))
        self.call = call or (lambda model, weights, x: functional_call(model, weights, (x,)))

    def tasks(self) -> list[Tasks]:
        """One by one."""

        def batch(n: int) -> Batch:
            return Batch(self.inputs(n), self.targets(n))

        return [Tasks((batch(s),), batch(q), torch.tensor([k + 11])) for k, (s, q) in enumerate(SIZES)]

    def ragged(self) -> tuple[tuple[Tasks, ...], list[Tasks]]:
        """The tasks in stacks, and one by one in the same order."""
        alone = self.tasks()
        stacks = in_stacks(alone)
        by_number = {int(task.numbers): task for task in alone}
        return stacks, [by_number[int(number)] for stack in stacks for number in stack.numbers]


def _noise(*widths: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: tuple(torch.randn(1, n, width) for width in widths)


def _nested(n: int) -> Tree:
    x, first, second = _noise(2, 2, 3)(n)
    return {"parts": {"inner": {"x": x}}, "pair": (first, second)}


def _call_nested(model: nn.Module, weights: Params, x: Tree) -> Tensor:
    found: Tensor = functional_call(model, weights, (x["parts"], x["pair"]))["all"][1]["scores"]
    return found


CASES = {
    "dict": Case(
        Two,
        lambda n: dict(zip(("context", "x"), _noise(3, 2)(n), strict=True)),
        call=lambda model, weights, x: functional_call(model, weights, (x["x"], x["context"])),
    ),
    "tuple": Case(Two, _noise(2, 3), call=functional_call),
    "nested": Case(Nested, _nested, call=_call_nested, output="all.1.scores"),
    "dict targets": Case(
        Normalised,
        lambda n: torch.randn(1, n, 2),
        Weighed,
        lambda n: {"value": torch.randn(1, n, 1), "weight": torch.rand(1, n, 1)},
    ),
    "batch norm": Case(Normalised, lambda n: torch.randn(1, n, 2)),
    "attention": Case(Attending, lambda n: torch.randn(1, n, 2)),
}


def by_hand(
    case: Case, model: nn.Module, loss: nn.Module, tasks: list[Tasks], outer: OuterGradient, steps: int = STEPS
) -> Params:
    """The mean over tasks of v_0, where v_N = grad l(theta_N; T) and v_j = v_{j+1} - alpha Hop(theta_j, S, v_{j+1})."""
    start = {name: weight.detach() for name, weight in model.named_parameters()}

    def gradient(theta: Params, batch: Batch, graph: bool = False) -> Params:
        leaves = {name: w if graph else w.detach().requires_grad_() for name, w in theta.items()}
        value = loss_at(leaves, batch)
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), create_graph=graph), strict=True))

    def loss_at(theta: Params, batch: Batch) -> Tensor:
        one = batch.task(0)
        with sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
            value: Tensor = loss(case.call(model, theta, one.inputs), one.targets)
        return value

    def hop(theta: Params, batch: Batch, v: Params, directions: Params | None) -> Params:
        if isinstance(outer, FirstOrder):
            return {name: torch.zeros_like(w) for name, w in theta.items()}
        if isinstance(outer, SecondOrder):
            leaves = {name: w.detach().requires_grad_() for name, w in theta.items()}
            slope = sum_of((g * v[name]).sum() for name, g in gradient(leaves, batch, graph=True).items())
            found = torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True)
            return dict(zip(leaves, found, strict=True))
        if isinstance(outer, FiniteDifference):
            length = sum(part.square().sum() for part in v.values()) ** 0.5
            ahead, behind = (
                gradient({name: w + r * v[name] / length for name, w in theta.items()}, batch) for r in (0.01, -0.01)
            )
            return {name: length * (ahead[name] - behind[name]) / 0.02 for name in theta}
        assert directions is not None
        units = [{name: part[0, q] for name, part in directions.items()} for q in range(3)]
        along = [sum_of((u[name] * v[name]).sum() for name in v) for u in units]
        if isinstance(outer, GaussianSmoothing):
            here = gradient(theta, batch)
            probes = [gradient({name: w + 0.1 * u[name] for name, w in theta.items()}, batch) for u in units]
            return {
                name: sum_of((p[name] - here[name]) / 0.1 * a for p, a in zip(probes, along, strict=True)) / 3
                for name in theta
            }
        assert isinstance(outer, ZerothOrder)
        curvatures = []
        for u in units:
            ends = [loss_at({name: w + mu * u[name] for name, w in theta.items()}, batch) for mu in (0.3, -0.3, 0.0)]
            curvatures.append((ends[0] + ends[1] - 2 * ends[2]) / (2 * 0.3**2))
        mean = sum(curvatures) / 3
        return {
            name: sum_of((c - mean) * a * u[name] for c, a, u in zip(curvatures, along, units, strict=True)) / 3
            for name in theta
        }

    total = {name: torch.zeros_like(w) for name, w in start.items()}
    for task in tasks:
        streams = task_streams(0, "train", task.numbers.tolist(), "directions")
        drawn = normal_directions(start, 3, streams, steps) if outer.sampled else [None] * steps
        path = [start]
        for _ in range(steps):
            slope = gradient(path[-1], task.support[0])
            path.append({name: w - RATE * slope[name] for name, w in path[-1].items()})
        v = gradient(path[-1], task.query)
        for theta, directions in zip(reversed(path[:-1]), reversed(drawn), strict=True):
            rows = hop(theta, task.support[0], v, directions)
            v = {name: v[name] - RATE * rows[name].detach() for name in v}
        total = {name: total[name] + v[name] / len(tasks) for name in v}
    return {f"model.{name}": part for name, part in total.items()}
