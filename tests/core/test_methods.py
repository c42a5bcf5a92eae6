"""Every outer gradient with every wrapper and every outer loss, against plain autograd and dense algebra."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import Tiny, random_tasks, relative
from solvers import Truth, each_task, true_gradient
from torch import nn

from cases import LOSSES, SOLVERS, WRAPPERS
from litmaml.inner import SGD, Adam, MetaCurvature, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.models import ContextMLP
from litmaml.outer import (
    EvolutionStrategies,
    Implicit,
    MultiStepLoss,
    OuterLoss,
    Reptile,
    SecondOrder,
    WorstCaseLoss,
)
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.randomness import normal_directions, task_streams
from litmaml.tasks import Batch, Tasks, tree_map
from litmaml.weights import Params, Weights

STEPS, RATE, EPOCH = 3, 0.1, 1


def loop_of(wrapper: str, fast: str = "*") -> InnerLoop:
    """Always the same weights, and what is learnt away from where it starts."""
    torch.manual_seed(0)
    loop = InnerLoop(Tiny(), nn.MSELoss(), WRAPPERS[wrapper].make(SGD(RATE)), [fast], STEPS)
    with torch.no_grad():
        for learnt in loop.learnt.parameters():
            learnt.add_(0.2 * torch.randn_like(learnt))
    return loop


def loss_of(name: str) -> OuterLoss:
    outer_loss = LOSSES[name]()
    if isinstance(outer_loss, WorstCaseLoss):
        outer_loss.p.copy_(torch.tensor([0.3, 0.7]))
    return outer_loss


def refusal(solver: str, wrapper: str, loss: str, fast: str) -> str:
    """The argument that is refused, or nothing."""
    if solver.startswith("Implicit"):
        if not wrapper.startswith("Proximal"):
            return "inner_optimizer"
        if loss == "MultiStepLoss":
            return "outer_loss"
        return "inner_optimizer" if WRAPPERS[wrapper].curvature else ""
    if solver == "EvolutionStrategies":
        return "inner_optimizer" if WRAPPERS[wrapper].learns else ""
    if solver == "Reptile":
        if fast != "*":
            return "fast_weights"
        if WRAPPERS[wrapper].learns:
            return "inner_optimizer"
        return "outer_loss" if loss not in ("MeanLoss", "WorstCaseLoss") else ""
    return ""


def directions_of(loop: InnerLoop, tasks: Tasks) -> Params:
    weights = dict(loop.model.named_parameters())
    like = {name: weights[name].detach() for name in (*loop.fast_names, *loop.slow_names)}
    (found,) = normal_directions(like, 3, task_streams(0, "train", tasks.numbers.tolist(), "directions"), 1)
    return found


SLOW = {"SecondOrder recompute", "Implicit by differences"}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "solver", [pytest.param(solver, marks=[pytest.mark.slow] if solver in SLOW else []) for solver in SOLVERS]
)
def test_every_crossing(solver: str, wrapper: str) -> None:
    row, tasks = SOLVERS[solver], random_tasks()
    for fast, chunk in (("*", None), ("head.*", 1)):
        loop = loop_of(wrapper, fast)
        for loss in LOSSES:
            method, outer_loss = row.make(), loss_of(loss)
            if refused := refusal(solver, wrapper, loss, fast):
                with pytest.raises(ValueError, match=f"^{refused}[.:]"):
                    MetaGradientOf(loop, method, STEPS, outer_loss=outer_loss)
                continue
            truth = Truth(loop, STEPS, WRAPPERS[wrapper].transformed)
            each = each_task(truth, tasks, outer_loss, directions_of(loop, tasks), EPOCH)
            true = true_gradient(each, row.true, outer_loss.task_weights(tasks.numbers))
            gradient_of = MetaGradientOf(loop, method, STEPS, chunk, outer_loss=outer_loss)
            gradient_of.epoch = EPOCH
            found = gradient_of(tasks)
            assert bool(found.finite.all())
            assert relative(found.gradients, true) < row.tolerance, (loss, fast, chunk)


@pytest.mark.parametrize(
    ("solver", "wrapper"),
    [("Implicit", "Proximal, learnt"), ("Reptile", "Proximal"), ("EvolutionStrategies", "none")],
)
def test_images_with_batch_norm(solver: str, wrapper: str) -> None:
    """Convolutions in a stack of tasks, with the statistics of each batch."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Tanh(), nn.Flatten()]
    fast = "*" if solver == "Reptile" else "4.*"
    loop = InnerLoop(
        nn.Sequential(*body, nn.Linear(8, 3)), nn.CrossEntropyLoss(), WRAPPERS[wrapper].make(SGD(RATE)), [fast], STEPS
    )
    batches = [Batch(torch.randn(3, 6, 1, 4, 4), torch.randint(3, (3, 6))) for _ in range(2)]
    tasks, row = Tasks((batches[0],), batches[1], torch.arange(3)), SOLVERS[solver]
    method = Implicit(30) if solver == "Implicit" else row.make()
    truth = Truth(loop, STEPS, WRAPPERS[wrapper].transformed)
    true = true_gradient(each_task(truth, tasks, OuterLoss(), directions_of(loop, tasks)), row.true)
    for chunk in (None, 2):
        assert relative(gradients(loop, method, tasks, tasks_per_chunk=chunk), true) < row.tolerance


@pytest.mark.slow  # as everything that is compiled
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize(
    ("solver", "wrapper", "loss"),
    [
        ("Reptile", "Proximal", "MeanLoss"),
        ("Implicit", "Proximal, learnt", "WorstCaseLoss"),
        ("EvolutionStrategies", "none", "MultiStepLoss"),
        ("SecondOrder", "MetaCurvature around Proximal", "MultiStepLoss"),
        ("FiniteDifference", "MetaCurvature", "MeanLoss"),
    ],
)
def test_compiled_is_eager(solver: str, wrapper: str, loss: str) -> None:
    loop, tasks, outer_loss = loop_of(wrapper), random_tasks(), loss_of(loss)
    both = [
        MetaGradientOf(loop, SOLVERS[solver].make(), STEPS, compile=c, outer_loss=outer_loss) for c in (True, False)
    ]
    for _ in range(3):  # the second and the third of which are compared by the program itself, too
        found, true = (gradient_of(tasks) for gradient_of in both)
        assert relative(found.gradients, true.gradients) < 1e-10
        with torch.no_grad():
            for weight in loop.parameters():
                weight.mul_(1.1)


def gradients(loop: InnerLoop, method: Any, tasks: Tasks, steps: int = STEPS, **more: Any) -> Params:
    return MetaGradientOf(loop, method, steps, **more)(tasks).gradients


# Limits in which one method is another.


def test_without_strength_proximal_is_not_there() -> None:
    loops = [InnerLoop(loop_of("none").model, nn.MSELoss(), inner, ["*"], STEPS) for inner in (
        Proximal(SGD(RATE), 0.0), SGD(RATE), Proximal(Adam(RATE), 0.0), Adam(RATE)
    )]  # fmt: skip
    tasks = random_tasks()
    found = [gradients(loop, SecondOrder(), tasks) for loop in loops]
    assert relative(found[0], found[1]) < 1e-14
    assert relative(found[2], found[3]) < 1e-14


def test_untrained_meta_curvature_is_not_there() -> None:
    model, tasks = loop_of("none").model, random_tasks()
    found, true = (
        gradients(InnerLoop(model, nn.MSELoss(), inner, ["*"], STEPS), SecondOrder(), tasks)
        for inner in (MetaCurvature(SGD(RATE)), SGD(RATE))
    )
    assert relative({name: found[name] for name in true}, true) < 1e-14


def test_reptile_with_one_step_goes_along_the_gradient_of_the_support() -> None:
    loop, tasks = loop_of("none"), random_tasks()
    found = gradients(loop, Reptile(), tasks, 1)
    joint = gradients(loop, SecondOrder(), tasks._replace(query=tasks.support[0]), 1)
    plain = torch.autograd.grad(
        nn.MSELoss()(loop.model(tasks.support[0].inputs), tasks.support[0].targets), [*loop.model.parameters()]
    )
    assert relative(found, {name: RATE * part for name, part in zip(found, plain, strict=True)}) < 1e-14
    assert relative(found, joint) > 1e-2


def test_very_strong_implicit_is_the_gradient_of_the_query_at_the_start() -> None:
    loop, tasks = loop_of("none"), random_tasks()
    held = InnerLoop(loop.model, nn.MSELoss(), Proximal(SGD(1e-7), 1e6), ["*"], 50)
    found = gradients(held, Implicit(), tasks, 50)
    plain = torch.autograd.grad(
        nn.MSELoss()(loop.model(tasks.query.inputs), tasks.query.targets), [*loop.model.parameters()]
    )
    assert relative(found, dict(zip(found, plain, strict=True))) < 1e-5


def test_after_its_epochs_the_multi_step_loss_is_the_mean() -> None:
    loop, tasks = loop_of("none"), random_tasks()
    gradient_of = MetaGradientOf(loop, SecondOrder(), STEPS, outer_loss=MultiStepLoss(epochs=2))
    gradient_of.epoch = 2
    assert relative(gradient_of(tasks).gradients, gradients(loop, SecondOrder(), tasks)) == 0
    gradient_of.epoch = 1
    assert relative(gradient_of(tasks).gradients, gradients(loop, SecondOrder(), tasks)) > 1e-2


def test_worst_case_without_ascent_is_the_mean() -> None:
    loop, tasks, worst = loop_of("none"), random_tasks(), WorstCaseLoss(tasks=3, rate=0.0)
    worst.update(tasks.numbers, torch.tensor([1.0, 2.0, 3.0]))
    found = gradients(loop, SecondOrder(), tasks, outer_loss=worst)
    assert relative(found, gradients(loop, SecondOrder(), tasks)) < 1e-14


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("epochs", [1, 10, 15])
def test_the_weights_of_steps(steps: int, epochs: int) -> None:
    """They sum to 1, never rise but for the last one's, and are as printed."""
    loss, floor = MultiStepLoss(epochs), 0.03
    for e in range(epochs):
        first, *weights = loss.step_weights(steps, e) or []
        assert first == 0
        assert sum(weights) == pytest.approx(1, abs=1e-15)
        last = min(1 / steps + e * (steps - 1) / (steps * epochs), 1 - (steps - 1) * floor / steps)
        assert weights[-1] == pytest.approx(last, abs=1e-14)
        for w in weights[:-1]:
            assert w == pytest.approx(max(1 / steps - e / (steps * epochs), floor / steps), abs=1e-15)
    assert loss.step_weights(steps, epochs) is None


def test_evolution_leaves_a_start_that_is_not_trained() -> None:
    """CAVIA's context begins where it is fixed in every probe, and so does a head from zero."""
    loop, tasks = InnerLoop(ContextMLP(1, 1, [4], 2), nn.MSELoss(), SGD(RATE), ["context"], STEPS), random_tasks()
    assert loop.fixed_starts == ["context"]
    like = {"context": torch.zeros(2)} | {name: weight.detach() for name, weight in loop.model.named_parameters()}
    (u,) = normal_directions(like, 3, task_streams(0, "train", tasks.numbers.tolist(), "directions"), 1)
    true = true_gradient(each_task(Truth(loop, STEPS), tasks, OuterLoss(), u), SOLVERS["EvolutionStrategies"].true)
    found = gradients(loop, SOLVERS["EvolutionStrategies"].make(), tasks)
    assert relative(found, true) < 1e-10
    of_zero = InnerLoop(Tiny(), nn.MSELoss(), SGD(RATE), ["*"], STEPS, head_start="zero")
    assert of_zero.fixed_starts == ["head.weight"]


def test_evolution_is_exact_in_the_mean_and_of_its_variance() -> None:
    """On a quadratic F with any smoothing: E G = grad F, E |G - grad F|^2 = (d + 1)/Q |grad F|^2."""
    d, q, many, one = 4, 5, 5000, random_tasks(1, inputs=4, examples=20)
    loop = InnerLoop(nn.Linear(d, 1, bias=False), nn.MSELoss(), SGD(0.01), ["*"], 1)
    true = gradients(loop, SecondOrder(), one, 1)["model.weight"]
    tasks = tree_map(lambda part: part.expand(many, *part.shape[1:]), one)._replace(numbers=torch.arange(many))
    method, fast = EvolutionStrategies(q, 0.5), loop.start(tasks).fast["weight"].detach().requires_grad_()
    streams = task_streams(0, "train", range(many), "directions")
    drawn = method.directions(Weights({"weight": fast[0].detach()}, {}), streams, 1)
    losses, _ = method.solve(loop, OuterLoss(), {"weight": fast}, {}, tasks._replace(directions=drawn), 1)
    (each,) = torch.autograd.grad(losses.sum(), fast)
    variance = float((each - true).square().sum() / many / true.square().sum())
    assert variance == pytest.approx((d + 1) / q, rel=0.05)
    assert float((each.mean(0) - true).norm() / true.norm()) < 3 * (variance / many) ** 0.5
