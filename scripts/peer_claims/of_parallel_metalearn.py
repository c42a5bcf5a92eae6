"""parallel-metalearn 0.5.6."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from peer_claims.claim import Figures, Peer
from peer_claims.problem import Sets, adapted, classes, gradient, off

PARALLEL_METALEARN = Peer("parallel-metalearn", "0.5.6", "metalearn", "pip install parallel-metalearn==0.5.6")
LR, STEPS = 0.1, 5


class _TakesMore(nn.Module):
    """A module for ``MAML_Model``, which also passes the step and the mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return self.module(x)


def network(norm: nn.Module) -> nn.Sequential:
    """Two layers with a normalisation between, whose scales and shifts are no longer one and zero."""
    with torch.no_grad():
        for weight in norm.parameters():
            weight.add_(torch.empty_like(weight).uniform_(-0.5, 0.5))
    return nn.Sequential(nn.Linear(6, 8), norm, nn.Tanh(), nn.Linear(8, 3))


def by_parallel_metalearn(model: nn.Sequential, sets: Sets, backend: str, **how: Any) -> list[Tensor]:
    """The gradient that ``MAML.step`` leaves on the model's weights."""
    from metalearn.algorithms.MAML import MAML
    from metalearn.inner_optimizers.optimizers import InnerSGD
    from metalearn.loss import CrossEntropy
    from metalearn.loss.categorical_accuracy import CategoricalAccuracy
    from metalearn.model_wrappers.MAMLWrapper import MAML_Model

    wrapped = MAML_Model(_TakesMore(model[:-1]), _TakesMore(model[-1]))
    maml = MAML(
        model=wrapped,
        optimizer=torch.optim.SGD(wrapped.parameters(), lr=0.0),
        inner_optimizer=InnerSGD(wrapped.get_fast_weights(), inner_lr=LR, max_inner_steps=STEPS, learn_lr=False),
        support_loss_fn=CrossEntropy(CategoricalAccuracy()),
        inner_steps=STEPS,
        backend=backend,
        device=torch.device("cpu"),
        multi_step_loss=bool(how),
    )
    maml.step(iter([(sets.x, {"labels": sets.y}, sets.query_x, {"labels": sets.query_y})]), **how)
    return [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in model.parameters()]


def by_litmaml(model: nn.Module, sets: Sets) -> list[Tensor]:
    """Ours, of all tasks at once."""
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(LR), ["*"], STEPS)
    tasks = Tasks((Batch(sets.x, sets.y),), Batch(sets.query_x, sets.query_y), torch.arange(len(sets.x)))
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks).gradients
    return [found[f"model.{name}"] for name, _ in model.named_parameters()]


@PARALLEL_METALEARN.claim(
    lambda f: (
        min(f["LayerNorm, vmap"], f["BatchNorm, vmap"]) > 1e-3
        and max(value for what, value in f.items() if what not in ("LayerNorm, vmap", "BatchNorm, vmap")) < 1e-10
    )
)
def parallel_metalearn_norms() -> Figures:
    """The default backend, vmap, has wrong second-order gradients under torch's LayerNorm and BatchNorm.

    Relative errors of five inner steps on four tasks. The backend that loops is right, and so is the package's own
    layer for batch norm. BatchNorm is torch's without running statistics, which vmap would not take.
    """
    from metalearn.nn_models.basic_layers.BatchNormalization import BatchNorm

    sets, found = classes(), {}
    norms = {
        "no norm": nn.Identity(),
        "GroupNorm": nn.GroupNorm(2, 8),
        "LayerNorm": nn.LayerNorm(8),
        "BatchNorm": nn.BatchNorm1d(8, track_running_stats=False),
        "its own BatchNorm": BatchNorm(8, track_running_stats=False),
    }
    for name, norm in norms.items():
        model = network(norm)
        true = gradient(model, cross_entropy, sets, LR, STEPS)
        for backend in ("vmap", "sequential"):
            found[f"{name}, {backend}"] = off(by_parallel_metalearn(model, sets, backend), true)
        if name != "its own BatchNorm":
            found[f"{name}, litmaml"] = off(by_litmaml(model, sets), true)
    return found


@PARALLEL_METALEARN.claim(
    lambda f: f["divided"] < 1e-6 and f["weighted"] > 1 and f["its length by the weighted one's"] > 5
)
def parallel_metalearn_step_weights() -> Figures:
    """``multi_step_loss`` divides each step's loss by its weight, where MAML++ multiplies.

    Relative errors of its gradient at the fifth of ten epochs, against losses that are divided and multiplied.
    """
    from metalearn.algorithms.MetaUtils import get_per_step_loss_weights

    sets, model = classes(), network(nn.Identity())
    importance = get_per_step_loss_weights(STEPS, 5, 10).double()
    found = by_parallel_metalearn(model, sets, "vmap", epoch=5, epochs=10)

    def true(factors: Tensor) -> list[Tensor]:
        total = torch.zeros(())
        for x, y, query_x, query_y in zip(*sets, strict=True):
            for step in range(STEPS):
                weights = adapted(model, cross_entropy, x, y, LR, step + 1)
                total = total + factors[step] * cross_entropy(functional_call(model, weights, (query_x,)), query_y)
        return [*torch.autograd.grad(total / len(sets.x), [*model.parameters()])]

    weighted = true(importance)
    lengths = [float(torch.cat([part.flatten() for part in parts]).norm()) for parts in (found, weighted)]
    return {
        "divided": off(found, true(1 / importance)),
        "weighted": off(found, weighted),
        "its length by the weighted one's": lengths[0] / lengths[1],
        "weight of the first step": float(importance[0]),
        "of the last": float(importance[-1]),
    }
