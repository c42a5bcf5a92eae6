"""The precisions that a Trainer can be told: each gives what it promises, is warned of with a figure, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from cases import OUTER, made
from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.engine.float32 import set_float32_precision
from litmaml.inner import SGD, HigherOptimizer
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.precision_checks import check_precision
from litmaml.models import MLP, Conv4
from litmaml.outer import EvolutionStrategies, FiniteDifference, GaussianSmoothing, OuterGradient, SecondOrder
from litmaml.rl import EvolutionOfReturns
from quiet_trainer import quiet_trainer


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    """The same weights, whatever the precision that a model is made in."""
    torch.manual_seed(0)
    return MLP(hidden=[8]).state_dict()


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def learner(start: dict[str, Tensor], **changes: Any) -> MetaLearner:
    model = MLP(hidden=[8])
    model.load_state_dict(start)
    defaults: dict[str, Any] = {"model": model, "loss": nn.MSELoss(), "metrics": {"mse": MeanSquaredError()}}
    optimizer: dict[str, Any] = {
        "inner_optimizer": SGD(2**-7, learn="tensor"),
        "optimizer": lambda w: torch.optim.SGD(w, 0.001),
    }
    return MetaLearner(**defaults | optimizer | {"inner_steps": 2} | changes)


def trainer(folder: Path, **changes: Any) -> Trainer:
    return quiet_trainer(folder, **{"max_epochs": 1} | changes)


def tasks() -> TaskDataModule:
    return TaskDataModule(
        Sinusoid(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=16, val_tasks=4, test_tasks=8
    )


def trained(folder: Path, module: MetaLearner, **changes: Any) -> Tensor:
    """What four outer steps, a validation and a test have changed in the weights and rates."""
    run = trainer(folder, **changes)
    before = nn.utils.parameters_to_vector(module.inner_loop.parameters()).detach()
    run.fit(module, tasks())
    run.test(module, tasks(), verbose=False)
    weights = list(module.inner_loop.parameters())
    assert len({weight.dtype for weight in weights}) == 1
    assert all(torch.isfinite(torch.tensor(curve[-1].mean)) for curve in module.results.values())
    return nn.utils.parameters_to_vector(weights).detach() - before.to(weights[0].dtype)


def relative(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true.double()).norm() / true.double().norm())


@pytest.fixture(scope="module")
def true(start: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    weights = trained(tmp_path_factory.mktemp("double"), learner(start), precision="64-true")
    assert weights.dtype == torch.float64
    return weights


def test_single_precision(start: dict[str, Tensor], tmp_path: Path, true: Tensor) -> None:
    weights = trained(tmp_path, learner(start))
    assert weights.dtype == torch.float32
    assert relative(weights, true) < 1e-4


@pytest.mark.usefixtures("double_by_default")
def test_double_precision_by_torch_s_default(start: dict[str, Tensor], tmp_path: Path, true: Tensor) -> None:
    """What a user's ``torch.set_default_dtype`` makes: model, rates and tasks are made in it."""
    weights = trained(tmp_path, learner(start))
    assert weights.dtype == torch.float64
    assert relative(weights, true) < 1e-12


@pytest.mark.parametrize("method", made(OUTER, samples=2))
def test_every_method_and_stateful_optimizer_runs_in_double_precision(
    start: dict[str, Tensor], method: Any, tmp_path: Path
) -> None:
    module = learner(start, outer_gradient=method, inner_optimizer=HigherOptimizer(options={"lr": 0.01}))
    assert trained(tmp_path, module, precision="64-true").dtype == torch.float64


def test_bfloat16_is_warned_of_with_its_error(start: dict[str, Tensor], tmp_path: Path, true: Tensor) -> None:
    with pytest.warns(UserWarning, match=r"under bf16-mixed the outer gradient of SecondOrder is off by up to 40%"):
        weights = trained(tmp_path, learner(start), precision="bf16-mixed")
    assert weights.dtype == torch.float32
    assert 1e-4 < relative(weights, true) < 0.05
    with pytest.warns(UserWarning, match=r"under bf16-true the outer gradient is off by up to 30%"):
        weights = trained(tmp_path, learner(start), precision="bf16-true")
    assert weights.dtype == torch.bfloat16


class TransformerEngine(Precision):
    """Stands for a precision whose packages are not there."""

    precision: Any = "transformer-engine"


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            MixedPrecision("16-mixed", "cpu"),
            "under 16-mixed inner gradients vanish.*off by 25 to 68%.*use 32-true .* or bf16",
        ),
        (HalfPrecision("16-true"), "under 16-true inner gradients vanish"),
        (TransformerEngine(), "transformer-engine replaces layers by others that have no second derivative"),
    ],
    ids=["16-mixed", "16-true", "transformer-engine"],
)
def test_what_is_refused(start: dict[str, Tensor], plugin: Precision, message: str, tmp_path: Path) -> None:
    for run in ("fit", "test"):
        with pytest.raises(ValueError, match=f"precision: .*{message}"):
            getattr(trainer(tmp_path, plugins=[plugin]), run)(learner(start), tasks())


@pytest.mark.parametrize(
    "method", [FiniteDifference(), EvolutionStrategies(), EvolutionOfReturns()], ids=lambda m: type(m).__name__
)
def test_coarse_weights_are_refused_for_probes(start: dict[str, Tensor], method: Any, tmp_path: Path) -> None:
    name = type(method).__name__
    with pytest.raises(ValueError, match=f"precision: bf16-true is too coarse for the probes of {name}"):
        trainer(tmp_path, precision="bf16-true").fit(
            learner(start, outer_gradient=method, inner_optimizer=SGD(0.01)), tasks()
        )


def test_rounding_convolutions_are_told_of() -> None:
    """Torch's own setting, on a GPU and in a program that has set nothing."""
    on_gpu: Any = SimpleNamespace(precision="32-true", strategy=SimpleNamespace(root_device=torch.device("cuda", 0)))
    conv4, mlp = Conv4(filters=4), MLP()
    torch.backends.cudnn.allow_tf32 = True
    with pytest.warns(UserWarning, match="float32_matmul_precision: torch rounds float32 convolutions to TF32 here"):
        check_precision(on_gpu, conv4, SecondOrder(), "fit")
    check_precision(on_gpu, mlp, SecondOrder(), "fit")
    set_float32_precision("highest")
    check_precision(on_gpu, conv4, SecondOrder(), "fit")


@pytest.mark.parametrize(("method", "figure"), [(SecondOrder(), "0.6%"), (GaussianSmoothing(2), "28%")], ids=type)
def test_tf32_is_warned_of_with_its_error(method: OuterGradient, figure: str) -> None:
    on_gpu: Any = SimpleNamespace(precision="32-true", strategy=SimpleNamespace(root_device=torch.device("cuda", 0)))
    exact: Any = SimpleNamespace(precision="64-true", strategy=on_gpu.strategy)
    model = MLP()
    set_float32_precision("high")
    try:
        with pytest.warns(UserWarning, match=f"under TF32 the outer gradient of {type(method).__name__} .* {figure}"):
            check_precision(on_gpu, model, method, "fit")
        check_precision(on_gpu, model, method, "test")
        check_precision(exact, model, method, "fit")
    finally:
        set_float32_precision("highest")
    check_precision(on_gpu, model, method, "fit")
