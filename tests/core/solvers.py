"""The oracle of all methods: a task's outer gradient by plain autograd, dense algebra or its formula written out.

One task at a time, unstacked; nothing of litmaml is called but the model, the loss and the outer loss's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hops import Hop, product
from oracles import flat
from torch import Tensor, nn
from torch.func import functional_call
from unrolling import Rule, State, gradient_by, rate_of
from update_rules import sgd

from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterLoss
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

Transformed = Callable[[Params, Params, Params, Params], Params]
"""(theta, g, theta_0, all that is learnt) -> what the inner optimizer gets."""
Call = Callable[[Params, Any], Tensor]
"""(all weights, inputs) -> what the model gives with these."""


def unchanged(theta: Params, g: Params, first: Params, learnt: Params) -> Params:
    """Of no wrapper."""
    return g


@dataclass
class Truth:
    """What the oracle is to know of an inner loop.

    rule: By which the optimizer inside moves a tensor. hop: Of an outer gradient along the path; None is exact. draw:
    (task, j, query) sets the random generators before a pass of the support in step j, or of the query after j steps.
    """

    loop: InnerLoop
    steps: int
    transformed: Transformed = unchanged
    rule: Rule = field(default_factory=sgd)
    hop: Hop | None = None
    call: Call | None = None
    draw: Callable[[int, int, bool], None] = lambda task, j, query: None

    def model(self, weights: Params, inputs: Any) -> Tensor:
        if self.call is not None:
            return self.call(weights, inputs)
        outputs: Tensor = functional_call(self.loop.model, weights, (inputs,))
        return outputs


@dataclass
class OneTask:
    """A task, and what is trained, by the names of the inner loop.

    shares: w_0, ..., w_N. u: Directions (Q, ...), by the same names. least: Of the eigenvalues of I + H/lambda, once an
    implicit gradient is taken.
    """

    truth: Truth
    number: int
    support: Sequence[Batch]
    hessian: Sequence[Batch] | None
    query: Batch
    leaves: Params
    shares: Sequence[float]
    query_loss: nn.Module
    u: Params
    least: float = torch.inf

    @property
    def loop(self) -> InnerLoop:
        return self.truth.loop

    def outcome(self, batch: Batch, loss: nn.Module, theta: Params, j: int, query: bool) -> tuple[Tensor, Tensor]:
        self.truth.draw(self.number, j, query)
        outputs = self.truth.model(theta, batch.inputs)
        return loss(outputs, batch.targets), outputs

    def loss_in_step(self, theta: Params, j: int, batches: Sequence[Batch]) -> Tensor:
        return self.outcome(batches[j if len(batches) > 1 else 0], self.loop.loss, theta, j, False)[0]

    def weights(self, leaves: Params) -> Params:
        """All of the model's, by its own names; a buffer that is adapted starts where it stands."""
        buffers = {n: b.detach().clone() for n, b in self.loop.model.named_buffers() if n in self.loop.fast_names}
        own = {n.removeprefix("model."): w for n, w in leaves.items() if n.startswith("model.")}
        return {**own, **{name: buffer.requires_grad_() for name, buffer in buffers.items()}}

    def at(self, theta: Params, leaves: Params, j: int) -> Params:
        """With the rows of step j of what has one for each."""
        keys = {name: "learnt.weights/" + name.replace(".", "/") for name in self.loop.rows}
        return theta | {name: leaves[key][max(j, 0)] for name, key in keys.items()}

    def path(self, leaves: Params, hop: Hop | None) -> list[Params]:
        """theta_0, ..., theta_N with all weights, on the graph."""
        theta, fast, optimizer = self.weights(leaves), self.loop.fast_names, self.loop.optimizer
        # By copies, of which a gradient by the fast weights alone can be taken.
        theta = {name: weight.clone() for name, weight in theta.items()}
        learnt = {n.removeprefix("learnt."): p for n, p in leaves.items() if n.startswith("learnt.")}
        first, found = {name: theta[name] for name in fast}, [theta]
        states = {name: State() for name in fast}
        for j in range(self.truth.steps):

            def support(t: Params, j: int = j) -> Tensor:
                return self.loss_in_step(t, j, self.support)

            def hessian(t: Params, j: int = j) -> Tensor:
                return self.loss_in_step(t, j, self.support if self.hessian is None else self.hessian)

            g = gradient_by(support, hessian, self.at(theta, leaves, j), fast, hop)
            g = self.truth.transformed({name: theta[name] for name in fast}, g, first, learnt)
            rates = {name: rate_of(optimizer, leaves, name, j) for name in fast}
            theta = theta | {n: self.truth.rule(states[n], theta[n], g[n], rates[n]) for n in fast}
            found.append(theta)
        return found

    def outer(self, path: Sequence[Params], leaves: Params) -> tuple[Tensor, Tensor]:
        """sum_j w_j l(theta_j; T), and the predictions after the last step."""
        terms = []
        for j, (share, theta) in enumerate(zip(self.shares, path, strict=True)):
            if share:
                loss, outputs = self.outcome(self.query, self.query_loss, self.at(theta, leaves, j - 1), j, True)
                terms.append(share * loss)
        return torch.stack(terms).sum(), outputs


Solved = Callable[[OneTask], Params]


def along_the_path(task: OneTask) -> Params:
    """By autograd, with the Hop of the outer gradient for each inner gradient's own derivative."""
    hop = task.truth.hop
    return _slope(task, product if hop is None and task.hessian is not None else hop)


def first_order(task: OneTask) -> Params:
    """The same with each inner gradient a constant."""
    return _slope(task, lambda loss, theta, v: {})


def _slope(task: OneTask, hop: Hop | None) -> Params:
    value, _ = task.outer(task.path(task.leaves, hop), task.leaves)
    parts = torch.autograd.grad(value, [*task.leaves.values()], materialize_grads=True)
    return dict(zip(task.leaves, parts, strict=True))


def end_of(task: OneTask, leaves: Params) -> Params:
    """theta_N, a constant."""
    return {name: weight.detach() for name, weight in task.path(leaves, lambda loss, theta, v: {})[-1].items()}


def implicit(task: OneTask) -> Params:
    """(I + H/lambda)^(-1) v by dense algebra, at the end of the path."""
    optimizer: Any = task.loop.optimizer
    strength = task.leaves.get("learnt.strength", torch.tensor(optimizer.strength)).detach()
    fast, start, end = task.loop.fast_names, task.weights(task.leaves), end_of(task, task.leaves)
    names = [*fast, *(name for name in end if name not in fast)]
    theta = {name: end[name].requires_grad_() for name in names}
    value, _ = task.outer([theta] * (task.truth.steps + 1), task.leaves)
    outer = dict(zip(names, torch.autograd.grad(value, [*theta.values()], materialize_grads=True), strict=True))
    hessian = _rows(task.loss_in_step(theta, 0, task.support), theta, fast)
    d = len(hessian)
    system = torch.eye(d) + hessian[:, :d] / strength
    task.least = float(torch.linalg.eigvalsh((system + system.T) / 2).min())
    x = torch.linalg.solve(system, flat({name: outer[name] for name in fast}))
    mixed = torch.split(-x @ hessian[:, d:] / strength, [theta[name].numel() for name in names[len(fast) :]])
    of_fast = torch.split(x, [theta[name].numel() for name in fast])
    rows = {f"model.{name}": part.reshape(theta[name].shape) for name, part in zip(fast, of_fast, strict=True)}
    for name, part in zip(names[len(fast) :], mixed, strict=True):
        rows[f"model.{name}"] = outer[name] + part.reshape(theta[name].shape)
    if "learnt.strength" in task.leaves:
        way = flat({name: end[name].detach() - start[name].detach() for name in fast})
        rows["learnt.strength"] = -(x @ way) / strength
    return {name: rows[name] for name in task.leaves}


def _rows(loss: Tensor, theta: Params, fast: Sequence[str]) -> Tensor:
    """The Hessian's rows of the fast weights, which come first, one by one (d, all)."""
    of_fast = torch.autograd.grad(loss, [theta[name] for name in fast], create_graph=True, materialize_grads=True)
    entries = torch.cat([part.flatten() for part in of_fast])
    rows = []
    for entry in entries:
        if not entry.requires_grad:  # the loss is linear
            rows.append(torch.zeros(sum(weight.numel() for weight in theta.values())))
            continue
        parts = torch.autograd.grad(entry, [*theta.values()], retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def reptile(task: OneTask) -> Params:
    """w - theta_N."""
    end, start = end_of(task, task.leaves), task.weights(task.leaves)
    return {name: (start[n] - end[n]).detach() for name in task.leaves for n in [name.removeprefix("model.")]}


def evolution(smoothing: float) -> Solved:
    """The mean over the directions u (Q, ...) of [F(w + sigma u) - F(w - sigma u)] u / (2 sigma)."""

    def solved(task: OneTask) -> Params:
        count = len(next(iter(task.u.values())))
        found = {name: torch.zeros_like(leaf) for name, leaf in task.leaves.items()}
        for q in range(count):
            ends = []
            for way in (smoothing, -smoothing):
                moved = {n: (w + way * task.u[n][q]).detach().requires_grad_() for n, w in task.leaves.items()}
                ends.append(task.outer(task.path(moved, lambda loss, theta, v: {}), moved)[0].detach())
            for name in found:
                found[name] += (ends[0] - ends[1]) / (2 * smoothing * count) * task.u[name][q]
        return found

    return solved


def each_task(
    truth: Truth, tasks: Tasks, outer_loss: OuterLoss, directions: Params | None = None, epoch: int = 0
) -> list[OneTask]:
    """The tasks, with the weights as they are now.

    ``directions``: (T, Q, ...) by the names of the model's weights.
    """
    loop, steps = truth.loop, truth.steps
    leaves = {n: p.detach().clone().requires_grad_() for n, p in loop.named_parameters() if p.requires_grad}
    return [
        OneTask(
            truth,
            number=i,
            support=[batch.task(i) for batch in tasks.support],
            hessian=None if tasks.hessian is None else [batch.task(i) for batch in tasks.hessian],
            query=tasks.query.task(i),
            leaves=leaves,
            shares=outer_loss.step_weights(steps, epoch) or [0.0] * steps + [1.0],
            query_loss=outer_loss.loss or loop.loss,
            u={f"model.{name}": part[i] for name, part in (directions or {}).items()},
        )
        for i in range(tasks.size)
    ]


def true_gradient(each: Sequence[OneTask], solved: Solved, counts: Tensor | None = None) -> Params:
    """The mean over tasks of n p_i G_i, by the names of the inner loop; ``counts``: n p_i, where it is not 1."""
    total = {name: torch.zeros_like(leaf) for name, leaf in each[0].leaves.items()}
    for i, one in enumerate(each):
        for name, part in solved(one).items():
            total[name] += (1.0 if counts is None else counts[i]) * part / len(each)
    return total
