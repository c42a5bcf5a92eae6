"""The verdict on a random model under a drawn method: equal to the oracle, refused with a remedy, or wrong.

PYTHONPATH=tests python tests/core/method_verdicts.py 0 500      prints the verdicts by outer gradient and each failure
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from drawn import Drawn, FixedDirections
from random_methods import EPOCH, FOREIGN, WORST, MethodCase, method_case
from solvers import OneTask, Truth, along_the_path, each_task, true_gradient
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from unrolling import WrittenOut, with_weights
from verdicts import (
    CRASH,
    EQUAL,
    REFUSED,
    TOO_STRICT,
    WRONG,
    Verdict,
    changed,
    directions_of,
    error_of,
    has_remedy,
    hop_of,
    short,
    state_of,
    table,
)

from cases import INNER, OUTER, SOLVERS, WRAPPERS
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.model_checks import check_model
from litmaml.outer import HypergradientSGD, OuterLoss, WorstCaseLoss
from litmaml.outer.meta_gradient import MetaGradient, MetaGradientOf
from litmaml.randomness import normal_directions, task_streams
from litmaml.tasks import Tasks
from litmaml.weights import Params


def method_verdict(case: MethodCase) -> Verdict:
    """Of the whole way: construction, checks, trial, outer gradient, what the outer loss and optimizer make of it."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        warnings.simplefilter("ignore")
        return _verdict(case)


def _verdict(case: MethodCase) -> Verdict:
    model, tasks, twin = case.make(False), case.tasks(), case.make(True)
    why, fast = "", ["*"]
    try:
        method, outer_loss = case.method(), case.minimised()
        check_model(model, method)
        why, fast, rows = case.refusal(model), case.fast(model) or ["*"], case.per_step(model) if case.rows else []
        loop = InnerLoop(model, case.loss(), case.optimizer(), fast, case.steps, (), rows)
        with torch.no_grad():
            torch.manual_seed(case.number + 2)
            for learnt in loop.learnt.parameters():
                learnt.mul_(torch.rand_like(learnt) * 0.4 + 0.8).add_(0.02 * torch.randn_like(learnt))
        loop.train(case.training)
        twin.train(case.training)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try_first_batch(loop, tasks, method)
        gradient_of = MetaGradientOf(loop, method, case.steps, case.chunk, outer_loss=outer_loss)
        gradient_of.epoch = EPOCH
    except ValueError as error:
        return _refused(case, str(error), why)
    except Exception as error:
        return Verdict(CRASH, f"before training: {short(error)}")
    if case.outer.startswith("Implicit") and any("is not the slope of its loss" in str(one.message) for one in told):
        return Verdict(REFUSED, "told that products are not symmetric")
    points = directions_of(loop, case) if case.outer in OUTER else torch.zeros(0)
    drawn = Drawn(loop.model) if case.random else None
    before, given = state_of(loop), case.tasks()
    try:
        with FixedDirections(points):
            found = gradient_of(tasks)
    except ValueError as error:
        return _refused(case, str(error), why)
    except Exception as error:
        if "set tasks_per_chunk to 1" in short(error):  # as of an operation that vmap does not take
            return Verdict(REFUSED, short(error))
        return Verdict(CRASH, f"in the outer gradient: {short(error)}")
    finally:
        if drawn:
            drawn.handle.remove()
    exact = case.outer == "Implicit" or "SecondOrder" in case.outer
    if case.must == "refused" or (case.must == "refused where exact" and exact):
        return Verdict(WRONG, "nothing said of the model")
    if why:
        return Verdict(WRONG, f"nothing said of {why}")
    if what := changed(before, loop, given, tasks):
        return Verdict(WRONG, what)
    truth = Truth(
        loop,
        case.steps,
        WRAPPERS[case.wrapper].transformed,
        INNER[case.inner].rule,
        hop_of(case, points) if case.outer in OUTER else None,
        call=_by_copies(twin),
        draw=_replayed(case, drawn, tasks) if drawn else lambda task, j, query: None,
    )
    each = each_task(truth, tasks, outer_loss, _directions(case, loop, tasks), EPOCH)
    try:
        problem = _differs(case, found, each, outer_loss)
    except Exception as error:
        return Verdict(WRONG, f"a gradient, where the oracle has none: {short(error)}")
    problem = problem or _ascent(outer_loss, tasks, found) or _descent(case, loop, found)
    return Verdict(WRONG, problem) if problem else Verdict(EQUAL)


def _refused(case: MethodCase, message: str, why: str) -> Verdict:
    if not has_remedy(message):
        return Verdict(CRASH, f"refused without a remedy: {message}")
    if case.must == "equal" and not why and not (case.random and case.method().repeats):
        return Verdict(TOO_STRICT, message)
    return Verdict(REFUSED, message)


def _by_copies(twin: torch.nn.Module) -> Callable[[Params, Any], Tensor]:
    def call(weights: Params, inputs: Tensor) -> Tensor:
        with WrittenOut():
            outputs: Tensor = with_weights(twin, weights)(inputs.clone())
        return outputs

    return call


def _replayed(case: MethodCase, drawn: Drawn, tasks: Tasks) -> Callable[[int, int, bool], None]:
    """Of the query's passes after the steps that count, each has the state of its own."""
    shares = case.minimised().step_weights(case.steps, EPOCH) or [0.0] * case.steps + [1.0]
    place = {j: sum(map(bool, shares[:j])) for j in range(case.steps + 1)}

    def draw(task: int, j: int, query: bool) -> None:
        batch = tasks.query if query else tasks.support[j if len(tasks.support) > 1 else 0]
        again = 0 if not query and len(tasks.support) > 1 else place[j] if query else j
        drawn.put_back(batch.inputs[task], again)

    return draw


def _directions(case: MethodCase, loop: InnerLoop, tasks: Tasks) -> Params | None:
    if case.outer != "EvolutionStrategies":
        return None
    named = {**dict(loop.model.named_parameters()), **dict(loop.model.named_buffers())}
    like = {name: named[name].detach() for name in (*loop.fast_names, *loop.slow_names)}
    (found,) = normal_directions(like, 3, task_streams(0, "train", tasks.numbers.tolist(), "directions"), 1)
    return found


def _tolerance(case: MethodCase) -> float:
    if case.outer == "Implicit by differences":
        return 1e-2 if case.single else 1e-5
    if case.single:
        return 1e-2 if case.outer not in OUTER or OUTER[case.outer].kind.probes else 1e-4
    if case.outer == "Implicit":  # by as many conjugate gradients as there are
        return 1e-7
    return 1e-7 if case.outer in OUTER and OUTER[case.outer].kind.probes else 1e-9


def _differs(case: MethodCase, found: MetaGradient, each: list[OneTask], outer_loss: OuterLoss) -> str:
    solved = SOLVERS[case.outer].true if case.outer in FOREIGN else along_the_path
    own = [solved(one) for one in each]
    counts = outer_loss.task_weights(torch.arange(len(each)) + 7)
    for one, finite in zip(each, found.finite.tolist(), strict=True):
        true = own[one.number]
        if not finite and one.least > 0 and all(bool(part.isfinite().all()) for part in true.values()):
            return f"task {one.number} is not finite, where the least eigenvalue is {one.least:.1e}"
    kept = [k for k, finite in enumerate(found.finite.tolist()) if finite]
    if not kept:
        return ""
    true = true_gradient([each[k] for k in kept], lambda one: own[one.number], None if counts is None else counts[kept])
    if found.gradients.keys() != true.keys():
        return f"other names of gradients: {found.gradients.keys() ^ true.keys()}"
    ends = [one.outer(one.path(one.leaves, lambda loss, theta, v: {}), one.leaves) for one in each]
    for name, values in (("losses", [loss for loss, _ in ends]), ("predictions", [last for _, last in ends])):
        told = torch.stack(values).detach()[kept]
        there = getattr(found, name)[kept]
        if there.shape != told.shape:
            return f"{name} {tuple(there.shape)} for {tuple(told.shape)}"
        if not (error := error_of({name: there}, {name: told})) < (1e-4 if case.single else 1e-9):
            return f"{name} off by {error:.1e}"
    probing = case.outer == "Implicit by differences" or (case.outer in OUTER and OUTER[case.outer].kind.probes)
    worst = error_of(found.gradients, true, share=0.1 if probing else 1e-3)
    return "" if worst < _tolerance(case) else f"gradient off by {worst:.1e}"


def _ascent(outer_loss: OuterLoss, tasks: Tasks, found: MetaGradient) -> str:
    """Whether the worst tasks' distribution goes to the nearest one, which is told by its conditions of optimality."""
    if not isinstance(outer_loss, WorstCaseLoss):
        return ""
    risen, count = outer_loss.p.clone(), outer_loss.tasks
    kept = found.finite.nonzero().flatten().tolist()
    for k in kept:
        risen[int(tasks.numbers[k]) % count] += outer_loss.rate * count / len(kept) * found.losses[k]
    if kept:
        outer_loss.update(tasks.numbers[kept], found.losses[kept])
    p = outer_loss.p
    shift = (risen - p)[p > 0]
    optimal = (shift - shift[0]).abs().max() < 1e-6 and bool((risen[p == 0] <= shift[0] + 1e-6).all())
    return "" if optimal and abs(float(p.sum()) - 1) < 1e-6 else f"{WORST} ascends to another distribution"


def _descent(case: MethodCase, loop: InnerLoop, found: MetaGradient) -> str:
    """Whether three steps of HypergradientSGD along the gradient and others are as its formulas have it."""
    weights = {name: weight for name, weight in loop.named_parameters() if weight.requires_grad}
    if any(weight.is_complex() for weight in weights.values()):
        return ""
    multiplicative, rate, kappa = bool(case.number % 2), 0.1, 1e-3
    optimizer = HypergradientSGD([*weights.values()], rate, kappa, multiplicative)
    own, last = {name: weight.detach().clone() for name, weight in weights.items()}, dict[str, Tensor]()
    for k in range(3):
        now = {name: gradient * (1 - 0.7 * k) for name, gradient in found.gradients.items()}
        if last:
            along = torch.stack([(now[name] * last[name]).sum() for name in now]).sum()
            lengths = [torch.stack([g.square().sum() for g in some.values()]).sum().sqrt() for some in (now, last)]
            cosine = along / (lengths[0] * lengths[1]) if lengths[0] * lengths[1] > 0 else along
            rate = max(float(rate * (1 + kappa * cosine) if multiplicative else rate + kappa * along), 0.0)
        for name, weight in weights.items():
            weight.grad, own[name] = now[name].clone(), own[name] - rate * now[name]
        optimizer.step()
        last = now
    off = error_of({name: weight.detach() for name, weight in weights.items()}, own)
    return "" if off < (1e-5 if case.single else 1e-10) else f"HypergradientSGD is off by {off:.1e}"


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    numbers = range(*map(int, sys.argv[1:3])) if len(sys.argv) == 3 else map(int, sys.argv[1].split(","))
    done = [(case, method_verdict(case)) for case in map(method_case, numbers)]
    print(table(done, lambda case: case.outer))
