"""The oracle of a meta-gradient: each task unrolled by itself, by plain autograd and the formulas written out.

Every forward pass is one of a fresh copy of the model, in which each weight is replaced by a tensor of the graph
wherever it stands: in a module's slot, in several, or in a plain list. Nothing is ever put back, so that a model that
computes again in the backward pass finds the same weights. Nothing of litmaml is called but the model and the loss.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from hops import Hop, Loss, product, slope
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from litmaml.inner.loop import InnerLoop
from litmaml.inner.transform import Transform
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

State = dict[str, Any]
Rule = Callable[[State, Tensor, Tensor, Any], Tensor]
"""(state of a tensor, theta, gradient, rate) -> the next theta."""


class Unrolled(NamedTuple):
    """The outer losses (T,), the predictions on the query (T, n, ...), theta_N of each task, and the gradient of the
    mean outer loss by all trained parameters of the inner loop, under its names."""

    losses: Tensor
    predictions: Tensor
    adapted: list[Params]
    gradients: Params


def unrolled(
    inner_loop: InnerLoop,
    tasks: Tasks,
    steps: int,
    fast: Sequence[str],
    rule: Rule,
    hop: Hop | None = None,
    model: nn.Module | None = None,
    draw: Callable[[int, int], None] = lambda task, j: None,
    begin: Callable[[Params, int], Params] = lambda theta, task: {},
) -> Unrolled:
    """The tasks unrolled; exactly where there is no Hop.

    ``model``: one that computes the same as the inner loop's, to take instead. ``draw(task, j)`` is called before each
    forward pass of inner step j, and of the query with j = ``steps``: it sets the random generators. ``begin(theta,
    task)`` gives weights that start in each task anew, from the others.
    """
    model = inner_loop.model if model is None else model
    if tasks.hessian is not None and hop is None:
        hop = product
    leaves = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in inner_loop.named_parameters()
        if parameter.requires_grad
    }
    start = {name.removeprefix("model."): leaf for name, leaf in leaves.items() if name.startswith("model.")}

    def outcome(theta: Params, batch: Batch, task: int, j: int) -> tuple[Tensor, Tensor]:
        draw(task, j)
        with WrittenOut():
            predictions = with_weights(model, theta)(batch.inputs[task].clone())
        return inner_loop.loss(predictions, batch.targets[task].clone()), predictions

    def loss_of(theta: Params, batches: Sequence[Batch], task: int, j: int) -> Tensor:
        return outcome(theta, batches[j if len(batches) > 1 else 0], task, j)[0]

    def adapted(task: int) -> Params:
        # By copies, since the inner gradient at theta_0 holds still what begins as a function of the others.
        theta = {**{name: weight.clone() for name, weight in start.items()}, **begin(start, task)}
        states = {name: State() for name in fast}
        for j in range(steps):
            support, hessian = (
                functools.partial(loss_of, batches=batches, task=task, j=j)
                for batches in (tasks.support, tasks.hessian or tasks.support)
            )
            gradient = gradient_by(support, hessian, theta, fast, hop)
            for name in fast:
                theta[name] = rule(
                    states[name], theta[name], gradient[name], rate_of(inner_loop.optimizer, leaves, name, j)
                )
        return theta

    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        ends = [adapted(task) for task in range(tasks.size)]
        outer = [outcome(theta, tasks.query, task, steps) for task, theta in enumerate(ends)]
        losses = torch.stack([loss for loss, _ in outer])
        gradients = torch.autograd.grad(losses.mean(), [*leaves.values()], materialize_grads=True)
    return Unrolled(
        losses.detach(),
        torch.stack([predictions for _, predictions in outer]).detach(),
        [{name: theta[name].detach() for name in fast} for theta in ends],
        dict(zip(leaves, gradients, strict=True)),
    )


def rate_of(optimizer: Any, leaves: Params, name: str, j: int) -> Any:
    """The rate of a weight in step j, of what is within all wrappers."""
    while isinstance(optimizer, Transform):
        optimizer = optimizer.optimizer
    table = leaves.get("learnt.rate")
    if table is None:
        table = leaves.get("learnt.rate/" + name.replace(".", "/"))
    if table is None:
        return optimizer.lr
    return table[j] if optimizer.per_step else table


class WrittenOut(TorchFunctionMode):
    """A context in which weight normalisation and Hardsigmoid are of operations with right second derivatives in torch.

    For forward passes alone: a function mode is off within ``torch.autograd.grad``, and so in a backward pass.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch._weight_norm:
            v, g, dim = (*args, *(kwargs or {}).values(), 0)[:3]
            dims = [i for i in range(v.dim()) if i != dim % v.dim()] if dim != -1 else None
            return v * (g / v.square().sum(dims, keepdim=True).sqrt())
        if function is torch.nn.functional.hardsigmoid:
            return (args[0] + 3).clamp(0, 6) / 6
        return function(*args, **(kwargs or {}))


def with_weights(model: nn.Module, weights: Params) -> nn.Module:
    """A copy of the model whose parameters and buffers of these names are the tensors given, as they are."""
    own = [*model.named_parameters(), *model.named_buffers()]
    known: dict[int, Any] = {id(value): weights[name] for name, value in own if name in weights}
    for module in model.modules():
        # What a model has computed and kept cannot be copied with its graph.
        known |= {id(t): t.detach() for t in _tensors(vars(module)) if not t.is_leaf}
    return copy.deepcopy(model, known)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def gradient_by(support: Loss, hessian: Loss, theta: Params, fast: Sequence[str], hop: Hop | None) -> Params:
    """The gradient by the fast weights, whose own derivative is the Hop."""
    if hop is None:
        parts = torch.autograd.grad(
            support(theta), [theta[name] for name in fast], create_graph=True, materialize_grads=True
        )
    else:
        parts = _Replaced.apply(support, hessian, hop, tuple(theta), tuple(fast), *theta.values())
    return dict(zip(fast, parts, strict=True))


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, support: Loss, hessian: Loss, hop: Hop, names: Sequence[str], fast: Sequence[str], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.hessian, ctx.hop, ctx.names, ctx.fast = hessian, hop, names, fast
        ctx.theta = {name: weight.detach() for name, weight in zip(names, weights, strict=True)}
        gradient = slope(support, ctx.theta)
        return tuple(gradient[name] for name in fast)

    @staticmethod
    def backward(ctx: Any, *vector: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            rows = ctx.hop(ctx.hessian, ctx.theta, dict(zip(ctx.fast, vector, strict=True)))
        return (*[None] * 5, *(rows.get(name) for name in ctx.names))
