"""Constant parts are computed once for each batch, with the same gradient, or not used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from feature_models import CASES, WITHOUT, Branching, Case, Headed, tasks_of
from hops import nothing
from oracles import relative
from torch import Tensor, nn
from torch.func import functional_call
from unrolling import unrolled
from update_rules import sgd

from cases import INNER, OUTER, Outer
from litmaml import MetaLearner
from litmaml.engine.features import Features
from litmaml.engine.switches import without
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.inner.model_call import arguments
from litmaml.outer import FiniteDifference, FirstOrder, OuterLoss, SecondOrder
from litmaml.outer.meta_gradient import MetaGradient, MetaGradientOf
from litmaml.tasks import Batch, Tasks, tree_map
from litmaml.weights import Params

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),  # torch's compiler imports it
    pytest.mark.filterwarnings("ignore:checkpoints will not rebuild"),
]

STEPS, RATE = 3, 0.1


def loop_of(case: Case, **settings: Any) -> InnerLoop:
    return InnerLoop(case.make(), nn.CrossEntropyLoss(), SGD(RATE), case.fast, STEPS, **settings)


def found_in(loop: InnerLoop) -> bool:
    return loop.constant.of(loop.model) is not None


def rounding(row: Outer) -> float:
    return max(1e-10, row.rounding)


class Counted:
    """Counts the calls of a module."""

    def __init__(self, loop: InnerLoop, case: Case) -> None:
        self.calls, part = 0, loop.model.get_submodule(case.once)
        forward = part.forward

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return forward(*args, **kwargs)

        part.forward = counting

    def during(self, run: Callable[[], Any]) -> int:
        self.calls = 0
        run()
        return self.calls


def by_hand(loop: InnerLoop, tasks: Tasks) -> Params:
    """The exact gradient by plain autograd, in which every step computes the whole model."""
    named = {**dict(loop.model.named_parameters()), **dict(loop.model.named_buffers())}
    start = {name: named[name].detach().clone().requires_grad_() for name in (*loop.fast_names, *loop.slow_names)}

    def loss_of(weights: Params, batch: Batch, k: int) -> Tensor:
        positions, keywords = arguments(tree_map(lambda part: part[k].clone(), batch.inputs))
        loss: Tensor = loop.loss(functional_call(loop.model, weights, positions, keywords), batch.targets[k])
        return loss

    total = torch.zeros(())
    for k in range(tasks.size):
        fast = {name: start[name] for name in loop.fast_names}
        for j in range(STEPS):
            loss = loss_of(start | fast, tasks.step(j).support, k)
            gradient = torch.autograd.grad(loss, [*fast.values()], create_graph=True)
            fast = {n: w - RATE * g for (n, w), g in zip(fast.items(), gradient, strict=True)}
        total = total + loss_of(start | fast, tasks.query, k) / tasks.size
    trained = {name: start[name] for name, _ in loop.model.named_parameters() if name in start}
    gradient = torch.autograd.grad(total, [*trained.values()])
    return dict(zip((f"model.{name}" for name in trained), gradient, strict=True))


@pytest.mark.parametrize("outer", [name for name in OUTER if "Zeroth" not in name])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_the_whole_model(name: str, outer: str) -> None:
    case, row = CASES[name], OUTER[outer]
    loop, tasks = loop_of(case), tasks_of(case)
    for chunk in (None,) if row.kind.sampled else (None, 1, 3):
        gradient = MetaGradientOf(loop, row.make(samples=2), STEPS, chunk)
        ours = gradient(tasks)
        assert found_in(loop)
        with without("features"):
            whole = gradient(tasks)
        assert relative(ours.gradients, whole.gradients) < rounding(row)
        torch.testing.assert_close(ours.losses, whole.losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(ours.predictions, whole.predictions, rtol=1e-10, atol=1e-13)
        if outer.startswith("SecondOrder"):
            assert relative(ours.gradients, by_hand(loop, tasks)) < 1e-10


@pytest.mark.parametrize("outer", [name for name in OUTER if "Zeroth" in name])
@pytest.mark.parametrize(("name", "calls"), [("frozen", 2), ("batch norm", 1 + STEPS * (1 + 2 * 2 + 1))])
def test_what_moves_the_trained_weights_takes_parts_without_any(name: str, calls: int, outer: str) -> None:
    case, row = CASES[name], OUTER[outer]
    loop, tasks = loop_of(case), tasks_of(case)
    counted, gradient = Counted(loop, case), MetaGradientOf(loop, row.make(samples=2), STEPS)
    ours = gradient(tasks)
    assert found_in(loop)
    assert counted.during(lambda: gradient(tasks)) == calls
    with without("features"):
        assert relative(ours.gradients, gradient(tasks).gradients) < rounding(row)


@pytest.mark.parametrize("inner", INNER)
def test_every_inner_optimizer_takes_the_same_steps(inner: str) -> None:
    case = CASES["batch norm"]
    optimizer, rule = INNER[inner]
    loop = InnerLoop(case.make(), nn.CrossEntropyLoss(), optimizer(), case.fast, STEPS)
    tasks = tasks_of(case)
    ours = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    assert found_in(loop)
    assert relative(ours.gradients, unrolled(loop, tasks, STEPS, loop.fast_names, rule).gradients) < 1e-10


@pytest.mark.parametrize("outer", ["SecondOrder", "FirstOrder", "SecondOrder recompute"])
def test_the_gradient_is_that_of_an_unrolled_copy(outer: str) -> None:
    case = CASES["Conv4"]
    loop, tasks = loop_of(case), tasks_of(case)
    ours = MetaGradientOf(loop, OUTER[outer].make(), STEPS)(tasks)
    hop = nothing if outer == "FirstOrder" else None
    assert found_in(loop)
    assert relative(ours.gradients, unrolled(loop, tasks, STEPS, loop.fast_names, sgd(), hop).gradients) < 1e-10


@pytest.mark.parametrize("outer", ["SecondOrder", "SecondOrder recompute", "FirstOrder", "FiniteDifference"])
@pytest.mark.parametrize(("supports", "hessians"), [(1, 0), (STEPS, 0), (1, STEPS), (STEPS, STEPS)])
def test_fresh_batches_each_get_their_own(supports: int, hessians: int, outer: str) -> None:
    case, row = CASES["batch norm"], OUTER[outer]
    loop, tasks = loop_of(case), tasks_of(case, supports=supports, hessians=hessians)
    counted, gradient = Counted(loop, case), MetaGradientOf(loop, row.make(), STEPS, 4)
    ours = gradient(tasks)
    hessians = 0 if outer == "FirstOrder" else hessians  # which takes none
    many = outer == "SecondOrder recompute" and supports + hessians > 1
    # Else a pass in each step, one to differentiate it, and the query's.
    assert counted.during(lambda: gradient(tasks)) == (2 * STEPS if many else supports + hessians) + 1
    with without("features"):
        assert relative(ours.gradients, gradient(tasks).gradients) < rounding(row)


@pytest.mark.parametrize("outer", ["SecondOrder", "FirstOrder", "FiniteDifference", "GaussianSmoothing"])
@pytest.mark.parametrize("name", CASES)
def test_each_part_is_called_once_for_a_batch(name: str, outer: str) -> None:
    case = CASES[name]
    loop, tasks = loop_of(case), tasks_of(case)
    counted, gradient = Counted(loop, case), MetaGradientOf(loop, OUTER[outer].make(), STEPS, 4)
    gradient(tasks)
    # At once or task by task, support and query.
    passes = sum(1 if loop.tasks_at_once(batch.inputs) > 1 else 4 for batch in (tasks.support[0], tasks.query))
    assert counted.during(lambda: gradient(tasks)) == passes * case.calls


def test_evaluation_calls_it_once_for_a_batch_and_predicts_the_same() -> None:
    case = CASES["batch norm"]
    learner = MetaLearner(case.make(), SGD(RATE), inner_steps=STEPS, fast_weights=case.fast).eval()
    tasks = tasks_of(case)
    with without("features"):
        rows, predicted = (
            learner._evaluation._rows(tasks, STEPS, "val"),
            learner._evaluation._adapted(tasks, STEPS, "val"),
        )
    counted = Counted(learner.inner_loop, case)
    with torch.inference_mode():
        learner._evaluation._rows(tasks, STEPS, "val")
        assert counted.during(lambda: rows.update(ours=learner._evaluation._rows(tasks, STEPS, "val")["loss"])) == 2
        torch.testing.assert_close(rows["ours"], rows["loss"], rtol=1e-12, atol=0)
        torch.testing.assert_close(learner._evaluation._adapted(tasks, STEPS, "val"), predicted, rtol=1e-10, atol=1e-13)


def test_fine_tuning_calls_it_once() -> None:
    case = Case(Headed)
    learner = MetaLearner(case.make(), SGD(RATE), inner_steps=STEPS, fast_weights=case.fast)
    x, y = torch.randn(9, 3), torch.arange(3).repeat(3)

    def path(counting: bool) -> tuple[list[float], int]:
        tuner = FineTuner(learner, x[:2], 3, steps=5)
        counted = Counted(tuner.inner_loop, case)
        [*tuner.path(x, y)]
        losses: list[float] = []
        calls = counted.during(lambda: losses.extend(step.loss for step in tuner.path(x, y)))
        return losses, calls

    ours, calls = path(True)
    with without("features"):
        whole, all_calls = path(True)
    assert ours == pytest.approx(whole, rel=1e-12)
    assert calls == 2  # one of them to see whether the loss takes the predictions
    assert all_calls == 1 + 5 + 6


@pytest.mark.parametrize(
    "outer",
    [
        pytest.param(FirstOrder(), marks=pytest.mark.slow),
        pytest.param(SecondOrder(), marks=pytest.mark.slow),
        pytest.param(SecondOrder(recompute=True), marks=pytest.mark.slow),
    ],
)
def test_compiled(outer: Any) -> None:
    case = CASES["in place"]
    loop, tasks = loop_of(case), tasks_of(case)
    gradient = MetaGradientOf(loop, outer, 1, 4, compile=True)
    counted = Counted(loop, case)
    gradient(tasks)
    assert found_in(loop)
    for _ in range(2):  # the second time it is compared
        other = tasks_of(case, first=4)
        ours = gradient(other)
        with without("features", "program"):
            assert relative(ours.gradients, gradient(other).gradients) < 1e-10
    loop.eval()
    loop.constant.look(loop, tasks)
    loop.train()
    assert not [program.outdated() for program in gradient.compiled.programs.values() if program.outdated()]
    assert counted.during(lambda: gradient(tasks)) == 0


def test_stacks_of_unequal_tasks() -> None:
    case = CASES["batch norm"]
    loop = loop_of(case)
    stacks = (tasks_of(case), tasks_of(case, 2, 12, 6, first=4))
    ours = MetaGradientOf(loop, SecondOrder(), STEPS)(stacks)
    with without("features"):
        whole = MetaGradientOf(loop, SecondOrder(), STEPS)(stacks)
    assert found_in(loop)
    assert relative(ours.gradients, whole.gradients) < 1e-10


def test_weights_with_a_row_for_each_step_are_not_constant() -> None:
    case = CASES["rows"]
    loop, tasks = loop_of(case, per_step_weights=["norm.*"]), tasks_of(case)
    with torch.no_grad():
        for name in loop.rows:
            loop.learnt["weights." + name].normal_()
    counted, gradient = Counted(loop, case), MetaGradientOf(loop, SecondOrder(), STEPS)
    ours = gradient(tasks)
    assert counted.during(lambda: gradient(tasks)) == 2
    with without("features"):
        assert relative(ours.gradients, gradient(tasks).gradients) < 1e-10


def test_channels_last() -> None:
    case = CASES["Conv4"]
    model = case.make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loop, tasks = InnerLoop(model, nn.CrossEntropyLoss(), SGD(RATE), case.fast, STEPS), tasks_of(case)
    assert loop.channels_last
    ours = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    assert found_in(loop)
    assert relative(ours.gradients, by_hand(loop, tasks)) < 1e-10


@pytest.mark.parametrize("outer", ["SecondOrder", "FirstOrder"])
@pytest.mark.parametrize("name", WITHOUT)
def test_what_is_not_constant_is_computed_each_time(name: str, outer: str) -> None:
    case = WITHOUT[name]
    loop, tasks = loop_of(case), tasks_of(case)
    loop.mapped = False
    ours = MetaGradientOf(loop, OUTER[outer].make(), STEPS)(tasks)
    assert not found_in(loop)
    with without("features"):
        whole = MetaGradientOf(loop, OUTER[outer].make(), STEPS)(tasks)
    assert relative(ours.gradients, whole.gradients) == 0.0


def test_all_weights_adapted_cost_nothing() -> None:
    loop, tasks = loop_of(WITHOUT["all weights"]), tasks_of(WITHOUT["all weights"])
    counted = Counted(loop, WITHOUT["all weights"])
    assert counted.during(lambda: loop.constant.look(loop, tasks)) == 0


def test_an_outer_loss_that_sees_the_support_gets_it_as_it_is() -> None:
    class Along(OuterLoss):
        def along(self, inner: Any, j: int, fast: Params, slow: Params, support: Batch) -> Tensor:
            assert isinstance(support.inputs, Tensor)
            return support.inputs.flatten(1).mean(1) * fast["head.bias"].sum(1)

    case = CASES["in place"]
    loop = loop_of(case)
    MetaGradientOf(loop, SecondOrder(), STEPS, outer_loss=Along())(tasks_of(case))
    assert not found_in(loop)


def test_a_loss_of_every_step() -> None:
    class MultiStep(OuterLoss):
        def step_weights(self, steps: int, epoch: int) -> list[float]:
            return [1 / (steps + 1)] * (steps + 1)

    case = CASES["batch norm"]
    loop, tasks = loop_of(case), tasks_of(case)
    counted, gradient = Counted(loop, case), MetaGradientOf(loop, SecondOrder(), STEPS, outer_loss=MultiStep())
    ours = gradient(tasks)
    assert counted.during(lambda: gradient(tasks)) == 2
    with without("features"):
        assert relative(ours.gradients, gradient(tasks).gradients) < 1e-10


OTHER = ["one more", "one less", "swapped"]


def branching(how: str) -> Case:
    return Case(lambda: Branching(how), ["head.*", "gate"] if how == "fast" else ["head.*"])


@pytest.mark.parametrize("outer", [SecondOrder(), FirstOrder(), FiniteDifference()])
@pytest.mark.parametrize("how", ["fast", *OTHER])
def test_a_model_that_branches_by_its_inputs_is_computed_as_a_whole_from_then_on(how: str, outer: Any) -> None:
    case = branching(how)
    loop = loop_of(case)
    loop.mapped = False
    gradient = MetaGradientOf(loop, outer, STEPS)
    gradient(tasks_of(case))
    assert found_in(loop)
    tasks = tasks_of(case, first=4)
    tasks.support[0].inputs[2, 0, 0] = tasks.query.inputs[1, 0, 0] = 200.0

    def check(ours: MetaGradient) -> None:
        assert ours.finite.all()
        with without("features"):
            assert relative(ours.gradients, gradient(tasks).gradients) < 1e-7

    check(gradient(tasks))
    assert found_in(loop) == (how == "fast")
    check(gradient(tasks))


@pytest.mark.parametrize("how", ["fast", *OTHER])
def test_an_evaluation_of_one(how: str) -> None:
    case = branching(how)
    learner = MetaLearner(case.make(), SGD(RATE), inner_steps=STEPS, fast_weights=case.fast).eval()
    learner.inner_loop.mapped = False
    learner._evaluation._rows(tasks_of(case), STEPS, "val")
    assert found_in(learner.inner_loop)
    tasks = tasks_of(case)
    tasks.query.inputs[1, 0, 0] = 200.0
    ours = learner._evaluation._rows(tasks, STEPS, "val")["loss"]
    with without("features"):
        whole = learner._evaluation._rows(tasks, STEPS, "val")["loss"]
    assert whole.isfinite().all()
    torch.testing.assert_close(ours, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("how", OTHER)
def test_other_calls_are_seen_when_the_outputs_are_used(how: str) -> None:
    """What is recorded is right, but then the rest of the pass is another."""
    case = branching(how)
    loop, tasks = loop_of(case), tasks_of(case)
    loop.mapped = False
    loop.constant.look(loop, tasks)
    fast, slow = loop.shared_start(4)
    given = loop.constant.in_place(loop, slow, tasks.query)
    assert isinstance(given.inputs, Features)
    given.inputs.inputs[0, 0, 0] = 200.0
    whole = loop.predict(fast, given.inputs.inputs, slow)
    assert torch.equal(loop.predict(fast, given.inputs, slow), whole)
    assert not found_in(loop)


def test_a_task_that_is_not_finite_is_left_out_and_the_parts_stay() -> None:
    case = CASES["batch norm"]
    loop, tasks = loop_of(case), tasks_of(case)
    tasks.support[0].inputs[2, 0, 0] = torch.inf
    gradient = MetaGradientOf(loop, SecondOrder(), STEPS)
    ours = gradient(tasks)
    assert ours.finite.tolist() == [True, True, False, True]
    assert found_in(loop)
    with without("features"):
        assert relative(ours.gradients, gradient(tasks).gradients) < 1e-10


def test_looking_draws_nothing_and_changes_nothing() -> None:
    case = CASES["Conv4"]
    loop, tasks = loop_of(case), tasks_of(case)
    before = {name: value.clone() for name, value in loop.state_dict().items()}
    kept = [{**vars(module)} for module in loop.model.modules()]
    state = torch.get_rng_state()
    loop.constant.look(loop, tasks)
    assert found_in(loop)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in loop.state_dict().items())
    assert kept == [vars(module) for module in loop.model.modules()]
    assert all(weight.grad is None and weight.requires_grad for weight in loop.model.parameters())


@pytest.mark.parametrize(("outer", "once"), [(FiniteDifference(), False), (SecondOrder(), True)])
def test_probes_under_autocast_are_not_cast(outer: Any, once: bool) -> None:
    case = CASES["batch norm"]
    loop, tasks = loop_of(case), tasks_of(case)
    loop.float()
    tasks = tree_map(lambda part: part.float() if part.is_floating_point() else part, tasks)
    counted, gradient = Counted(loop, case), MetaGradientOf(loop, outer, STEPS)
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradient(tasks)
        assert (counted.during(lambda: gradient(tasks)) == 2) == once
        with without("features"):
            assert relative(ours.gradients, gradient(tasks).gradients) < 0.02
