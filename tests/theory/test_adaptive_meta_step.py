"""Outer steps from theory: the formula, and that the loss falls at every one of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.func import functional_call

from cases import OUTER
from litmaml.callbacks import AdaptiveMetaStep
from litmaml.data import Sinusoid, TaskDataModule
from litmaml.data.task_distribution import TaskDistribution
from litmaml.inner import SGD, HigherOptimizer
from litmaml.learner.meta_learner import MetaLearner
from litmaml.measure.theory import outer_smoothness, step_constant
from litmaml.models import MLP, Vector
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    MultiStepLoss,
    Reptile,
    SecondOrder,
    ZerothOrder,
)
from litmaml.problems import LinearRegression, LogCoshLoss, RankOne, RankOneLoss
from unequal import UnequalSines


class Watch(Callback):
    """Keeps the losses and rates of training in double precision."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *rest: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.rates.append(float(trainer.optimizers[0].param_groups[0]["lr"]))


class Sines(Sinusoid):
    """The same 25 sinusoids at every outer step: exact gradients of a finite sum."""

    def sample(self, split: Any, numbers: Any, seed: int) -> Any:
        return super().sample(split, [number % 25 for number in numbers], seed)


def fit(
    tmp_path: Any, learner: MetaLearner, tasks: TaskDistribution, step: AdaptiveMetaStep, batch: int, steps: int
) -> Watch:
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        precision="64-true",
        max_steps=steps,
        default_root_dir=tmp_path,
        callbacks=[step, watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(learner, TaskDataModule(tasks, meta_batch=batch, train_tasks=batch * steps))
    assert len(watch.losses) == steps
    return watch


def rank_one_learner(**arguments: Any) -> MetaLearner:
    torch.manual_seed(0)
    given = {"inner_optimizer": SGD(0.1), "optimizer": torch.optim.SGD, **arguments}
    return MetaLearner(Vector(10, 0.3).double(), loss=RankOneLoss(), **given)


def assert_falls(losses: list[float]) -> None:
    rises = [after - before for before, after in pairwise(losses)]
    assert max(rises) < 0, f"largest rise {max(rises)}"


def test_the_loss_falls_at_every_step_on_rank_one_factorisation(tmp_path: Any) -> None:
    watch = fit(tmp_path, rank_one_learner(), RankOne(10, pool=20), AdaptiveMetaStep(tasks=20), 20, 120)
    assert_falls(watch.losses)
    assert watch.losses[-1] < 0.9 * watch.losses[0]
    assert len(set(watch.rates)) == 120  # adapted at every step


@pytest.mark.parametrize("steps", [1, 2])
def test_the_loss_falls_at_every_step_on_a_tanh_sinusoid(tmp_path: Any, steps: int) -> None:
    torch.manual_seed(0)
    learner = MetaLearner(
        MLP(hidden=[16, 16], init="fan_in").double(),
        inner_optimizer=SGD(0.01),
        loss=nn.MSELoss(),
        inner_steps=steps,
        optimizer=torch.optim.SGD,
    )
    watch = fit(tmp_path, learner, Sines(), AdaptiveMetaStep(tasks=10, every=20), 25, 40)
    assert_falls(watch.losses)


def test_the_step_is_the_formula_of_fallah_et_al(tmp_path: Any) -> None:
    tasks = LinearRegression(3, (1.0, 4.0), pool=5)
    learner = MetaLearner(
        nn.Linear(3, 1, bias=False).double(), SGD(0.25), loss=LogCoshLoss(), optimizer=torch.optim.SGD
    )
    with torch.no_grad():
        learner.inner_loop.model.weight.fill_(3.0)  # type: ignore[operator]
    watch = fit(tmp_path, learner, tasks, AdaptiveMetaStep(smoothness=4.0, hessian_lipschitz=10.0, tasks=5), 5, 1)
    data = tasks.sample("train", range(5), 0).query
    errors = data.inputs.sum(-1) * 3 - data.targets.squeeze(-1)
    norms = (errors.tanh().unsqueeze(-1) * data.inputs).mean(1).norm(dim=1)
    assert watch.rates == pytest.approx([1 / 12 / (4 * 4.0 + 2 * 10.0 * 0.25 * float(norms.mean()))], rel=1e-12)


def test_constants_are_those_of_the_method() -> None:
    of_one_step = {SecondOrder: 12, FirstOrder: 18, FiniteDifference: 25, GaussianSmoothing: 100, ZerothOrder: 100}
    for row in OUTER.values():
        assert step_constant(row.make(), 1) == 1 / of_one_step[row.kind]
        assert step_constant(row.make(), 3) == 1 / 100


def test_the_multi_step_smoothness_is_that_of_ji_et_al() -> None:
    smoothness, rho, alpha, n, norm = 2.0, 3.0, 0.1, 4, 1.7
    q = 1 + alpha * smoothness
    # Equation 9 with C_L as printed.
    c = (q ** (n - 1) * alpha * rho + rho / smoothness * q**n * (q ** (n - 1) - 1)) * q**n
    assert outer_smoothness(smoothness, rho, alpha, n, norm) == pytest.approx(
        q ** (2 * n) * smoothness + c * norm, rel=1e-12
    )


@pytest.mark.parametrize(
    ("change", "step", "message"),
    [
        (
            {"optimizer": torch.optim.Adam},
            AdaptiveMetaStep(),
            "plain gradient steps, got Adam; set it to torch.optim.SGD",
        ),
        ({"inner_optimizer": SGD(0.1, momentum=0.9)}, AdaptiveMetaStep(), "got SGD with momentum; use SGD without"),
        (
            {"inner_optimizer": SGD(0.1, weight_decay=0.1)},
            AdaptiveMetaStep(),
            "got SGD with weight decay; use SGD without",
        ),
        ({"inner_optimizer": HigherOptimizer()}, AdaptiveMetaStep(), "got HigherOptimizer; use SGD without"),
        (
            {"lr_scheduler": lambda o: torch.optim.lr_scheduler.ConstantLR(o)},
            AdaptiveMetaStep(),
            "lr_scheduler: AdaptiveMetaStep sets the outer rate itself",
        ),
        (
            {"outer_gradient": Reptile()},
            AdaptiveMetaStep(),
            "outer_gradient: AdaptiveMetaStep is the theory of gradients along the path .*, got Reptile; use",
        ),
        (
            {"outer_loss": MultiStepLoss()},
            AdaptiveMetaStep(),
            "outer_loss: AdaptiveMetaStep is the theory of the mean loss .*, got MultiStepLoss; use MeanLoss",
        ),
    ],
)
def test_what_the_theory_does_not_cover_is_refused(
    tmp_path: Any, change: dict[str, Any], step: AdaptiveMetaStep, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, rank_one_learner(**change), RankOne(10, pool=4), step, 4, 2)


def test_kinks_ask_for_rho(tmp_path: Any) -> None:
    learner = MetaLearner(MLP(activation="relu").double(), SGD(0.01), loss=nn.MSELoss(), optimizer=torch.optim.SGD)
    with pytest.raises(ValueError, match=r"cannot be estimated: the Hessian jumps.*give AdaptiveMetaStep hessian_lips"):
        fit(tmp_path, learner, Sinusoid(), AdaptiveMetaStep(tasks=4), 4, 2)


@pytest.mark.filterwarnings("ignore:AdaptiveMetaStep. the inner rate:UserWarning")
def test_given_constants_serve_any_model(tmp_path: Any) -> None:
    learner = MetaLearner(
        MLP(activation="relu").double(), SGD(0.01), FirstOrder(), nn.MSELoss(), optimizer=torch.optim.SGD
    )
    step = AdaptiveMetaStep(constant=0.5, smoothness=20.0, hessian_lipschitz=0.0, tasks=4)
    watch = fit(tmp_path, learner, Sinusoid(), step, 4, 2)
    assert watch.rates == pytest.approx([0.5 / 80.0] * 2)


def test_too_long_an_inner_rate_is_warned_of(tmp_path: Any) -> None:
    step = AdaptiveMetaStep(smoothness=20.0, hessian_lipschitz=0.0)
    with pytest.warns(UserWarning, match="inner rate 0.1 is above 1/L = 0.05"):
        fit(tmp_path, rank_one_learner(), RankOne(10, pool=4), step, 4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constant": 0.0}, "constant: has to be a positive number or left out, got 0.0"),
        ({"smoothness": -1.0}, "smoothness: has to be a positive number"),
        ({"hessian_lipschitz": -1.0}, "hessian_lipschitz: has to be at least 0"),
        ({"tasks": 0}, "tasks: has to be at least 1, got 0"),
        ({"every": 0}, "every: has to be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveMetaStep(**arguments)


def test_of_unequal_tasks_the_mean_is_over_tasks(tmp_path: Any) -> None:
    torch.manual_seed(0)
    learner = MetaLearner(MLP(hidden=(8,), activation="tanh").double(), loss=nn.MSELoss(), optimizer=torch.optim.SGD)
    start = {name: w.detach().clone().requires_grad_() for name, w in learner.inner_loop.model.named_parameters()}
    step = AdaptiveMetaStep(smoothness=4.0, hessian_lipschitz=10.0, tasks=5)
    watch = fit(tmp_path, learner, UnequalSines(), step, 4, 1)
    norms = []
    for number in range(2**40, 2**40 + 5):
        (task,) = UnequalSines().sample("train", [number], 0)  # type: ignore[misc]
        x, y = (part[0].double() for part in task.query)
        loss = nn.functional.mse_loss(functional_call(learner.inner_loop.model, start, (x,)), y)
        norms.append(float(sum(g.square().sum() for g in torch.autograd.grad(loss, list(start.values()))) ** 0.5))
    smoothness = 4 * 4.0 + 2 * 10.0 * 0.01 * sum(norms) / 5
    assert watch.rates == pytest.approx([1 / 12 / smoothness], rel=1e-6)
    with pytest.raises(ValueError, match="AdaptiveMetaStep: estimates L and rho of tasks of one size, got 2 sizes"):
        fit(tmp_path, learner, UnequalSines(), AdaptiveMetaStep(tasks=4), 4, 1)
