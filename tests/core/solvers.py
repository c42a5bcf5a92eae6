"""The oracle of all methods: a task's outer gradient by plain autograd, dense algebra or its formula written out.

One task at a time, unstacked; nothing of litmaml is called but the model, the loss and the outer loss's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from oracles import dense_hessian, flat
from torch import Tensor, nn
from torch.func import functional_call

from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterLoss
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

Transformed = Callable[[Params, Params, Params, Params], Params]
"""(theta, g, theta_0, all that is learnt) -> what the inner optimizer gets."""


@dataclass
class OneTask:
    """A task, and what is trained, by the names of the inner loop.

    rate: Of the gradient descent inside. shares: w_0, ..., w_N.
    """

    loop: InnerLoop
    support: Batch
    query: Batch
    leaves: Params
    steps: int
    rate: float
    transformed: Transformed
    shares: Sequence[float]
    query_loss: nn.Module
    u: Params

    def loss_at(self, batch: Batch, loss: nn.Module | None = None) -> Callable[[Params], Tensor]:
        def of(theta: Params) -> Tensor:
            outputs = functional_call(self.loop.model, theta, (batch.inputs,))
            value: Tensor = (loss or self.loop.loss)(outputs, batch.targets)
            return value

        return of

    def weights(self, leaves: Params) -> Params:
        """All of the model's, by its own names."""
        return {n.removeprefix("model."): w for n, w in leaves.items() if n.startswith("model.")}

    def path(self, leaves: Params, exact: bool) -> list[Params]:
        """theta_0, ..., theta_N with all weights, on the graph; the inner gradient's own derivative only if exact."""
        theta, fast = self.weights(leaves), self.loop.fast_names
        learnt = {n.removeprefix("learnt."): p for n, p in leaves.items() if n.startswith("learnt.")}
        first, found = {name: theta[name] for name in fast}, [theta]
        for _ in range(self.steps):
            value = self.loss_at(self.support)(theta)
            parts = torch.autograd.grad(value, [theta[name] for name in fast], create_graph=exact)
            g = dict(zip(fast, parts, strict=True))
            g = self.transformed({name: theta[name] for name in fast}, g, first, learnt)
            theta = {**theta, **{name: theta[name] - self.rate * g[name] for name in fast}}
            found.append(theta)
        return found

    def outer(self, path: Iterable[Params]) -> Tensor:
        """sum_j w_j l(theta_j; T)."""
        of = self.loss_at(self.query, self.query_loss)
        terms = [w * of(theta) for w, theta in zip(self.shares, path, strict=True) if w]
        return torch.stack(terms).sum()


Solved = Callable[[OneTask], Params]


def exact(task: OneTask) -> Params:
    """By autograd along the path."""
    return _slope(task, True)


def first_order(task: OneTask) -> Params:
    """The same with each inner gradient a constant."""
    return _slope(task, False)


def _slope(task: OneTask, through: bool) -> Params:
    value = task.outer(task.path(task.leaves, through))
    parts = torch.autograd.grad(value, [*task.leaves.values()], materialize_grads=True)
    return dict(zip(task.leaves, parts, strict=True))


def implicit(task: OneTask) -> Params:
    """(I + H/lambda)^(-1) v by dense algebra, at the end of the path."""
    optimizer: Any = task.loop.optimizer
    strength = task.leaves.get("learnt.strength", torch.tensor(optimizer.strength)).detach()
    fast, start = task.loop.fast_names, task.weights(task.leaves)
    end = {name: weight.detach() for name, weight in task.path(task.leaves, False)[-1].items()}
    names = [*fast, *(name for name in end if name not in fast)]
    theta = {name: end[name].requires_grad_() for name in names}
    outer = dict(
        zip(names, torch.autograd.grad(task.outer([end] * task.steps + [theta]), [*theta.values()]), strict=True)
    )
    hessian = dense_hessian(theta, task.loss_at(task.support))
    d = sum(theta[name].numel() for name in fast)
    x = torch.linalg.solve(torch.eye(d) + hessian[:d, :d] / strength, flat({name: outer[name] for name in fast}))
    mixed = torch.split(-hessian[d:, :d] @ x / strength, [theta[name].numel() for name in names[len(fast) :]])
    of_fast = torch.split(x, [theta[name].numel() for name in fast])
    rows = {f"model.{name}": part.reshape(theta[name].shape) for name, part in zip(fast, of_fast, strict=True)}
    for name, part in zip(names[len(fast) :], mixed, strict=True):
        rows[f"model.{name}"] = outer[name] + part.reshape(theta[name].shape)
    if "learnt.strength" in task.leaves:
        way = flat({name: end[name].detach() - start[name].detach() for name in fast})
        rows["learnt.strength"] = -(x @ way) / strength
    return rows


def reptile(task: OneTask) -> Params:
    """w - theta_N."""
    end, start = task.path(task.leaves, False)[-1], task.weights(task.leaves)
    return {f"model.{name}": (start[name] - end[name]).detach() for name in start}


def evolution(smoothing: float) -> Solved:
    """The mean over the directions u (Q, ...) of [F(w + sigma u) - F(w - sigma u)] u / (2 sigma)."""

    def solved(task: OneTask) -> Params:
        count = len(next(iter(task.u.values())))
        found = {name: torch.zeros_like(leaf) for name, leaf in task.leaves.items()}
        for q in range(count):
            ends = []
            for way in (smoothing, -smoothing):
                moved = {n: (w + way * task.u[n][q]).detach().requires_grad_() for n, w in task.leaves.items()}
                ends.append(task.outer(task.path(moved, False)).detach())
            for name in found:
                found[name] += (ends[0] - ends[1]) / (2 * smoothing * count) * task.u[name][q]
        return found

    return solved


def true_gradient(
    loop: InnerLoop,
    tasks: Tasks,
    steps: int,
    outer_loss: OuterLoss,
    solved: Solved,
    transformed: Transformed,
    rate: float,
    directions: Params,
    epoch: int = 0,
) -> Params:
    """The mean over tasks of n p_i G_i, by the names of the inner loop.

    ``directions``: (T, Q, ...) by the names of the model's weights.
    """
    leaves = {n: p.detach().clone().requires_grad_() for n, p in loop.named_parameters() if p.requires_grad}
    counts = outer_loss.task_weights(tasks.numbers)
    counts = torch.ones(tasks.size) if counts is None else counts
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for i in range(tasks.size):
        one = OneTask(
            loop=loop,
            support=tasks.support[0].task(i),
            query=tasks.query.task(i),
            leaves=leaves,
            steps=steps,
            rate=rate,
            transformed=transformed,
            shares=outer_loss.step_weights(steps, epoch) or [0.0] * steps + [1.0],
            query_loss=outer_loss.loss or loop.loss,
            u={f"model.{name}": part[i] for name, part in directions.items()},
        )
        for name, part in solved(one).items():
            total[name] += counts[i] * part / tasks.size
    return total
