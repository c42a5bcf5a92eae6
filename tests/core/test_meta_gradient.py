"""Meta-gradients of stacks of tasks: chunks, tasks that are not finite, random streams and the hand-over."""

from __future__ import annotations

import itertools

import pytest
import torch
from oracles import Tiny, random_tasks, relative
from torch import Tensor, nn

from cases import SAMPLED, UNSAMPLED, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FirstOrder, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.given import with_gradient
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks, chunks, select
from litmaml.weights import Params

STEPS = 2


def loop_of(model: nn.Module | None = None) -> InnerLoop:
    torch.manual_seed(0)
    return InnerLoop(model or Tiny(), nn.MSELoss(), SGD(0.1, learn="tensor"), ["*"], STEPS)


@pytest.mark.parametrize("outer", UNSAMPLED)
def test_chunks_equal_the_whole(outer: str) -> None:
    loop, tasks, method = loop_of(), random_tasks(5), UNSAMPLED[outer].make()
    whole = MetaGradientOf(loop, method, STEPS, tasks_per_chunk=5)(tasks)
    for size in (1, 2, 3, 7, None):
        found = MetaGradientOf(loop, method, STEPS, tasks_per_chunk=size)(tasks)
        assert relative(found.gradients, whole.gradients) < UNSAMPLED[outer].rounding
        torch.testing.assert_close(found.losses, whole.losses)
        torch.testing.assert_close(found.predictions, whole.predictions)
        torch.testing.assert_close(found.loss, whole.losses.mean())
        assert found.predictions.shape == (5, 5, 1)


def test_the_loss_is_that_of_its_gradient() -> None:
    """Along a direction the losses change as the gradient says."""
    loop, tasks = loop_of(), random_tasks()
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    direction = {name: torch.randn_like(weight) for name, weight in loop.named_parameters()}

    def moved(length: float) -> Tensor:
        with torch.no_grad():
            for name, weight in loop.named_parameters():
                weight.add_(length * direction[name])
            loss = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks).loss
            for name, weight in loop.named_parameters():
                weight.sub_(length * direction[name])
        return loss

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    predicted = sum((found.gradients[name] * direction[name]).sum() for name in direction)
    torch.testing.assert_close(slope, predicted, rtol=1e-7, atol=0)


@pytest.mark.parametrize("outer", UNSAMPLED)
@pytest.mark.parametrize("chunk", [None, 2, 1])
@pytest.mark.parametrize("spoilt", ["support", "query"])
def test_a_task_that_is_not_finite_is_left_out(outer: str, chunk: int | None, spoilt: str) -> None:
    loop, tasks, method = loop_of(), random_tasks(4), UNSAMPLED[outer].make()
    batch = tasks.query if spoilt == "query" else tasks.support[0]
    batch.targets[2, 0] = float("nan")
    found = MetaGradientOf(loop, method, STEPS, chunk)(tasks)
    assert found.finite.tolist() == [True, True, False, True]
    rest = MetaGradientOf(loop, method, STEPS)(select(tasks, [0, 1, 3]))
    assert relative(found.gradients, rest.gradients) < UNSAMPLED[outer].rounding
    torch.testing.assert_close(found.loss, rest.loss)
    assert bool(found.losses[2].isnan())
    assert found.losses.shape == (4,)
    assert found.predictions.shape == (4, 5, 1)


class Root(nn.Module):
    """The square root of the mean square: at zero error its value is finite and its gradient is not."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean().sqrt()


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is() -> None:
    model = nn.Linear(1, 1, bias=False)
    loop = InnerLoop(model, Root(), SGD(0.1), ["*"], 1)
    tasks = random_tasks(2)
    tasks.query.inputs[0] = 0.0
    tasks.query.targets[0] = 0.0
    found = MetaGradientOf(loop, FirstOrder(), 1)(tasks)
    assert bool(found.losses.isfinite().all())
    assert found.finite.tolist() == [False, True]
    assert relative(found.gradients, MetaGradientOf(loop, FirstOrder(), 1)(select(tasks, [1])).gradients) < 1e-14


def test_nothing_finite() -> None:
    loop, tasks = loop_of(), random_tasks(2)
    tasks.query.targets.fill_(float("inf"))
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    assert not found.finite.any()
    assert float(found.loss) == 0
    assert not any(gradient.any() for gradient in found.gradients.values())


def test_hand_over_to_backward() -> None:
    """What Lightning does: scale, accumulate, and step."""
    loop, tasks = loop_of(), random_tasks()
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    weights: Params = dict(loop.named_parameters())
    loss = with_gradient(found.loss, found.gradients, weights)
    assert float(loss.detach()) == float(found.loss)
    (loss * 1024 / 2).backward()
    for name, weight in weights.items():
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, found.gradients[name] * 512)
    (with_gradient(found.loss, found.gradients, weights) / 2).backward()
    for name, weight in weights.items():
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, found.gradients[name] * 512.5)


@pytest.mark.parametrize("method", made(SAMPLED, samples=3))
def test_the_same_tasks_have_the_same_directions(method: OuterGradient) -> None:
    """Whatever was drawn before, and without touching the stream of others."""
    loop, tasks = loop_of(), random_tasks(3)
    first = MetaGradientOf(loop, method, STEPS)(tasks)
    torch.randn(7)
    before = torch.get_rng_state()
    again = MetaGradientOf(loop, method, STEPS)(tasks)
    assert torch.equal(torch.get_rng_state(), before)
    assert relative(again.gradients, first.gradients) == 0
    seeded = MetaGradientOf(loop, method, STEPS, seed=1)(tasks)
    assert relative(seeded.gradients, first.gradients) > 1e-3


@pytest.mark.parametrize("outer", SAMPLED)
@pytest.mark.parametrize("chunk", [None, 1])
def test_other_tasks_have_other_directions(outer: str, chunk: int | None) -> None:
    """Of two tasks with equal data, in one call and in two."""
    method = SAMPLED[outer].make(samples=3)
    loop, tasks = loop_of(), select(random_tasks(1), [0, 0])
    tasks = tasks._replace(numbers=torch.tensor([4, 9]))
    both = MetaGradientOf(loop, method, STEPS, chunk)(tasks).gradients
    one, other = (MetaGradientOf(loop, method, STEPS, 1)(select(tasks, [k])).gradients for k in (0, 1))
    assert relative(one, other) > 1e-3
    assert relative(both, one) > 1e-3
    mean = {name: (gradient + other[name]) / 2 for name, gradient in one.items()}
    # Tasks at once round otherwise, by what differences divide by the smoothing.
    assert relative(both, mean) < (1e-12 if chunk == 1 else SAMPLED[outer].rounding)


@pytest.mark.parametrize("method", made(SAMPLED, 10, {GaussianSmoothing: 0.1, ZerothOrder: 0.3}))
def test_directions_do_not_depend_on_chunks(method: OuterGradient) -> None:
    """Nor are two streams one: not by the seed, by the number, or by the two together."""
    loop, tasks = loop_of(), random_tasks(5)
    whole = MetaGradientOf(loop, method, STEPS)(tasks).gradients
    for size in (1, 2, 3, 5):
        assert relative(MetaGradientOf(loop, method, STEPS, size)(tasks).gradients, whole) < 1e-12
    keys = ((0, 0), (1, 0), (0, 1), (0, 1_000_003), (1_000_003, 0))
    one = select(tasks, [0])
    found = [
        MetaGradientOf(loop, method, STEPS, seed=seed)(one._replace(numbers=torch.tensor([number]))).gradients
        for seed, number in keys
    ]
    assert all(relative(*pair) > 1e-3 for pair in itertools.combinations(found, 2))


def test_dropout_draws_from_the_stream_of_the_tasks() -> None:
    model = nn.Sequential(nn.Linear(1, 20), nn.Dropout(0.5), nn.Linear(20, 1))
    loop, tasks = loop_of(model), random_tasks(3)
    first = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    torch.randn(7)
    assert relative(MetaGradientOf(loop, SecondOrder(), STEPS)(tasks).gradients, first.gradients) == 0
    others = tasks._replace(numbers=tasks.numbers + 3)
    assert relative(MetaGradientOf(loop, SecondOrder(), STEPS)(others).gradients, first.gradients) > 1e-3
    # Each task has a mask of its own, by its number.
    equal = select(random_tasks(1), [0, 0])._replace(numbers=torch.tensor([0, 1]))
    assert MetaGradientOf(loop, SecondOrder(), STEPS)(equal).losses.unique().numel() == 2


def test_selecting_and_chunking_tasks() -> None:
    tasks = random_tasks(5, supports=2, hessians=2)
    assert tasks.size == 5
    some = select(tasks, [3, 1])
    assert some.numbers.tolist() == [3, 1]
    assert torch.equal(some.query.inputs, tasks.query.inputs[[3, 1]])
    assert torch.equal(some.support[1].targets, tasks.support[1].targets[[3, 1]])
    assert some.hessian is not None
    assert tasks.hessian is not None
    assert torch.equal(some.hessian[0].inputs, tasks.hessian[0].inputs[[3, 1]])
    parts: list[Tasks] = chunks(tasks, 2)
    assert [part.numbers.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert chunks(tasks, 5) == [tasks]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="tasks_per_chunk: has to be at least 1, got 0"):
        MetaGradientOf(loop_of(), SecondOrder(), STEPS, tasks_per_chunk=0)
