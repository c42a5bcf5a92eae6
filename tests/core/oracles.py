"""Independent oracles of a meta-gradient, and directions that have the moments of a Gaussian.

The oracle unrolls each task by itself with plain autograd and update rules written out here; the core stacks tasks
and takes other ways. Nothing of litmaml is called but the model and the loss.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from litmaml.inner_loop import InnerLoop
from litmaml.types import Batch, Params, Tasks, select

State = dict[str, Any]
Rule = Callable[[State, Tensor, Tensor, Any], Tensor]
"""(state of a tensor, theta, gradient, rate) -> the next theta."""

Hop = Literal["exact", "none", "ji"]
"""What stands for H v: itself, nothing, or (H + tr(H)/2) v."""


def gradient_of_unrolling(
    inner_loop: InnerLoop, tasks: Tasks, steps: int, fast: Sequence[str], rule: Rule, hop: Hop = "exact"
) -> Params:
    """The gradient of the mean outer loss by all trained parameters of the inner loop, under its names."""
    leaves = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in inner_loop.named_parameters()
        if parameter.requires_grad
    }
    weights = {name.removeprefix("model."): leaf for name, leaf in leaves.items() if name.startswith("model.")}

    def loss_of(theta: Params, batch: Batch, task: int) -> Tensor:
        value: Tensor = inner_loop.loss(
            functional_call(inner_loop.model, theta, (batch.inputs[task],)), batch.targets[task]
        )
        return value

    def rate(name: str, j: int) -> Any:
        table = leaves.get("optimizer.rates.values.all")
        if table is None:
            table = leaves.get("optimizer.rates.values." + name.replace(".", "/"))
        if table is None:
            return inner_loop.optimizer.lr
        return table[j] if inner_loop.optimizer.per_step else table

    def adapted(task: int) -> Params:
        theta, states = dict(weights), {name: State() for name in fast}
        for j in range(steps):
            batch = tasks.support[j if len(tasks.support) > 1 else 0]
            gradients = torch.autograd.grad(
                loss_of(theta, batch, task),
                [theta[name] for name in fast],
                create_graph=True,
                materialize_grads=True,
            )
            half_trace = 0.0
            if hop == "ji":
                here = functools.partial(loss_of, batch=batch, task=task)
                half_trace = 0.5 * float(dense_hessian(theta, here).trace())
            for name, gradient in zip(fast, gradients, strict=True):
                if hop == "none":
                    gradient = gradient.detach()
                # A term of no value, whose derivative by theta is tr(H)/2.
                gradient = gradient + half_trace * (theta[name] - theta[name].detach())
                theta[name] = rule(states[name], theta[name], gradient, rate(name, j))
        return theta

    total = torch.zeros(())
    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        for task in range(tasks.size):
            total = total + loss_of(adapted(task), tasks.query, task)
    gradients = torch.autograd.grad(total / tasks.size, [*leaves.values()], materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True))


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
        parts = zip(start.items(), vector.split([weight.numel() for weight in start.values()]), strict=True)
        return {name: part.reshape(weight.shape) for (name, weight), part in parts}

    def loss_of(theta: Params, batch: Batch) -> Tensor:
        value: Tensor = loss(functional_call(model, theta, (batch.inputs[0],)), batch.targets[0])
        return value

    def gradient(vector: Tensor, batch: Batch) -> Tensor:
        return torch.func.grad(lambda v: loss_of(named(v), batch))(vector)

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
        parts = zip(theta.items(), vector.split(sizes), strict=True)
        return loss({name: part.reshape(weight.shape) for (name, weight), part in parts})

    hessian: Tensor = torch.func.hessian(of_vector)(flat(theta).detach())
    return hessian


def flat(weights: Params) -> Tensor:
    """All weights as one vector."""
    return torch.cat([weight.reshape(-1) for weight in weights.values()])


def relative(found: Params, true: Params) -> float:
    """|found - true| / |true|, with every name in both."""
    assert found.keys() == true.keys()
    return float((flat(found) - flat(true)).norm() / flat(true).norm())


# Update rules of torch.optim, a tensor at a time.


def sgd(momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        g = g + weight_decay * theta
        state["m"] = momentum * state["m"] + g if "m" in state else g
        return theta - lr * (g + momentum * state["m"] if nesterov else state["m"])

    return rule


def adam(eps: float, beta1: float = 0.9, beta2: float = 0.999) -> Rule:
    """As higher has it: eps is added before the second moment's bias is corrected."""

    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        t = state["t"] = state.get("t", 0) + 1
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
        return theta - lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t) * m / (v.sqrt() + eps)

    return rule


def rmsprop(eps: float, alpha: float = 0.99, momentum: float = 0.0) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        v = state["v"] = alpha * state.get("v", 0.0) + (1 - alpha) * g**2
        b = state["b"] = momentum * state.get("b", 0.0) + g / (v.sqrt() + eps)
        return theta - lr * b

    return rule


def adagrad(eps: float, start: float) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        v = state["v"] = state.get("v", start) + g**2
        return theta - lr * g / (v.sqrt() + eps)

    return rule


def adadelta(eps: float, rho: float = 0.9) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        v = state["v"] = rho * state.get("v", 0.0) + (1 - rho) * g**2
        step = ((state.get("d", torch.zeros(())) + eps) / (v + eps)).sqrt() * g
        state["d"] = rho * state.get("d", 0.0) + (1 - rho) * step**2
        return theta - lr * step

    return rule


def adamax(eps: float, beta1: float = 0.9, beta2: float = 0.999) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        t = state["t"] = state.get("t", 0) + 1
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        u = state["u"] = torch.maximum(beta2 * state.get("u", torch.zeros(())), g.abs() + eps)
        return theta - lr / (1 - beta1**t) * m / u

    return rule


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
    """Takes the place of the core's Gaussian draws: the same points, one after another, for every task."""

    def __init__(self, points: Tensor) -> None:
        self.points, self.drawn = points, 0

    def __call__(self, like: Params) -> Params:
        point = self.points[self.drawn % len(self.points)]
        self.drawn += 1
        parts = point.split([weight[0].numel() for weight in like.values()])
        return {
            name: part.reshape(weight[0].shape).expand_as(weight)
            for (name, weight), part in zip(like.items(), parts, strict=True)
        }


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
