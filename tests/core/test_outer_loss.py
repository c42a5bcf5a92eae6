"""What is minimised: outer losses by steps, by tasks, along the path and on the query, against a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hops import nothing
from oracles import Tiny, random_tasks, relative
from torch import Tensor, nn
from torch.func import functional_call

from cases import OUTER, UNSAMPLED, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FirstOrder, OuterGradient, OuterLoss, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

STEPS, RATE, LOSS = 3, 0.1, nn.MSELoss()


class Steps(OuterLoss):
    """Also what earlier steps lose, from less to less of it."""

    def step_weights(self, steps: int, epoch: int) -> Sequence[float]:
        return [0.4 / (epoch + 1), *[0.0, 0.3][: steps - 1], 0.5]


class Shares(OuterLoss):
    """Some tasks count more, as their numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", torch.tensor([0.2, 0.5, 2.3, 1.0]))

    def task_weights(self, numbers: Tensor) -> Tensor:
        shares: Tensor = self.p[numbers]  # type: ignore[index]  # a tensor
        return shares


class Short(OuterLoss):
    """A path through small weights is better."""

    def along(self, inner: Any, j: int, fast: Params, slow: Params, support: Batch) -> Tensor:
        length: Tensor = (j + 1) * fast["head.weight"].square().sum((1, 2)) * support.inputs.mean((1, 2))
        return length


class Everything(Steps, Shares, Short):
    """All three together, and another loss on the query."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.SmoothL1Loss()


KINDS: list[Callable[[], OuterLoss]] = [OuterLoss, Steps, Shares, Short, Everything]


NO_MODEL: Any = None
"""Is asked for nothing here."""


def by_hand(model: nn.Module, outer: OuterLoss, tasks: Tasks, epoch: int, first_order: bool = False) -> Params:
    """The gradient of F(w) = 1/n sum_i n p_i [sum_j w_j l(theta_j; T_i) + sum_j along_j], by autograd alone."""
    weights = dict(model.named_parameters())
    shares, counts = outer.step_weights(STEPS, epoch) or [0.0] * STEPS + [1.0], outer.task_weights(tasks.numbers)
    total = torch.zeros(())
    for i in range(tasks.size):
        theta: Params = dict(weights)
        one = Batch(tasks.support[0].inputs[i : i + 1], tasks.support[0].targets[i : i + 1])
        value = torch.zeros(())
        for j in range(STEPS + 1):
            query = functional_call(model, theta, (tasks.query.inputs[i],))
            value = value + shares[j] * (outer.loss or LOSS)(query, tasks.query.targets[i])
            if j == STEPS:
                break
            term = outer.along(NO_MODEL, j, {name: weight[None] for name, weight in theta.items()}, {}, one)
            value = value + (0.0 if term is None else term.sum())
            loss = LOSS(functional_call(model, theta, (one.inputs[0],)), one.targets[0])
            slope = torch.autograd.grad(loss, list(theta.values()), create_graph=not first_order)
            theta = {
                n: w - RATE * (g.detach() if first_order else g) for (n, w), g in zip(theta.items(), slope, strict=True)
            }
        total = total + value * (1.0 if counts is None else counts[i]) / tasks.size
    gradient = torch.autograd.grad(total, list(weights.values()))
    return {f"model.{name}": part for name, part in zip(weights, gradient, strict=True)}


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("method", UNSAMPLED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_a_plain_loop(kind: Callable[[], OuterLoss], method: str, chunk: int | None) -> None:
    model, tasks, outer, row = Tiny(), random_tasks(4), kind(), UNSAMPLED[method]
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS)
    gradient_of = MetaGradientOf(loop, row.make(), STEPS, chunk, outer_loss=outer)
    gradient_of.epoch = 2
    found = gradient_of(tasks)
    assert relative(found.gradients, by_hand(model, outer, tasks, 2, row.hop is nothing)) < row.rounding


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_is_another_gradient(kind: Callable[[], OuterLoss]) -> None:
    model, tasks = Tiny(), random_tasks(4)
    assert relative(by_hand(model, kind(), tasks, 0), by_hand(model, OuterLoss(), tasks, 0)) > 0.1


@pytest.mark.parametrize("method", made(OUTER, samples=2))
def test_the_value_does_not_depend_on_the_gradient(method: OuterGradient) -> None:
    model, tasks = Tiny(), random_tasks(4)
    loop, outer = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS), Shares()
    found = MetaGradientOf(loop, method, STEPS, outer_loss=outer)(tasks)
    plain = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    torch.testing.assert_close(found.losses, plain.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found.loss, (outer.task_weights(tasks.numbers) * plain.losses).mean(), rtol=1e-12, atol=0
    )


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's compiler imports it
@pytest.mark.slow
@pytest.mark.parametrize("method", [FirstOrder(), SecondOrder()])
def test_compiled_is_eager_while_weights_of_steps_and_tasks_change(method: OuterGradient) -> None:
    model, tasks, outer = Tiny(), random_tasks(4), Everything()
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], 1)
    both = [MetaGradientOf(loop, method, 1, compile=c, outer_loss=outer) for c in (True, False)]
    for epoch in (0, 0, 1):
        for gradient_of in both:
            gradient_of.epoch = epoch
        found, true = (gradient_of(tasks) for gradient_of in both)
        assert relative(found.gradients, true.gradients) < 1e-10
        outer.p.mul_(torch.rand(4) + 0.5)  # type: ignore[operator]  # a tensor
    assert len(both[0].compiled.programs) == 2  # by the weights of steps; those of tasks are arguments


class Given(OuterLoss):
    """With what each method gives."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._given = given

    def step_weights(self, steps: int, epoch: int) -> Any:
        return self._given.get("steps")

    def task_weights(self, numbers: Tensor) -> Any:
        return self._given.get("tasks")

    def along(self, inner: Any, j: int, fast: Params, slow: Params, support: Batch) -> Tensor | None:
        return self._given["along"](fast) if "along" in self._given else None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": [0.5, 0.5]}, r"outer_loss.step_weights: .* each of 2 inner steps, got 2; give 3"),
        ({"steps": [0.25] * 4}, r"outer_loss.step_weights: .* each of 2 inner steps, got 4; give 3"),
        ({"tasks": torch.ones(4, 1)}, r"outer_loss.task_weights: .* \(4,\), got \(4, 1\)"),
        ({"tasks": torch.ones(())}, r"outer_loss.task_weights: .* \(4,\), got \(\)"),
        ({"tasks": [1.0] * 4}, r"outer_loss.task_weights: .* \(4,\), got list"),
        (
            {"along": lambda fast: sum(w.square().sum() for w in fast.values())},
            r"outer_loss: .* one number per task, .* got \(\);",
        ),
        ({"along": lambda fast: fast["body.0.bias"].square()}, r"outer_loss: .* one number per task, .* got \(., 2\);"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_what_would_be_spread_over_all_tasks_or_left_out_is_refused(given: dict[str, Any], message: str) -> None:
    loop = InnerLoop(Tiny(), LOSS, SGD(RATE), ["*"], 2)
    with pytest.raises(ValueError, match=message):
        MetaGradientOf(loop, SecondOrder(), 2, outer_loss=Given(**given))(random_tasks(4))
