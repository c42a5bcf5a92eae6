"""The verdict on a drawn case: equal to the oracle, refused with a remedy, or wrong.

PYTHONPATH=tests python tests/core/verdicts.py 0 1000        prints the verdicts by feature and each failure
"""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from drawn import Drawn, FixedDirections
from hops import Hop, inner
from oracles import relative
from random_models import SAMPLES, SMOOTHING, Case, case
from torch import Tensor, nn
from unrolling import Unrolled, unrolled

from cases import INNER, OUTER
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.model_checks import check_model
from litmaml.outer import FirstOrder
from litmaml.outer.meta_gradient import MetaGradient, MetaGradientOf
from litmaml.tasks import Tasks
from litmaml.weights import Params

EQUAL, REFUSED, WRONG, CRASH = "equal", "refused", "SILENTLY WRONG", "CRASH WITHOUT A REMEDY"
TOO_STRICT = "REFUSED THOUGH HONEST"
_REMEDY = re.compile(r"[\w.\[\]']+: .+; .+", re.DOTALL)


class Verdict(NamedTuple):
    kind: str
    detail: str = ""


def verdict(case: Case) -> Verdict:
    """Of the whole way: construction, checks, trial, meta-gradient and evaluation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _verdict(case)


def _verdict(case: Case) -> Verdict:
    model, tasks, twin = case.make(False), case.tasks(), case.make(True)
    try:
        row = OUTER[case.outer]
        method = row.make(SAMPLES, SMOOTHING)
        check_model(model, method)
        fast = case.fast(model)
        loop = InnerLoop(model, case.loss(), INNER[case.inner].make(), fast or ["*"], case.steps)
        with torch.no_grad():
            torch.manual_seed(case.number + 2)
            for rate in loop.learnt.parameters():
                rate.mul_(torch.rand_like(rate) + 0.5)
        loop.train(case.training)
        twin.train(case.training)
        try_first_batch(loop, tasks, method)
    except ValueError as error:
        return _refused(case, str(error))
    except Exception as error:
        return Verdict(CRASH, f"before training: {short(error)}")
    directions = directions_of(loop, case)
    drawn = Drawn(loop.model) if case.random else None
    before, given = state_of(loop), case.tasks()
    try:
        with FixedDirections(directions):
            found = MetaGradientOf(loop, method, case.steps, case.chunk)(tasks)
    except Exception as error:
        return Verdict(CRASH, f"in the meta-gradient: {short(error)}")
    finally:
        if drawn:
            drawn.handle.remove()
    if case.must == "refused" or (case.must == "refused where exact" and "SecondOrder" in case.outer):
        return Verdict(WRONG, "nothing said")
    if what := changed(before, loop, given, tasks):
        return Verdict(WRONG, what)
    if drawn:
        again = MetaGradientOf(loop, method, case.steps, case.chunk)(tasks)
        if not all(torch.equal(gradient, again.gradients[name]) for name, gradient in found.gradients.items()):
            return Verdict(WRONG, "another gradient in a second call")
        if drawn.mapped:
            return _by_its_loss(case, loop, tasks, found)
    try:
        draw = drawn.replay(tasks, case.steps) if drawn else (lambda task, j: None)
        true = unrolled(
            loop, tasks, case.steps, fast, INNER[case.inner].rule, hop_of(case, directions), model=twin, draw=draw
        )
    except Exception as error:
        return Verdict(WRONG, f"a gradient, where the oracle has none: {short(error)}")
    if problem := _differs(case, found, true):
        return Verdict(WRONG, problem)
    if not case.random:
        try:
            *_, adapted = loop.path(tasks, case.steps)
        except Exception as error:
            return Verdict(CRASH, f"in evaluation: {short(error)}")
        for task, theta in enumerate(true.adapted):
            off = error_of({name: adapted[name][task] for name in fast}, theta)
            if not off < (1e-4 if case.single else 1e-9):
                return Verdict(WRONG, f"adapted weights of evaluation off by {off:.1e}")
    return Verdict(EQUAL)


def _refused(case: Case, message: str) -> Verdict:
    if not has_remedy(message):
        return Verdict(CRASH, f"refused without a remedy: {message}")
    if case.must == "equal" and not OUTER[case.outer].repeats:
        return Verdict(TOO_STRICT, message)
    return Verdict(REFUSED, message)


def has_remedy(message: str) -> bool:
    """Whether it is in the one form of all errors."""
    return bool(_REMEDY.fullmatch(message))


def short(error: BaseException) -> str:
    notes = " ".join(getattr(error, "__notes__", []))
    return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''} {notes}".strip()


def state_of(loop: InnerLoop) -> dict[str, tuple[Tensor, Tensor]]:
    named = [*loop.named_parameters(remove_duplicate=False), *loop.named_buffers(remove_duplicate=False)]
    return {name: (tensor, tensor.detach().clone()) for name, tensor in named}


def changed(before: dict[str, tuple[Tensor, Tensor]], loop: InnerLoop, given: Tasks, tasks: Tasks) -> str:
    after = state_of(loop)
    for name, (tensor, value) in before.items():
        if name not in after or not torch.equal(after[name][1], value):
            return f"{name} has changed"
        if isinstance(tensor, nn.Parameter) and after[name][0] is not tensor:
            return f"{name} is another parameter"
    pairs = zip((*given.support, given.query), (*tasks.support, tasks.query), strict=True)
    if not all(torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) for a, b in pairs):
        return "the tasks have changed"
    return ""


def directions_of(loop: InnerLoop, case: Case) -> Tensor:
    """Points for the sampled outer gradients: along the fast weights, or along all."""
    fast, slow = loop.learnt_start(1)
    of_slow = loop.at_step(slow, 0) if OUTER[case.outer].everywhere else {}
    size = sum(weight[0].numel() for weight in fast.values()) + sum(weight.numel() for weight in of_slow.values())
    return torch.randn(SAMPLES, size, generator=torch.Generator().manual_seed(case.number))


def hop_of(case: Case, points: Tensor) -> Hop | None:
    row = OUTER[case.outer]
    if row.computed is None or (case.single and not row.kind.sampled):  # by its formula in double precision alone
        return row.hop
    return row.computed(points, SMOOTHING.get(row.kind, 0.0))


def _tolerance(case: Case) -> float:
    probing = OUTER[case.outer].kind.probes
    if case.single:  # the probes' differences are to be of use
        return 1e-2 if probing else 1e-4
    return 1e-7 if probing else 1e-9


def _differs(case: Case, found: MetaGradient, true: Unrolled) -> str:
    if found.gradients.keys() != true.gradients.keys():
        return "other names of gradients"
    if not bool(found.finite.all()):
        bad = [n for n, g in true.gradients.items() if not g.isfinite().all()]
        return f"not finite (the oracle's not: {bad})"
    if found.predictions.shape != true.predictions.shape or found.losses.shape != true.losses.shape:
        return f"predictions {tuple(found.predictions.shape)} for {tuple(true.predictions.shape)}"
    for name in ("losses", "predictions"):
        error = error_of({name: getattr(found, name)}, {name: getattr(true, name)})
        if not error < (1e-4 if case.single else 1e-9):
            return f"{name} off by {error:.1e}"
    worst = error_of(found.gradients, true.gradients, share=0.1 if OUTER[case.outer].kind.probes else 1e-3)
    if worst < _tolerance(case):
        return ""
    return f"gradient off by {worst:.1e}, in all by {relative(found.gradients, true.gradients)!r}"


def _by_its_loss(case: Case, loop: InnerLoop, tasks: Tasks, found: MetaGradient) -> Verdict:
    """Whether the gradient is the slope of the loss along a direction, where the same numbers are drawn each time."""
    weights = dict(loop.named_parameters())
    direction = {name: torch.randn_like(weight) for name, weight in weights.items()}

    def loss_at(length: float) -> Tensor:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.add_(length * direction[name])
            loss = MetaGradientOf(loop, FirstOrder(), case.steps, case.chunk)(tasks).loss
            for name, weight in weights.items():
                weight.sub_(length * direction[name])
        return loss

    slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    told = inner(found.gradients, direction)
    error = float((slope - told).abs() / (told.abs() + 1e-3))
    return Verdict(EQUAL) if error < 1e-5 else Verdict(WRONG, f"gradient off from the loss's slope by {error:.1e}")


def error_of(found: Params, true: Params, share: float = 1e-3) -> float:
    """The largest error of a tensor relative to its norm and a share of the norm of all together."""
    whole = torch.stack([value.abs().square().sum() for value in true.values()]).sum().sqrt()
    errors = [(found[n] - t).norm() / (t.norm() + share * whole + 1e-30) for n, t in true.items()]
    return float(torch.stack(errors).max())  # NaN, if one is


def table(verdicts: Sequence[tuple[Case, Verdict]], of: Callable[[Case], str] = lambda case: case.feature) -> str:
    """The verdicts by feature or another property of a case, those with failures first, and the failures."""
    kinds = [EQUAL, REFUSED, TOO_STRICT, WRONG, CRASH]
    by_feature: dict[str, Counter[str]] = {}
    for one, (kind, _) in verdicts:
        by_feature.setdefault(of(one), Counter())[kind] += 1
    rows = [f"{'':55}" + "".join(f"{kind[:15]:>17}" for kind in kinds)]
    rows += [
        f"{name:55}" + "".join(f"{count[kind] or '':>17}" for kind in kinds)
        for name, count in sorted(by_feature.items(), key=lambda item: -sum(item[1][k] for k in kinds[2:]))
    ]
    total = Counter(kind for _, (kind, _) in verdicts)
    rows.append(f"{'all':55}" + "".join(f"{total[kind]:>17}" for kind in kinds))
    rows += [f"{kind}: {one}\n    {detail}" for one, (kind, detail) in verdicts if kind in kinds[2:]]
    return "\n".join(rows)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    done = []
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            done.append((case(number), verdict(case(number))))
        except Exception:
            print(case(number), flush=True)
            traceback.print_exc()
    print(table(done))
