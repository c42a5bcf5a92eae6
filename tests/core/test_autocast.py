"""Under autocast a task's own attention computes as torch's does outside of vmap."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from bodies import loop_of
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from cases import OUTER, made
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import EvolutionStrategies, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, map_batches


class Softmaxes(TorchDispatchMode):
    """Keeps the dtypes that each softmax and its derivative got."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[set[torch.dtype]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "softmax" in str(function):
            given = (part.dtype if isinstance(part, Tensor) else part for part in args)
            self.dtypes.append({part for part in given if isinstance(part, torch.dtype)})
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmax_is_float32_mapped_and_not(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 2, 4, 5, 8, dtype=torch.float32, requires_grad=True)

    def attention(q: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, q, q).float().square().sum()

    found = []
    for run in (lambda: torch.vmap(attention)(q).sum(), lambda: torch.stack([attention(each) for each in q]).sum()):
        with Softmaxes() as seen, sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", dtype):
            value = run()
            found.append(torch.autograd.grad(value, q)[0])
        assert len(seen.dtypes) >= 2
        assert set().union(*seen.dtypes) == {torch.float32}
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 4 * torch.finfo(dtype).eps


class Half(nn.Module):
    """Casts its first layers itself; its output is float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 8, dtype=torch.float32), nn.Linear(8, 1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = torch.tanh(self.first(x))
        predicted: Tensor = self.last(hidden.float())
        return predicted


@pytest.mark.parametrize("outer_gradient", made(OUTER))
@pytest.mark.parametrize("around", [None, True, False])
def test_a_model_that_casts_itself_passes(outer_gradient: OuterGradient, around: bool | None) -> None:
    loop = loop_of(Half())
    tasks = map_batches(lambda batch: Batch(batch.inputs.float(), batch.targets.float()), random_tasks(3))
    with nullcontext() if around is None else torch.autocast("cpu", torch.bfloat16, enabled=around):
        assert try_first_batch(loop, tasks, outer_gradient) == []
        assert torch.is_autocast_cache_enabled()


def test_a_trial_leaves_no_cast_without_a_gradient() -> None:
    loop = loop_of(model := Half())
    tasks = map_batches(lambda batch: Batch(batch.inputs.float(), batch.targets.float()), random_tasks(3))
    with torch.autocast("cpu", torch.bfloat16):
        try_first_batch(loop, tasks, SecondOrder())
        loop.model(tasks.query.inputs[0]).sum().backward()
    assert model.first.weight.grad is not None


def test_evolution_strategies_compare_losses_in_full_precision() -> None:
    """Autocast rounds what is logged, and not the difference of two losses that are nearly alike."""
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).float()
    tasks = map_batches(lambda batch: Batch(batch.inputs.float(), batch.targets.float()), random_tasks(3))
    gradient_of = MetaGradientOf(loop_of(model), EvolutionStrategies(3, 1e-3), 2)
    true = gradient_of(tasks)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_of(tasks)
    assert not torch.equal(found.losses, true.losses)
    assert relative(found.gradients, true.gradients) < 1e-6
