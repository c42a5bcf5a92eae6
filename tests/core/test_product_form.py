"""The meta-gradient as a product of dense matrices, and the batches that its factors and probes are of."""

from __future__ import annotations

from typing import final

import pytest
import torch
from oracles import Tiny, product_form, random_tasks, relative
from torch import Tensor, nn

from cases import EXACT, OUTER
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    OuterGradient,
    PathGradient,
    SecondOrder,
)
from litmaml.outer.gradient import Point
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params, Weights

# torch itself scripts what torch.func.hessian differentiates forwards with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

N, ALPHA = 5, 0.02
LOSS = nn.MSELoss()

Case = tuple[nn.Module, Tasks, Params]


def system(
    model: nn.Module,
    tasks: Tasks,
    method: OuterGradient,
    steps: int = N,
    alpha: float = ALPHA,
    fast: str = "*",
) -> Params:
    return MetaGradientOf(InnerLoop(model, LOSS, SGD(alpha), [fast], steps), method, steps)(tasks).gradients


def sines(supports: int, hessians: int) -> Tasks:
    return random_tasks(2, examples=10, supports=supports, hessians=hessians, targets=lambda x: 3 * torch.sin(2 * x))


@pytest.fixture(scope="module", params=["one support", "fresh batches"])
def case(request: pytest.FixtureRequest) -> Case:
    """1-16-16-1 tanh; one support batch for everything (finite sum), or S_j, D_j and T all different (resampling)."""
    torch.manual_seed(0)
    tasks = sines(N, N) if request.param == "fresh batches" else sines(1, 0)
    model = MLP(hidden=(16, 16), init="fan_in")
    return model, tasks, product_form(model, LOSS, tasks, N, ALPHA, "")


@pytest.mark.parametrize("outer", EXACT)
def test_the_system_gives_the_product(outer: str, case: Case) -> None:
    model, tasks, product = case
    assert relative(system(model, tasks, EXACT[outer].make()), product) < EXACT[outer].tolerance


def test_first_order_is_far_off(case: Case) -> None:
    model, tasks, product = case
    assert relative(system(model, tasks, FirstOrder()), product) > 0.1


BATCHES = [(1, 0), (3, 0), (1, 1), (3, 3)]


@pytest.mark.parametrize(("supports", "hessians"), BATCHES)
@pytest.mark.parametrize("fast", ["*", "head.*"], ids=["all", "head"])
@pytest.mark.parametrize("outer", [name for name, row in OUTER.items() if row.hop is None])
def test_every_factor_has_its_batch(
    outer: str, fast: str, supports: int, hessians: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every outer gradient that has some, with and without weights that are not adapted."""
    method = OUTER[outer].expected(6 if fast == "*" else 2, monkeypatch)
    model, tasks = Tiny(), sines(supports, hessians)
    product = product_form(model, LOSS, tasks, 3, 0.1, fast.removesuffix("*"))
    assert relative(system(model, tasks, method, 3, 0.1, fast), product) < OUTER[outer].tolerance
    # Another batch in its place is another product: the query's would be the likely mistake.
    wrong = product_form(model, LOSS, tasks._replace(hessian=(tasks.query,) * 3), 3, 0.1, fast.removesuffix("*"))
    assert relative(wrong, product) > 1e-2


@final
class TwoBatches(PathGradient):
    """HF-MAML done wrong: each of the two probes of a product has half the batch."""

    probes = True

    def hop(self, at: Point, vector: Params) -> Weights:
        half, radius = len(at.batch.inputs[0]) // 2, 1e-4

        def probe(sign: int, part: slice) -> tuple[Tensor, ...]:
            length = torch.stack([v.flatten(1).norm(dim=1) ** 2 for v in vector.values()]).sum(0).sqrt()
            moved = {
                n: (w + sign * radius * vector[n] / length.reshape(-1, *[1] * (w.dim() - 1))).requires_grad_()
                for n, w in at.fast.items()
            }
            of = Batch(at.batch.inputs[:, part], at.batch.targets[:, part])
            total = (at.losses(moved, at.slow, of) * length.detach()).sum() / (2 * radius)
            return torch.autograd.grad(total, list(moved.values()))

        ahead, behind = probe(1, slice(half)), probe(-1, slice(half, None))
        return Weights({n: a - b for n, a, b in zip(at.fast, ahead, behind, strict=True)}, {})


def test_both_probes_have_the_same_batch() -> None:
    """Meta-training with noisy Hessian batches: HF-MAML ends where MAML does, with two batches it diverges."""

    def trained(method: OuterGradient) -> Params:
        torch.manual_seed(1)
        model = MLP(hidden=(8,))
        loop = InnerLoop(model, LOSS, SGD(0.1), ["*"], 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(60):
            tasks = random_tasks(2, examples=8, hessians=1, targets=lambda x: torch.sin(x) + torch.randn_like(x))
            found = MetaGradientOf(loop, method, 1)(tasks)
            for name, weight in loop.named_parameters():
                weight.grad = found.gradients[name]
            optimizer.step()
        return {name: weight.detach() for name, weight in model.named_parameters()}

    maml = trained(SecondOrder())
    assert relative(trained(FiniteDifference(1e-4)), maml) < 1e-6
    wrong = trained(TwoBatches())
    assert not all(bool(weight.isfinite().all()) for weight in wrong.values()) or relative(wrong, maml) > 10
