"""The formula of memory against what is held, on models of five kinds."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.measure.memory import memory_of
from litmaml.outer import OuterGradient, Reptile, SecondOrder
from litmaml.outer.memory import peak_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import select
from step_costs import MODELS, Kind, tasks_of_kind

METHODS = [SecondOrder(), SecondOrder(recompute=True), Reptile()]


@pytest.mark.parametrize("outer_gradient", METHODS, ids=repr)
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.name)
def test_the_formula_predicts_larger_chunks_and_more_steps_within_a_fifth(
    kind: Kind, outer_gradient: OuterGradient
) -> None:
    torch.manual_seed(0)
    loop = InnerLoop(kind.make(), kind.loss, SGD(0.01), ["*"], 5)
    tasks = tasks_of_kind(kind, 5)
    predicted = memory_of(loop, outer_gradient, tasks).megabytes(5, 5)
    compute = MetaGradientOf(loop, outer_gradient, 5, tasks_per_chunk=5)
    held = peak_of(partial(compute, tasks), torch.device("cpu")) / 2**20
    assert predicted == pytest.approx(held, rel=0.2)


def test_of_one_task_nothing_is_shared() -> None:
    torch.manual_seed(0)
    kind = MODELS[0]
    loop = InnerLoop(kind.make(), kind.loss, SGD(0.01), ["*"], 3)
    one = select(tasks_of_kind(kind, 1), [0])
    found = memory_of(loop, SecondOrder(), one)
    assert found.shared == 0
    assert found.megabytes(1, 4) > found.megabytes(1, 2) > 0
