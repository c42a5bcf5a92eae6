"""The product form of a meta-gradient, dense Hessians, and directions that have the moments of a Gaussian."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from litmaml.randomness import Streams
from litmaml.tasks import Batch, Tasks, select
from litmaml.weights import Params


def product_form(model: nn.Module, loss: nn.Module, tasks: Tasks, steps: int, alpha: float, fast: str) -> Params:
    """(I - a P H(theta_0; D_0))' ... (I - a P H(theta_{N-1}; D_{N-1}))' grad l(theta_N; T), the mean over tasks.

    With dense Hessians by all weights, and P the projection on those whose names begin with ``fast``. Each step has
    its S_j and D_j if the tasks have them.
    """
    start = {name: weight.detach() for name, weight in model.named_parameters()}
    projection = torch.cat(
        [torch.full((weight.numel(),), float(name.startswith(fast))) for name, weight in start.items()]
    )

    def named(vector: Tensor) -> Params:
        parts = zip(start.items(), torch.split(vector, [weight.numel() for weight in start.values()]), strict=True)
        return {name: part.reshape(weight.shape) for (name, weight), part in parts}

    def loss_of(theta: Params, batch: Batch) -> Tensor:
        value: Tensor = loss(functional_call(model, theta, (batch.inputs[0],)), batch.targets[0])
        return value

    def gradient(vector: Tensor, batch: Batch) -> Tensor:
        slope: Tensor = torch.func.grad(lambda v: loss_of(named(v), batch))(vector)
        return slope

    total = torch.zeros_like(projection)
    for task in range(tasks.size):
        one = select(tasks, [task])
        supports, hessians = (
            batches * steps if len(batches) == 1 else batches for batches in (one.support, one.hessian or one.support)
        )
        path = [flat(start)]
        for support in supports:
            path.append(path[-1] - alpha * projection * gradient(path[-1], support))
        v = gradient(path[-1], one.query)
        for theta, batch in reversed([*zip(path[:-1], hessians, strict=True)]):
            hessian = dense_hessian(named(theta), functools.partial(loss_of, batch=batch))
            v = v - alpha * hessian @ (projection * v)
        total = total + v / tasks.size
    return {f"model.{name}": part for name, part in named(total).items()}


def dense_hessian(theta: Params, loss: Callable[[Params], Tensor]) -> Tensor:
    """The Hessian of a loss by all weights, flattened in their order (d, d)."""
    sizes = [weight.numel() for weight in theta.values()]

    def of_vector(vector: Tensor) -> Tensor:
        parts = zip(theta.items(), torch.split(vector, sizes), strict=True)
        return loss({name: part.reshape(weight.shape) for (name, weight), part in parts})

    hessian: Tensor = torch.func.hessian(of_vector)(flat(theta).detach())
    return hessian


def flat(weights: Params) -> Tensor:
    """All weights as one vector."""
    return torch.cat([weight.reshape(-1) for weight in weights.values()])


class Off(float):
    """A relative error that shows itself, in a failed assertion, with the three parameters that are furthest off."""

    worst: str

    def __repr__(self) -> str:
        return f"{float(self):.2e} ({self.worst})"


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """``sum``, which to a type checker may be the 0 that it starts at."""
    return functools.reduce(torch.add, parts)


def relative(found: Params, true: Params) -> float:
    """|found - true| / |true|, with every name in both."""
    assert found.keys() == true.keys()
    off = Off((flat(found) - flat(true)).norm() / flat(true).norm())
    by_name = {name: float((found[name] - part).norm()) for name, part in true.items()}
    # Of NaN first: it compares with nothing.
    worst = sorted(by_name, key=lambda name: (by_name[name] == by_name[name], -by_name[name]))[:3]
    off.worst = ", ".join(f"{name} by {by_name[name] / (float(true[name].norm()) or 1):.1e}" for name in worst)
    return off


def assert_close(found: Params, true: Params, rtol: float | None = None, atol: float | None = None) -> None:
    """Each number as ``torch.testing.assert_close`` has it, and in its message what ``relative`` shows."""
    torch.testing.assert_close(
        found, true, rtol=rtol, atol=atol, msg=lambda told: f"{told}\n\nIn all off by {relative(found, true)!r}"
    )


# Directions whose plain mean gives the moments of N(0, I), so that an expectation over them is exact.


def second_moments(d: int) -> Tensor:
    """Of order two and three: the points +-sqrt(d) e_i (2 d, d)."""
    points = d**0.5 * torch.eye(d)
    return torch.stack([points, -points], 1).reshape(2 * d, d)


def fourth_moments() -> Tensor:
    """Of order two and four, for even functions in six dimensions (48, 6).

    One of each pair of opposite roots of E6, which are a spherical 5-design, at radius sqrt(d + 2), and d + 2 = 8
    points of which each quarter is 0: |u|^2 has the moments d and d (d + 2) then.
    """
    pairs = [
        [(a if k == i else b if k == j else 0.0) for k in range(6)]
        for i, j in itertools.combinations(range(5), 2)
        for a, b in itertools.product((1.0, -1.0), repeat=2)
    ]
    signs = [s for s in itertools.product((0.5, -0.5), repeat=6) if sum(x < 0 for x in s) % 2 == 0]
    halves = [[*s[:5], s[5] * 3**0.5] for s in signs]
    roots = torch.tensor(pairs + halves)
    one_of_each = [root for k, root in enumerate(roots) if not any(torch.equal(root, -r) for r in roots[:k])]
    return torch.cat([torch.stack(one_of_each) * 2.0, torch.zeros(12, 6)])


class Directions:
    """Takes the place of ``normal_directions``: the same points (Q, d) in every step, for every task, in turn."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __call__(self, like: Params, count: int, streams: Streams, steps: int) -> tuple[Params, ...]:
        assert count % len(self.points) == 0
        tasks = sum(1 for _ in streams)
        points = self.points.repeat(count // len(self.points), 1)
        parts = torch.split(points, [weight.numel() for weight in like.values()], dim=1)
        step = {
            name: part.reshape(1, count, *weight.shape).expand(tasks, -1, *weight.shape)
            for (name, weight), part in zip(like.items(), parts, strict=True)
        }
        return (step,) * steps


def random_tasks(
    size: int = 3,
    inputs: int = 1,
    examples: int = 5,
    supports: int = 1,
    hessians: int = 0,
    targets: Callable[[Tensor], Tensor] | None = None,
) -> Tasks:
    """Regression tasks of noise, or of the targets given for the inputs."""

    def batch() -> Batch:
        x = torch.randn(size, examples, inputs)
        return Batch(x, torch.randn(size, examples, 1) if targets is None else targets(x))

    return Tasks(
        support=tuple(batch() for _ in range(supports)),
        query=batch(),
        numbers=torch.arange(size),
        hessian=tuple(batch() for _ in range(hessians)) or None,
    )


class Tiny(nn.Module):
    """Six weights: tanh units with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 2), nn.Tanh())
        self.head = nn.Linear(2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.head(self.body(x))
        return predicted
