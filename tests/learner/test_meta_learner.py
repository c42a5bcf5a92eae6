"""The LightningModule: what it refuses, what it logs, what a checkpoint of it brings back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from oracles import assert_close
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanSquaredError

from cases import OUTER, made
from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.inner import SGD, HigherOptimizer
from litmaml.learner.checks import check_labels
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP, Conv4
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    OuterGradient,
    OuterLoss,
    PathGradient,
    SecondOrder,
    ZerothOrder,
)
from litmaml.outer.gradient import Point
from litmaml.tasks import Batch, Tasks, stacks_of
from litmaml.weights import Params, Weights
from quiet_trainer import quiet_trainer


def sinusoids(**changes: Any) -> TaskDataModule:
    return TaskDataModule(
        Sinusoid(Episode(shots=5, queries=5)),
        **{"meta_batch": 4, "train_tasks": 16, "val_tasks": 4, "test_tasks": 8} | changes,
    )


def learner(**changes: Any) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(**{"model": MLP(hidden=[8]), "loss": nn.MSELoss()} | changes)


def trainer(folder: Path, **changes: Any) -> Trainer:
    return quiet_trainer(folder, **{"max_epochs": 1, "log_every_n_steps": 2} | changes)


@pytest.mark.parametrize("outer_gradient", made(OUTER, samples=2))
def test_every_outer_gradient_trains_in_fit(outer_gradient: OuterGradient, tmp_path: Path) -> None:
    module = learner(outer_gradient=outer_gradient, metrics={"mse": MeanSquaredError()})
    before = [weight.clone() for weight in module.inner_loop.parameters()]
    fit = trainer(tmp_path)
    fit.fit(module, sinusoids())
    assert fit.global_step == 4
    assert any((now != then).any() for now, then in zip(module.inner_loop.parameters(), before, strict=True))
    logged = {
        "train/loss",
        "train/loss_before",
        "train/mse",
        "train/mse_before",
        "val/loss",
        "val/mse_step_1",
    }
    assert logged <= set(fit.callback_metrics)


def test_gradient_of_fit_is_that_of_the_meta_gradient(tmp_path: Path) -> None:
    module, data = learner(optimizer=lambda p: torch.optim.SGD(p, lr=1.0)), sinusoids(train_tasks=4)
    expected = {n: w.detach().clone() for n, w in module.inner_loop.named_parameters()}
    gradients = module.meta_gradient(data.tasks.sample("train", range(4), 0)).gradients
    trainer(tmp_path, limit_val_batches=0).fit(module, data)
    for name, weight in module.inner_loop.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name] - gradients[name])


def test_directions_follow_the_seed_of_the_data(tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        module = learner(outer_gradient=ZerothOrder(samples=2))
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, sinusoids(seed=seed))
        assert module.meta_gradient.seed == seed
        found.append(torch.cat([weight.detach().flatten() for weight in module.inner_loop.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def _note_format(formats: list[bool], layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
    (images,) = inputs
    formats.append(images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous())


def test_channels_last_is_the_same_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 1, 16, 16, dtype=torch.float64, generator=draw)
    batch = Batch(images, torch.arange(3).expand(2, -1))
    tasks = Tasks((batch,), batch._replace(inputs=images.flip(0)), torch.arange(2))
    found = {}
    for switch in (False, True):
        torch.manual_seed(0)
        model = Conv4(ways=3, filters=4, size=16).double()
        module = MetaLearner(model, SGD(0.1), channels_last=switch, tasks_per_chunk=1)  # in which formats are seen
        kernel = module.inner_loop.model.get_parameter("body.4.weight")
        assert kernel.is_contiguous(memory_format=torch.channels_last) == switch
        formats: list[bool] = []
        for layer in module.inner_loop.model.modules():
            if isinstance(layer, nn.MaxPool2d):  # after the convolution and batch norm of a block
                layer.register_forward_hook(partial(_note_format, formats))
        found[switch] = module.meta_gradient(tasks).gradients
        assert set(formats) == {switch}
        assert module.hparams["channels_last"] == switch
    assert_close(found[True], found[False], rtol=1e-10, atol=1e-12)


def test_accumulation_and_clipping_are_lightnings(tmp_path: Path) -> None:
    """Four batches accumulated are one batch of all tasks, clipped alike."""

    def weights(**settings: Any) -> torch.Tensor:
        module = learner(optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
        data = sinusoids(meta_batch=settings.pop("meta_batch"))
        trainer(tmp_path, limit_val_batches=0, gradient_clip_val=0.1, **settings).fit(module, data)
        return torch.cat([w.detach().flatten() for w in module.inner_loop.parameters()])

    torch.testing.assert_close(weights(meta_batch=4, accumulate_grad_batches=4), weights(meta_batch=16))


def test_evaluation_reports_every_inner_step_and_leaves_the_model(tmp_path: Path) -> None:
    module = learner(inner_steps=1, test_inner_steps=3)
    before = {n: w.clone() for n, w in module.state_dict().items()}
    trainer(tmp_path).test(module, sinusoids(), verbose=False)
    assert len(module.results["loss"]) == 4
    assert module.results["loss"][3].mean < module.results["loss"][0].mean
    assert module.results["loss"][3].half_width > 0
    assert all(torch.equal(w, before[n]) for n, w in module.state_dict().items())


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), SGD(lr=0.1, learn="one"), HigherOptimizer(options={"lr": 0.1})])
def test_evaluation_agrees_with_unrolling_by_hand(tmp_path: Path, optimizer: Any, inference_mode: bool) -> None:
    module, data = learner(inner_optimizer=optimizer, inner_steps=2), sinusoids(test_tasks=4)
    with torch.no_grad():
        for weight in module.inner_loop.learnt.parameters():
            weight.fill_(0.05)
    trainer(tmp_path, inference_mode=inference_mode).test(module, data, verbose=False)
    (sampled,) = stacks_of(data.tasks.sample("test", range(4), 0))
    tasks = data.tasks.render(sampled)
    loop = module.inner_loop
    losses, _ = SecondOrder().solve(loop, OuterLoss(), *loop.start(tasks), tasks, 2)
    assert module.results["loss"][-1].mean == pytest.approx(float(losses.detach().mean()), rel=1e-5)


def test_predict_gives_adapted_predictions(tmp_path: Path) -> None:
    module, data = learner(), sinusoids()
    batches: Any = trainer(tmp_path).predict(module, data)
    assert [n for batch in batches for n in batch["numbers"].tolist()] == list(range(8))
    assert batches[0]["predictions"].shape == (4, 5, 1)


class Poisoned(Sinusoid):
    """Task 5 of training has an infinite target."""

    def sample(self, split: Any, numbers: Any, seed: int) -> Tasks:
        tasks = super().sample(split, numbers, seed)
        targets = tasks.query.targets.clone()
        targets[[i for i, n in enumerate(numbers) if n == 5]] = float("inf")
        return tasks._replace(query=Batch(tasks.query.inputs, targets))


def test_task_that_is_not_finite_stops_the_run_with_its_number(tmp_path: Path) -> None:
    data = TaskDataModule(Poisoned(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=16, val_tasks=1)
    with pytest.raises(FloatingPointError, match=r"train task 5 is not finite \(1 of 4 tasks.*on_nonfinite"):
        trainer(tmp_path, limit_val_batches=0).fit(learner(), data)


def test_task_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    data = TaskDataModule(Poisoned(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=16, val_tasks=1)
    module, fit = learner(on_nonfinite="skip"), trainer(tmp_path, limit_val_batches=0)
    fit.fit(module, data)
    assert module.skipped_tasks == 1
    assert fit.callback_metrics["train/skipped_tasks"] == 1
    assert all(w.isfinite().all() for w in module.inner_loop.parameters())


def half(model: nn.Module) -> nn.Module:
    return model.to(torch.bfloat16)


class LearntLoss(nn.MSELoss):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))


class Half(PathGradient):
    """An outer gradient of somebody's own, whose product takes the losses again."""

    def hop(self, at: Point, vector: Params) -> Weights:
        fast, slow = SecondOrder().hop(at, vector)
        return Weights({name: part / 2 for name, part in fast.items()}, slow)


class HalfOfKnown(Half):
    repeats = False


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {
            "model": nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1)),
            "outer_gradient": FiniteDifference(),
        },
        r"1 \(Dropout\) draws anew in each probe of FiniteDifference.*set dropout to 0",
    ),
    (
        {"model": nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))},
        r"1 \(BatchNorm1d\) would share running statistics between tasks; set batch_norm to batch",
    ),
    (
        {"model": half(MLP()), "outer_gradient": ZerothOrder()},
        r"torch.bfloat16, too coarse for the probes of ZerothOrder",
    ),
    (
        {"model": nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1)), "outer_gradient": Half()},
        r"1 \(Dropout\) draws anew where Half takes the loss of an inner step again.*set repeats = False .* or use Se",
    ),
    ({"model": MLP}, r"model: takes an object, got the class MLP; write MLP\(\.\.\.\)"),
    (
        {"inner_optimizer": FirstOrder()},
        r"inner_optimizer: takes a litmaml\.inner\.InnerOptimizer, got FirstOrder; give ",
    ),
    (
        {"outer_gradient": SecondOrder},
        r"outer_gradient: takes an object, got the class SecondOrder; write Sec",
    ),
    (
        {"outer_gradient": "Reptile"},
        r"outer_gradient: takes a litmaml\.outer\.OuterGradient, got 'Reptile'; give",
    ),
    ({"loss": nn.functional.mse_loss}, r"loss: takes a torch\.nn\.Module, got function; give such as torch\.nn\.Cross"),
    ({"outer_loss": nn.MSELoss()}, r"outer_loss: takes a litmaml\.outer\.OuterLoss, got MSELoss; give such as"),
    ({"loss": LearntLoss()}, r"loss: its trainable parameter 'weight' is in no weight set"),
    (
        {"fast_weights": ["tail.*"]},
        r"fast_weights: 'tail\.\*' fits none of the model's trainable parameters: body",
    ),
    ({"inner_steps": 0}, r"inner_steps: has to be at least 1, got 0"),
    ({"test_inner_steps": -1}, r"test_inner_steps: has to be at least 1, got -1"),
    ({"on_nonfinite": "ignore"}, r"on_nonfinite: got 'ignore'"),
    ({"tasks_per_chunk": 0}, r"tasks_per_chunk: has to be at least 1, got 0"),
    ({"model": nn.Sequential(nn.LazyLinear(3))}, r"model: 0.weight has no shape yet"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[m[:25] for _, m in REFUSED])
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")  # torch says so of LazyLinear
def test_construction_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**arguments)


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_dropout_is_taken_where_no_loss_is_taken_again() -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1))
    assert isinstance(learner(model=model, outer_gradient=HalfOfKnown()).outer_gradient, HalfOfKnown)
    assert not FirstOrder().repeats


def test_second_derivatives_are_tried_for_an_outer_gradient_of_ones_own() -> None:
    assert Half().twice
    assert not HalfOfKnown().twice
    assert not any(choice.twice for choice in (FirstOrder(), FiniteDifference(), GaussianSmoothing(), ZerothOrder()))


def test_kinks_are_warned_of_with_probes() -> None:
    with pytest.warns(UserWarning, match=r"FiniteDifference across the kinks of body.2 \(ReLU\)"):
        learner(model=MLP(hidden=[4], activation="relu"), outer_gradient=FiniteDifference())


def test_more_classes_than_logits_are_refused(tmp_path: Path) -> None:
    x, y = torch.randn(2, 6, 1, 28, 28), torch.arange(6).repeat(2, 1)
    tasks = Tasks((Batch(x, y),), Batch(x, y), torch.arange(2))
    module = MetaLearner(Conv4(ways=5, filters=4))
    with pytest.raises(ValueError, match="ways: the tasks have 6 classes, but the model gives 5 logits"):
        check_labels(module.inner_loop, tasks)


@pytest.mark.parametrize(
    "changes", [{}, {"inner_optimizer": SGD(0.1, learn="tensor", per_step=True), "inner_steps": 2}]
)
def test_checkpoint_rebuilds_the_learner(tmp_path: Path, changes: dict[str, Any]) -> None:
    module = learner(**changes, outer_gradient=FiniteDifference(radius=0.01), metrics={"mse": MeanSquaredError()})
    fit = trainer(tmp_path)
    fit.fit(module, sinusoids())
    fit.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    again = MetaLearner.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.hparams == module.hparams
    assert isinstance(again.outer_gradient, FiniteDifference)
    assert again.outer_gradient.radius == 0.01
    for name, weight in module.inner_loop.state_dict().items():
        assert torch.equal(weight, again.inner_loop.state_dict()[name])
    # What is given wins over what was recorded; per-step rates of more steps go on with the last.
    more = MetaLearner.load_from_checkpoint(tmp_path / "a.ckpt", inner_steps=4)
    assert more.inner_steps == 4


def test_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    fit = trainer(tmp_path)
    fit.fit(learner(), sinusoids())
    fit.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    with pytest.raises(ValueError, match=r"(?s)another architecture.*size mismatch for inner_loop.model.body.1.weight"):
        MetaLearner.load_from_checkpoint(tmp_path / "a.ckpt", model=MLP(hidden=[9]))


class Undescribed(nn.Module):
    """Does not keep its argument."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, width)
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.layer(x)))
        return out


def test_model_that_has_no_recipe_is_warned_of_and_passed_again(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="will not rebuild model by themselves.*does not keep its argument 'width'"):
        module = learner(model=Undescribed(3))
    fit = trainer(tmp_path)
    fit.fit(module, sinusoids())
    fit.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    with pytest.raises(ValueError, match="model: the checkpoint has no recipe for it; pass model="):
        MetaLearner.load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="will not rebuild model"):
        again = MetaLearner.load_from_checkpoint(tmp_path / "a.ckpt", model=Undescribed(3))
    assert torch.equal(next(again.parameters()), next(module.parameters()))


def test_frozen_parameters_stay_and_anil_adapts_the_head_alone(tmp_path: Path) -> None:
    module = learner(fast_weights=["head.*"])
    model = module.inner_loop.model
    model.get_parameter("body.1.bias").requires_grad_(False)
    frozen = model.get_parameter("body.1.bias").clone()
    trainer(tmp_path).fit(module, sinusoids())
    assert torch.equal(model.get_parameter("body.1.bias"), frozen)
    assert module.inner_loop.fast_names == ["head.weight", "head.bias"]


class Freezing(BaseFinetuning):
    """Lightning's own way to freeze a body at first: before training, and so after the learner was made."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        self.freeze(pl_module.inner_loop.model.get_submodule("body"))

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        return None


def test_a_callback_that_freezes_what_is_adapted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: .* no longer trainable, .*; freeze or unfreeze the model before"):
        trainer(tmp_path, callbacks=[Freezing()]).fit(learner(), sinusoids())
    trainer(tmp_path, callbacks=[Freezing()]).fit(learner(fast_weights=["head.*"]), sinusoids())


def test_weights_that_are_unfrozen_in_training_are_refused(tmp_path: Path) -> None:
    class Unfreezing(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, MetaLearner)
            pl_module.inner_loop.model.requires_grad_(True)

    model = MLP(hidden=[8])
    model.body.requires_grad_(False)
    with pytest.raises(ValueError, match=r"model: body.* trainable only now"):
        trainer(tmp_path, callbacks=[Unfreezing()]).fit(learner(model=model), sinusoids())


def test_a_frozen_learner_is_tested_as_before(tmp_path: Path) -> None:
    found = []
    for frozen in (False, True):
        module = learner()
        if frozen:
            module.freeze()
        trainer(tmp_path).test(module, sinusoids(), verbose=False)
        found.append([result.mean for result in module.results["loss"]])
    assert found[0] == found[1]


class Distances(nn.Module):
    """Has no second derivative in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.head(torch.tanh(self.body(x))) + 1e-3 * nn.functional.pdist(self.body.weight).sum()
        return predicted


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch, of what it maps slowly
def test_a_model_without_second_derivative_is_tested_and_not_trained(tmp_path: Path) -> None:
    module = learner(model=Distances())
    trainer(tmp_path).test(module, sinusoids(), verbose=False)
    assert len(module.results["loss"]) == 2
    with pytest.raises(ValueError, match="no second derivative exists"):
        trainer(tmp_path).fit(module, sinusoids())


def test_loss_falls_in_training(tmp_path: Path) -> None:
    module = learner(
        model=MLP(hidden=[20, 20]),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        inner_optimizer=SGD(0.02),
    )
    data = sinusoids(meta_batch=10, train_tasks=1000, test_tasks=100)
    run = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    run.test(module, data, verbose=False)
    untrained = module.results["loss"][-1].mean
    run.fit(module, data)
    run.test(module, data, verbose=False)
    assert module.results["loss"][-1].mean < 0.7 * untrained
