"""The trap that is nearest when tasks are batched: ``vmap`` around ``torch.func.grad`` is silently wrong.

In torch the second derivatives of layer norm and of batch norm are wrong there (functorch issue 534). The oracle has to
see it, and ours must not have it. Where a torch has mended it, WRONG is empty there, and docs/peers.md has to say so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracles import relative
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from unrolling import unrolled
from update_rules import sgd

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params
from peer_claims.of_parallel_metalearn import LR, PARALLEL_METALEARN, STEPS, by_parallel_metalearn, network
from peer_claims.problem import Sets, classes

WRONG: dict[str, Callable[[], nn.Module]] = {
    "LayerNorm": lambda: nn.LayerNorm(8),
    "BatchNorm": lambda: nn.BatchNorm1d(8, track_running_stats=False),
}
RIGHT: dict[str, Callable[[], nn.Module]] = {"none": nn.Identity, "GroupNorm": lambda: nn.GroupNorm(2, 8)}
NORMS = pytest.mark.parametrize("norm", [*RIGHT, *WRONG])


def loop_of(norm: str) -> InnerLoop:
    return InnerLoop(network((RIGHT | WRONG)[norm]()), nn.CrossEntropyLoss(), SGD(LR), ["*"], STEPS)


def tasks_of(sets: Sets) -> Tasks:
    return Tasks((Batch(sets.x, sets.y),), Batch(sets.query_x, sets.query_y), torch.arange(len(sets.x)))


def oracle(loop: InnerLoop, sets: Sets) -> Params:
    return unrolled(loop, tasks_of(sets), STEPS, [name for name, _ in loop.model.named_parameters()], sgd()).gradients


def mapped(loop: InnerLoop, sets: Sets) -> Params:
    """As one would write it in ``torch.func``."""

    def loss(weights: Params, x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = loop.loss(functional_call(loop.model, weights, (x,)), y)
        return value

    def adapted(weights: Params, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        inner: Callable[..., Params] = grad(loss)
        for _ in range(STEPS):
            gradient = inner(weights, x, y)
            weights = {name: weight - LR * gradient[name] for name, weight in weights.items()}
        return loss(weights, query_x, query_y)

    start: Params = {name: weight.detach() for name, weight in loop.model.named_parameters()}
    outer: Callable[[Params], Params] = grad(lambda weights: vmap(adapted, (None, 0, 0, 0, 0))(weights, *sets).mean())
    return {f"model.{name}": part for name, part in outer(start).items()}


@NORMS
def test_the_oracle_sees_it_and_ours_has_it_not(norm: str) -> None:
    loop, sets = loop_of(norm), classes()
    true = oracle(loop, sets)
    assert relative(MetaGradientOf(loop, SecondOrder(), STEPS)(tasks_of(sets)).gradients, true) < 1e-12
    error = relative(mapped(loop, sets), true)
    assert error > 1e-4 if norm in WRONG else error < 1e-12


@NORMS
@pytest.mark.parametrize("backend", ["vmap", "sequential"])
def test_parallel_metalearn(norm: str, backend: str) -> None:
    """Its default backend is that trap; its loop is right."""
    if missing := PARALLEL_METALEARN.claims["parallel-metalearn-norms"].missing():
        pytest.skip(missing)
    loop, sets = loop_of(norm), classes()
    model = loop.model
    assert isinstance(model, nn.Sequential)
    names = [f"model.{name}" for name, _ in model.named_parameters()]
    true = oracle(loop, sets)
    error = relative(dict(zip(names, by_parallel_metalearn(model, sets, backend), strict=True)), true)
    assert error > 1e-4 if norm in WRONG and backend == "vmap" else error < 1e-12
