"""Every outer gradient with every inner optimizer, against unrolling task by task."""

from __future__ import annotations

import functools

import pytest
import torch
from hops import Hop
from oracles import Tiny, random_tasks, relative
from torch import nn
from unrolling import unrolled

from cases import INNER, OUTER
from litmaml.inner.loop import InnerLoop
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks
from litmaml.weights import Params

# torch itself scripts what torch.func.hessian differentiates forwards with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

STEPS = 2

FAST = {"*": ["body.0.weight", "body.0.bias", "head.weight"], "head.*": ["head.weight"]}


def inner_loop_of(inner: str, fast: str) -> InnerLoop:
    """Always the same weights, and learnt rates that all differ."""
    torch.manual_seed(0)
    loop = InnerLoop(Tiny(), nn.MSELoss(), INNER[inner].make(), [fast], STEPS)
    with torch.no_grad():
        for rate in loop.learnt.parameters():
            rate.mul_(torch.rand_like(rate) + 0.5)
    return loop


@functools.cache
def tasks() -> Tasks:
    torch.manual_seed(1)
    return random_tasks(targets=lambda x: 2 * torch.sin(2 * x) + 1)


@functools.cache
def oracle(inner: str, fast: str, hop: Hop | None) -> Params:
    loop = inner_loop_of(inner, fast)
    return unrolled(loop, tasks(), STEPS, FAST[fast], INNER[inner].rule, hop).gradients


@pytest.mark.parametrize("fast", FAST, ids=["all", "head"])
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    ("outer", "chunk"),
    [
        pytest.param(outer, chunk, id=f"{outer}-{'looped' if chunk else 'batched'}")
        for outer in OUTER
        for chunk in (None, 1)
        if not (chunk and outer in ("ZerothOrder stein", "ZerothOrder mean"))  # slow; ji is looped
    ],
)
def test_every_outer_gradient_with_every_inner_optimizer(
    outer: str, inner: str, fast: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, loop = OUTER[outer], inner_loop_of(inner, fast)
    method = row.expected(6 if fast == "*" else 2, monkeypatch)
    found = MetaGradientOf(loop, method, STEPS, tasks_per_chunk=chunk)(tasks())
    assert bool(found.finite.all())
    true = oracle(inner, fast, row.hop)
    assert found.gradients.keys() == true.keys()
    for part in ("model.", "learnt."):  # the learnt rates' by themselves
        names = [name for name in true if name.startswith(part)]
        if names:
            of_part = ({name: gradients[name] for name in names} for gradients in (found.gradients, true))
            assert relative(*of_part) < row.tolerance


@pytest.mark.parametrize("fast", FAST, ids=["all", "head"])
@pytest.mark.parametrize("inner", INNER)
def test_cells_can_tell_hops_apart(inner: str, fast: str) -> None:
    """What the tolerances above are small against."""
    exact = oracle(inner, fast, None)
    for hop in {row.hop for row in OUTER.values()} - {None}:
        assert relative(oracle(inner, fast, hop), exact) > 1e-2
