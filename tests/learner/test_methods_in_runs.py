"""What a run does for a method: residuals, groups of weights, schedules of the gradient, rounds of tasks, refusals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from litmaml.callbacks import DerivativeOrderAnnealing, Regret
from litmaml.data import Episode, FiniteTasks, OnlineTasks, Sinusoid, TaskDataModule
from litmaml.inner import SGD, HigherOptimizer, MetaCurvature, Proximal
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.residuals import Residuals
from litmaml.models import MLP
from litmaml.outer import (
    FirstOrder,
    HypergradientSGD,
    Implicit,
    MultiStepLoss,
    Reptile,
    SecondOrder,
    WorstCaseLoss,
)
from litmaml.problems import HalfSquaredLoss, LinearRegression
from litmaml.tasks import stacks_of
from quiet_trainer import quiet_trainer


def sinusoids(tasks: Any = None, **changes: Any) -> TaskDataModule:
    return TaskDataModule(
        tasks or Sinusoid(Episode(shots=5, queries=5)),
        **{"meta_batch": 4, "train_tasks": 16, "val_tasks": 4, "test_tasks": 8} | changes,
    )


def learner(**changes: Any) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(**{"model": MLP(hidden=[4]), "loss": nn.MSELoss()} | changes)


def test_residuals_are_logged(tmp_path: Path) -> None:
    module = learner(
        outer_gradient=Implicit(3), inner_optimizer=Proximal(SGD(0.02), 10.0, learn=True), inner_steps=16, rates_lr=0.1
    )
    trainer = quiet_trainer(tmp_path, max_epochs=1, log_every_n_steps=2, limit_val_batches=0)
    trainer.fit(module, sinusoids())
    found = {name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("stationarity", "solve")}
    assert 0 < found["stationarity"] < 0.5
    assert 0 < found["solve"] < 1
    assert float(module.inner_loop.learnt["strength"].detach()) != 10


@pytest.mark.parametrize(
    ("seen", "warned"),
    [([0.6], True), ([0.2, 0.2, 0.3], False), ([0.05, 0.2], True), ([0.01, 0.05], False), ([0.3, 0.05, 0.16], True)],
    ids=str,
)
def test_a_residual_that_is_large_or_grows_is_told_of_once(seen: list[float], warned: bool) -> None:
    residuals = Residuals()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for share in [*seen, *seen]:
            residuals.look({"stationarity": torch.tensor([share, share])})
    told = [str(w.message) for w in found if "no minimiser" in str(w.message)]
    assert len(told) == warned
    assert all("raise inner_optimizer.strength" in text for text in told)


def test_what_is_learnt_can_have_a_rate_of_its_own(tmp_path: Path) -> None:
    """Adam's first step is as long as the rate."""
    module = learner(inner_optimizer=SGD(0.01, learn="tensor"), rates_lr=1e-4, per_step_weights=["body.1.bias"])
    before = {name: weight.detach().clone() for name, weight in module.inner_loop.named_parameters()}
    quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, sinusoids())
    for name, weight in module.inner_loop.named_parameters():
        if weight.requires_grad:
            length = 1e-4 if name.startswith("learnt.rate") else 1e-3
            torch.testing.assert_close(
                (weight - before[name]).abs(), torch.full_like(weight, length), rtol=1e-2, atol=0
            )


class Saddle(nn.Module):
    """Curves downwards."""

    def forward(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -(predictions - targets).square().sum()


def test_a_task_that_implicit_cannot_be_taken_of_tells_of_the_strength(tmp_path: Path) -> None:
    module = learner(loss=Saddle(), outer_gradient=Implicit(), inner_optimizer=Proximal(SGD(0.001), 0.01))
    with pytest.raises(FloatingPointError, match=r"raise inner_optimizer.strength .*; or lower the inner rate"):
        quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, sinusoids())


class Orders(Callback):
    """Which outer gradient each step takes."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *others: Any) -> None:
        self.seen.append(type(pl_module.meta_gradient.outer_gradient).__name__)


def test_first_order_at_first(tmp_path: Path) -> None:
    module, orders = learner(), Orders()
    trainer = quiet_trainer(
        tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[DerivativeOrderAnnealing(epoch=1), orders]
    )
    trainer.fit(module, sinusoids(train_tasks=8))
    assert orders.seen == ["FirstOrder"] * 2 + ["SecondOrder"] * 4
    assert module.meta_gradient.outer_gradient is module.outer_gradient
    # As trained by each in turn.
    first = learner(outer_gradient=FirstOrder())
    quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(first, sinusoids(train_tasks=8))
    short = learner()
    annealed = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[DerivativeOrderAnnealing(epoch=1)])
    annealed.fit(short, sinusoids(train_tasks=8))
    for one, other in zip(first.parameters(), short.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rounds_bring_one_task_more_each() -> None:
    inner, every, draws = Sinusoid(Episode(shots=5, queries=5)), 3, 60
    online = OnlineTasks(inner, every)
    drawn = [online.drawn(k, seed=1) for k in range(draws)]
    assert all(task <= k // every for k, task in enumerate(drawn))
    assert drawn[:every] == [0] * every
    assert {k // every - task for k, task in enumerate(drawn)} >= {0, 1}  # the newest is drawn, too
    assert drawn != [online.drawn(k, seed=2) for k in range(draws)]
    for some in (range(10), range(7, 31)):
        found, true = online.sample("train", some, 1), inner.sample("train", [drawn[k] for k in some], 1)
        numbers = [n for stack in stacks_of(found) for n in stack.numbers.tolist()]
        assert sorted(numbers) == [*some]
        order = torch.tensor([numbers.index(k) for k in some])
        (stack,), (wanted,) = stacks_of(found), stacks_of(true)
        assert torch.equal(stack.support[0].inputs[order], wanted.support[0].inputs)
        assert torch.equal(stack.query.targets[order], wanted.query.targets)
    for split in ("val", "test"):
        (stack,), (wanted,) = (stacks_of(d.sample(split, range(4), 1)) for d in (online, inner))
        assert torch.equal(stack.query.targets, wanted.query.targets)


def test_draws_are_uniform_over_the_tasks_that_have_come() -> None:
    online = OnlineTasks(Sinusoid(), every=4000)
    counts = torch.bincount(torch.tensor([online.drawn(k, 0) for k in range(12_000, 16_000)]), minlength=4)
    assert len(counts) == 4
    assert (counts - 1000).abs().max() < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_regret_is_of_the_newest_tasks_before_they_are_trained_on(tmp_path: Path) -> None:
    def online(**changes: Any) -> TaskDataModule:
        return sinusoids(OnlineTasks(Sinusoid(Episode(shots=5, queries=5)), every=8), **changes)

    module, regret = learner(inner_steps=2), Regret()
    first = module.meta_gradient(Sinusoid(Episode(shots=5, queries=5)).sample("train", [0], 0)).losses
    trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[regret])
    trainer.fit(module, online())
    assert len(regret.losses) == 4
    assert regret.losses[0] == pytest.approx(float(first[0]), rel=1e-6)
    last = module.meta_gradient(Sinusoid(Episode(shots=5, queries=5)).sample("train", range(4), 0)).losses
    assert regret.regret == pytest.approx(sum(regret.losses) - float(last.sum()), rel=1e-5)
    # Within a batch they are not known any more.
    with pytest.raises(ValueError, match=r"data.tasks.every: .* got 8 draws for steps of 16"):
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[Regret()]).fit(learner(), online(meta_batch=16))
    with pytest.raises(
        ValueError, match=r"outer_loss: Regret compares one loss .*, got MultiStepLoss, .*; use MeanLoss"
    ):
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[Regret()]).fit(learner(outer_loss=MultiStepLoss()), online())
    with pytest.raises(ValueError, match=r"data.tasks: Regret is of OnlineTasks, got Sinusoid"):
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[Regret()]).fit(learner(), sinusoids())


def quadratics(pool: int | None) -> TaskDataModule:
    return sinusoids(LinearRegression(size=3, curvature=(0.2, 3.0), pool=pool))


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (5, r"outer_loss.tasks: .* got 4 for 5 tasks; give both one number"),
        (None, r"outer_loss.tasks: .* got 4 for tasks without end \(of LinearRegression\)"),
    ],
)
def test_the_worst_tasks_are_of_as_many_as_there_are(pool: int | None, message: str, tmp_path: Path) -> None:
    module = learner(model=nn.Linear(3, 1, bias=False), loss=HalfSquaredLoss(), outer_loss=WorstCaseLoss(4, 0.1))
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path, max_epochs=1).fit(module, quadratics(pool))


def test_the_worst_tasks_come_to_count_more(tmp_path: Path) -> None:
    worst = WorstCaseLoss(4, 0.1)
    module = learner(
        model=nn.Linear(3, 1, bias=False),
        loss=HalfSquaredLoss(),
        outer_loss=worst,
        inner_optimizer=SGD(0.2),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )
    data = quadratics(4)
    before = module.meta_gradient(data.tasks.render(data.tasks.sample("train", range(4), 0))).losses  # type: ignore[arg-type]
    quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, data)
    assert int(worst.p.argmax()) == int(before.argmax())
    assert float(worst.p.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rates_lr": 0.1}, r"rates_lr: the inner optimizer learns nothing, got 0.1; set inner_optimizer.learn"),
        (
            {"rates_lr": 0.1, "per_step_weights": ["body.1.bias"]},
            r"rates_lr: the inner optimizer learns nothing, got 0.1",
        ),
        (
            {"rates_lr": -1.0, "inner_optimizer": SGD(learn="one")},
            r"rates_lr: has to be a positive number, got -1.0",
        ),
        (
            {"outer_gradient": Reptile(), "inner_optimizer": SGD(learn="one")},
            r"inner_optimizer: what it learns \(rate\) has no gradient with Reptile .*; set learn to none",
        ),
        (
            {"outer_gradient": Reptile(), "fast_weights": ["head.*"]},
            r"fast_weights: Reptile moves what is adapted, and body.1.weight, body.1.bias would stay",
        ),
        (
            {"outer_gradient": Reptile(), "per_step_weights": ["head.*"]},
            r"fast_weights: Reptile moves what is adapted, and head.weight, head.bias would stay",
        ),
        ({"outer_gradient": Reptile(), "outer_loss": MultiStepLoss()}, r"outer_loss: MultiStepLoss takes terms along"),
        ({"outer_gradient": Implicit()}, r"inner_optimizer: Implicit differentiates the minimiser .*, got SGD; put it"),
        (
            {"outer_gradient": Implicit(), "inner_optimizer": MetaCurvature(Proximal(SGD()))},
            r"inner_optimizer: Implicit differentiates the minimiser .*, got MetaCurvature",
        ),
        (
            {"outer_gradient": Implicit(), "inner_optimizer": Proximal(MetaCurvature(SGD()))},
            r"inner_optimizer: what it learns \(curvature.body.1.weight.0, .* has no gradient with Implicit",
        ),
        (
            {"outer_gradient": Implicit(), "inner_optimizer": Proximal(SGD(weight_decay=0.1))},
            r"inner_optimizer.weight_decay: moves the minimiser",
        ),
        (
            {"outer_gradient": Implicit()}
            | {"inner_optimizer": Proximal(HigherOptimizer("torch.optim.SGD", {"lr": 0.1, "weight_decay": 0.1}))},
            r"inner_optimizer.options.weight_decay: moves the minimiser",
        ),
        (  # which decays by itself
            {"outer_gradient": Implicit(), "inner_optimizer": Proximal(HigherOptimizer("torch.optim.ASGD"))},
            r"inner_optimizer.options.lambd: moves the minimiser",
        ),
        (
            {"outer_gradient": Implicit(), "inner_optimizer": Proximal(SGD(), 0.0)},
            r"inner_optimizer.strength: Implicit needs one above 0",
        ),
        (
            {"outer_gradient": Implicit(), "inner_optimizer": Proximal(SGD()), "per_step_weights": ["head.*"]},
            r"per_step_weights: the loss of all steps has to be one with Implicit, got head.weight",
        ),
        (
            {"model": nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5), nn.Linear(2, 1)), "outer_gradient": Implicit()}
            | {"inner_optimizer": Proximal(SGD())},
            r"model: 1 \(Dropout\) draws anew in each probe of Implicit",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:45],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**given)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Proximal, {"optimizer": 0.1}, r"optimizer: Proximal is around another inner optimizer, got 0.1; give it one"),
        (MetaCurvature, {"optimizer": "SGD"}, r"optimizer: MetaCurvature is around another .*, got 'SGD'; give it one"),
        (MultiStepLoss, {"loss": "MSELoss"}, r"loss: has to be a module, got 'MSELoss'; give one"),
        (OnlineTasks, {"tasks": 3, "every": 2}, r"tasks: has to be a distribution of tasks, got 3; give one"),
        (FiniteTasks, {"tasks": None, "pool": 2}, r"tasks: has to be a distribution of tasks, got None; give one"),
    ],
)
def test_other_objects_are_refused(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**given)


@pytest.mark.parametrize("product", [FirstOrder(), Reptile(), Implicit()], ids=lambda product: type(product).__name__)
def test_what_gives_no_hessian_products_is_refused(product: Any) -> None:
    with pytest.raises(ValueError, match=rf"product: has to give Hessian products, got {type(product).__name__}; use"):
        Implicit(product=product)


@pytest.mark.parametrize(
    ("episode", "given", "message"),
    [
        (
            Episode(shots=5, queries=5, support_batches=2),
            {"outer_gradient": Implicit(), "inner_optimizer": Proximal(SGD(), 10.0), "inner_steps": 2},
            r"support_batches, hessian_batches: Implicit differentiates the minimiser of one loss, got 2 and 0",
        ),
        (
            Episode(shots=5, queries=5, hessian_batches=1),
            {"outer_gradient": Reptile()},
            r"hessian_batches: Reptile takes no Hessian products, got 1",
        ),
    ],
)
def test_batches_that_would_not_be_used_are_refused(
    episode: Episode, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(learner(**given), sinusoids(Sinusoid(episode)))


def test_schedules_that_would_fight_are_refused(tmp_path: Path) -> None:
    module = learner(
        optimizer=HypergradientSGD, lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)
    )
    with pytest.raises(ValueError, match=r"model.lr_scheduler: HypergradientSGD sets its rate itself"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, sinusoids())
    for method, name in ((FirstOrder(), "FirstOrder"), (Reptile(), "Reptile")):
        callbacks = [DerivativeOrderAnnealing()]
        with pytest.raises(ValueError, match=rf"outer_gradient: DerivativeOrderAnnealing .*, got {name}"):
            quiet_trainer(tmp_path, max_steps=1, callbacks=callbacks).fit(learner(outer_gradient=method), sinusoids())
    with pytest.raises(ValueError, match="epoch: has to be at least 1, got 0"):
        DerivativeOrderAnnealing(0)
    assert isinstance(learner().outer_gradient, SecondOrder)


@pytest.mark.parametrize(
    ("argument", "recipe"),
    [
        ("outer_loss", {"class_path": "litmaml.outer.WorstCaseLoss", "init_args": {"tasks": 10**11, "rate": 0.1}}),
        (
            "model",
            {"class_path": "litmaml.models.ContextMLP", "init_args": {"hidden": [4], "context_size": 10**10}},
        ),
    ],
)
def test_a_file_that_asks_for_more_than_it_holds_is_refused(
    argument: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(learner(), sinusoids())
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    saved["hyper_parameters"][argument] = recipe
    torch.save(saved, tmp_path / "y.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint\..*numbers, and the file has \d+; they were not made"):
        MetaLearner.load_from_checkpoint(tmp_path / "y.ckpt")
    MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt")
