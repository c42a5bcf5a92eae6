"""Tasks that diverge in models which raise an error at numbers that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn

from cases import UNPROBED, made
from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.finetuning.adaptation import adapt
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.meta_learner import MetaLearner
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, select
from quiet_trainer import quiet_trainer

BAD = 5


class Wild(Sinusoid):
    """One task has targets of 1e30 for support: its weights overflow after a few inner steps."""

    def sample(self, split: Any, numbers: Any, seed: int) -> Tasks:
        tasks = super().sample(split, numbers, seed)
        targets = tasks.support[0].targets.clone()
        targets[[k for k, number in enumerate(numbers) if number == BAD]] = 1e30
        return tasks._replace(support=(Batch(tasks.support[0].inputs, targets),))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.last(torch.tanh(self.first(x)))
        return predicted


class Spectral(Network):
    def forward(self, x: Tensor) -> Tensor:
        # Of one column: where singular values are equal, such as zeros, there is no second derivative.
        spectrum: Tensor = torch.linalg.svdvals(self.first.weight)
        return super().forward(x) + 1e-3 * spectrum.sum()


class Checking(Network):
    """As ``torch.distributions`` and ``BCELoss`` check their arguments."""

    def forward(self, x: Tensor) -> Tensor:
        spread = 1 + (self.first.bias - self.first.bias.mean()).square().sum()
        return super().forward(torch.distributions.Normal(x, spread).mean)


def data(**changes: Any) -> TaskDataModule:
    counts = {"meta_batch": 4, "train_tasks": 8, "val_tasks": 8, "test_tasks": 8}
    return TaskDataModule(Wild(Episode(shots=5, queries=5)), **counts | changes)


def learner(model: nn.Module, **changes: Any) -> MetaLearner:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"loss": nn.MSELoss(), "inner_steps": 4}
    return MetaLearner(model, SGD(0.01), **defaults | changes)


MODELS = [Spectral, Checking]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("chunk", [None, 1])
def test_it_is_skipped_and_counted(model: type[nn.Module], chunk: int | None, tmp_path: Path) -> None:
    module = learner(model(), on_nonfinite="skip", tasks_per_chunk=chunk)
    fit = quiet_trainer(tmp_path, max_epochs=1)
    fit.fit(module, data())
    assert module.skipped_tasks == 3  # also in the two validations, of which one is the sanity check
    assert all(weight.isfinite().all() for weight in module.inner_loop.parameters())
    fit.test(module, data(), verbose=False)
    assert module.evaluated_tasks == 7


@pytest.mark.parametrize("model", MODELS)
def test_it_is_named(model: type[nn.Module], tmp_path: Path) -> None:
    fit = quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(FloatingPointError, match=rf"train task {BAD} is not finite \(1 of 4 tasks.*on_nonfinite"):
        fit.fit(learner(model()), data())
    with pytest.raises(FloatingPointError, match=rf"test task {BAD} is not finite \(1 of 4 tasks.*on_nonfinite"):
        fit.test(learner(model()), data(), verbose=False)
    with pytest.raises(FloatingPointError, match=rf"predict task {BAD} is not finite .*; lower the inner rate"):
        fit.predict(learner(model()), data())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", made(UNPROBED))
def test_the_gradient_is_that_of_the_others(model: type[nn.Module], method: OuterGradient) -> None:
    loop = InnerLoop(model(), nn.MSELoss(), SGD(0.01), ["*"], 4)
    tasks = Wild(Episode(shots=5, queries=5)).sample("train", range(4, 8), 0)
    found = MetaGradientOf(loop, method, 4)(tasks)
    assert found.finite.tolist() == [True, False, True, True]
    assert found.predictions[1].isnan().all()
    others = MetaGradientOf(loop, method, 4)(select(tasks, [0, 2, 3]))
    torch.testing.assert_close(found.predictions[found.finite], others.predictions)
    assert_close(found.gradients, others.gradients)
    alone = MetaGradientOf(loop, method, 4)(select(tasks, [1]))
    assert alone.finite.tolist() == [False]
    assert not any(gradient.any() for gradient in alone.gradients.values())


def test_an_error_at_finite_numbers_stays_one() -> None:
    class Choosy(Network):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 7:
                raise LookupError("seven")
            return super().forward(x)

    loop = InnerLoop(Choosy(), nn.MSELoss(), SGD(0.01), ["*"], 1)
    tasks = Sinusoid(Episode(shots=5, queries=7)).sample("train", range(4), 0)
    with pytest.raises(LookupError, match="seven"):
        MetaGradientOf(loop, SecondOrder(), 1)(tasks)


def test_what_vmap_cannot_take_is_not_looped_in_silence() -> None:
    class Branching(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.detach().sum()) > 0 else super().forward(-x)

    loop = InnerLoop(Branching(), nn.MSELoss(), SGD(0.01), ["*"], 1)
    tasks = Sinusoid(Episode(shots=5, queries=5)).sample("train", range(4), 0)
    with pytest.raises(RuntimeError, match="vmap"):
        MetaGradientOf(loop, SecondOrder(), 1)(tasks)


@pytest.mark.parametrize("model", MODELS)
def test_adaptation_says_what_to_do(model: type[nn.Module]) -> None:
    x = torch.randn(5, 1)
    with pytest.raises(FloatingPointError, match=r"the loss on the support set is nan after \d inner steps; lower the"):
        adapt(learner(model()), x, 1e18 * x.sin(), lr=1e22)
