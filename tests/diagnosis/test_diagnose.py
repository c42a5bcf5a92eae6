"""The whole diagnosis: what it advises, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from constructed_tasks import HalfSquare, linear, quadratics, tasks_of
from rich.console import Console
from torch import Tensor, nn

from litmaml import diagnosis
from litmaml.data import Episode, Omniglot, Sinusoid
from litmaml.diagnosis.batch_sizes import noise_scale
from litmaml.diagnosis.report import print_diagnosis, write_diagnosis
from litmaml.inner import SGD, HigherOptimizer, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.learner.meta_learner import MetaLearner
from litmaml.measure.stability import stability
from litmaml.measure.theory import outer_smoothness
from litmaml.models import MLP, Conv4
from litmaml.outer import EvolutionStrategies, Implicit, OuterGradient, Reptile, SecondOrder
from litmaml.tasks import Batch, Tasks, stacks_of, tree_map
from unequal import UnequalSines


def _sines(tasks: int = 16, split: Any = "train") -> Tasks:
    sinusoid = Sinusoid()
    return sinusoid.render(sinusoid.sample(split, range(tasks), 0))


def _choices(found: diagnosis.Diagnosis) -> dict[str, tuple[str, str]]:
    return {choice.what: (choice.value, choice.reason) for choice in found.advice.choices}


def _images(tasks: int) -> Tasks:
    stream = torch.Generator().manual_seed(0)
    shapes = torch.rand(tasks, 5, 1, 1, 28, 28, generator=stream)
    noisy = (shapes + 0.3 * torch.rand(tasks, 5, 4, 1, 28, 28, generator=stream)).transpose(1, 2).flatten(1, 2)
    labels = torch.arange(5).repeat(tasks, 4)
    return Tasks((Batch(noisy[:, :5], labels[:, :5]),), Batch(noisy[:, 5:], labels[:, 5:]), torch.arange(tasks))


def _moves(tasks: Tasks, rate: float, steps: int) -> Tensor:
    """The distance from the optimum, as a share of its start, after several times N inner steps."""
    inner_loop: InnerLoop = MetaLearner(
        linear(torch.ones(6).double()), SGD(rate), loss=HalfSquare(), inner_steps=steps
    ).inner_loop
    rows, targets = tasks.support[0].inputs, tasks.support[0].targets
    centres = torch.linalg.lstsq(rows, targets).solution[..., 0]
    *_, last = inner_loop.path(tasks, 20 * steps)
    return (last["weight"][:, 0] - centres).norm(dim=1) / (1 - centres).norm(dim=1)


@pytest.mark.parametrize(
    ("steps", "configured"), [(1, 0.01), (1, 3.0), (5, 3.0), pytest.param(20, 3.0, marks=pytest.mark.slow)]
)
def test_the_recommended_inner_rate_is_stable_and_beyond_the_largest_is_not(steps: int, configured: float) -> None:
    tasks = quadratics(tasks=4)
    model = linear(torch.ones(6).double())
    rate = configured / 5  # L is about 3.5
    found = diagnosis.diagnose(MetaLearner(model, SGD(rate), loss=HalfSquare(), inner_steps=steps), tasks)
    rates = found.advice.rates
    assert rates.ji_corollary < rates.ji < rates.fallah < rates.stable
    assert bool((_moves(tasks, rates.recommended, steps) < 1).all())
    assert bool((_moves(tasks, 0.98 * rates.stable, steps) < 1).all())
    assert bool((_moves(tasks, 1.5 * rates.stable, steps) > 1).any())
    assert (rates.recommended == rate) == (configured == 0.01)
    assert ("at these weights" in _choices(found)["inner rate"][1]) == (configured == 3.0)


def test_a_smooth_network_gets_the_exact_gradient_or_finite_differences() -> None:
    torch.manual_seed(0)
    found = diagnosis.diagnose(MetaLearner(MLP(init="fan_in"), SGD(0.01), loss=nn.MSELoss()), _sines(8))
    choices = _choices(found)
    assert choices["outer gradient"][0] in ("SecondOrder", "FiniteDifference")
    assert choices["probe length"][0].startswith("the default")
    assert found.probes is not None
    assert found.probes.best_error < 1e-3
    assert choices["second order"][0] == "worth its cost"
    assert found.advice.first_order_distance > 0.2


def test_at_a_tiny_rate_first_order_is_as_good() -> None:
    torch.manual_seed(0)
    found = diagnosis.diagnose(MetaLearner(MLP(init="fan_in"), SGD(5e-4), loss=nn.MSELoss()), _sines(4))
    assert _choices(found)["outer gradient"][0] == "FirstOrder"
    assert "not worth" in _choices(found)["second order"][0]


@pytest.mark.slow
def test_conv4_with_batch_norm_is_told_to_keep_off_finite_differences() -> None:
    torch.manual_seed(0)
    found = diagnosis.diagnose(MetaLearner(Conv4(filters=8), SGD(0.4)), _images(4), probed_tasks=2)
    value, reason = _choices(found)["probe length"]
    assert "unreliable" in value
    assert "ReLU" in reason
    assert "Use SecondOrder" in reason
    assert _choices(found)["outer gradient"][0] == "SecondOrder"
    assert found.advice.meta_step.value is None
    assert any("batch norm" in remark for remark in found.remarks)


@pytest.mark.slow
def test_conv4_on_real_omniglot(omniglot: Path | None) -> None:
    if omniglot is None:
        pytest.skip("LITMAML_DATA names no folder with omniglot")
    torch.manual_seed(0)
    data = Omniglot(root=str(omniglot), split_by="character", rotations=True, train=Episode(queries=5))
    data.load("train")
    tasks = data.render(data.sample("train", range(32), 0))
    found = diagnosis.diagnose(MetaLearner(Conv4(), SGD(0.4)), tasks)
    value, reason = _choices(found)["probe length"]
    assert "unreliable" in value
    assert "batch norm" in reason
    assert _choices(found)["outer gradient"][0] == "SecondOrder"
    finite = next(row for row in found.estimators if row.name == "FiniteDifference()")
    assert finite.error is not None
    assert finite.error > 0.1


@pytest.mark.slow
def test_on_the_sinusoid_it_agrees_with_what_training_shows() -> None:
    """First order ends at a larger loss than the exact gradient, and the diagnosis said so before and after."""
    from litmaml.outer import FirstOrder

    sinusoid, test = Sinusoid(), _sines(400, "test")

    def trained(outer_gradient: OuterGradient) -> tuple[MetaLearner, float]:
        torch.manual_seed(0)
        learner = MetaLearner(MLP(init="fan_in"), SGD(0.01), outer_gradient, nn.MSELoss())
        before = diagnosis.diagnose(learner, _sines(24))
        assert _choices(before)["outer gradient"][0] in ("SecondOrder", "FiniteDifference")
        weights = dict(learner.inner_loop.named_parameters())
        adam = torch.optim.Adam(weights.values(), 1e-3)
        for step in range(2000):
            tasks = sinusoid.render(sinusoid.sample("train", range(25 * step, 25 * step + 25), 1))
            for name, gradient in learner.meta_gradient(tasks).gradients.items():
                weights[name].grad = gradient
            adam.step()
        *_, fast = learner.inner_loop.path(test, 1)
        with torch.no_grad():
            return learner, float(learner.inner_loop.losses(fast, {}, test.query).mean())

    learner, exact = trained(SecondOrder())
    _, first = trained(FirstOrder())
    assert exact < 0.9 * first
    after = diagnosis.diagnose(learner, _sines(24))
    assert _choices(after)["second order"][0] == "worth its cost"
    assert after.advice.first_order_distance > 0.2
    assert after.probes is not None
    assert after.probes.best_error < 1e-3


def test_nothing_of_the_learner_is_changed() -> None:
    learner = MetaLearner(MLP(hidden=[8]), SGD(0.01, learn="tensor", per_step=True), loss=nn.MSELoss(), inner_steps=2)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.inner_loop.train()
    found = diagnosis.diagnose(learner, _sines(4))
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])
    assert learner.inner_loop.training
    assert all(weight.grad is None for weight in learner.parameters())
    assert any("inner rates are learnt" in remark for remark in found.remarks)


class _Dropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


def test_dropout_is_switched_off_and_probes_are_refused() -> None:
    learner = MetaLearner(_Dropout(), SGD(0.05), loss=nn.MSELoss())
    found = diagnosis.diagnose(learner, _sines(4))
    assert found.probes is None
    assert _choices(found)["probe length"][0] == "none"
    assert "layers.2 (Dropout)" in _choices(found)["probe length"][1]
    assert any("switched off" in remark for remark in found.remarks)
    print_diagnosis(found, Console(file=io.StringIO()))


def test_dropout_in_evaluation_is_none() -> None:
    model = _Dropout()
    model.layers[2].eval()
    learner = MetaLearner(model, SGD(0.05), loss=nn.MSELoss())
    for each in (learner, learner.eval()):
        found = diagnosis.diagnose(each, _sines(4))
        assert found.probes is not None
        assert not any("switched off" in remark for remark in found.remarks)


def test_adam_in_the_inner_loop_is_outside_the_theory() -> None:
    inner = HigherOptimizer("torch.optim.Adam", {"lr": 0.01})
    found = diagnosis.diagnose(MetaLearner(MLP(hidden=[8]), inner, loss=nn.MSELoss()), _sines(4))
    assert "plain gradient steps" in _choices(found)["inner rate"][1]
    assert found.advice.meta_step.value is None


def test_the_noise_scale() -> None:
    stream = torch.Generator().manual_seed(0)
    mean, deviation, size = 0.5, 2.0, 100
    inside = 0
    for _ in range(40):
        scale = noise_scale(mean + deviation * torch.randn(30, size, generator=stream))
        assert scale.low is not None
        assert scale.high is not None
        inside += scale.low <= deviation**2 / mean**2 <= scale.high
    assert inside >= 34
    assert noise_scale(torch.randn(30, size, generator=stream)).value is None


def test_the_outer_smoothness_of_one_step_is_continuous_at_the_largest_rate_of_fallah_et_al() -> None:
    size, rho, norm = 3.0, 2.0, 5.0
    below, above = (outer_smoothness(size, rho, rate, 1, norm) for rate in (1 / size, (1 + 1e-9) / size))
    assert below == pytest.approx(4 * size + 2 * rho / size * norm)
    assert above == pytest.approx(below, rel=1e-6)
    assert outer_smoothness(1e6, rho, 1.0, 10**4, norm) == float("inf")


def test_the_report(tmp_path: Path) -> None:
    found = diagnosis.diagnose(MetaLearner(MLP(hidden=[8]), SGD(0.01), loss=nn.MSELoss()), _sines(4))
    console = Console(record=True, width=80, file=io.StringIO())
    print_diagnosis(found, console)
    text = console.export_text()
    for part in ("Curvature and noise", "FiniteDifference", "Recommended", "probe length", "meta-batch"):
        assert part in text
    assert "…" not in text  # nothing is cut off at 80 columns
    files = write_diagnosis(found, tmp_path / "run")
    read = json.loads(files[0].read_text())
    assert read["curvature"]["smoothness"]["value"] == pytest.approx(found.curvature.smoothness.value)
    assert {row["name"] for row in read["estimators"]} >= {"SecondOrder()", "FirstOrder()"}
    assert files[1].read_bytes().startswith(b"\x89PNG")


# Bad input


class _Distances(nn.Module):
    """cdist with p = 3 has a first derivative in torch and no second one."""

    anchors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 3), nn.Linear(4, 1)
        self.register_buffer("anchors", torch.arange(12.0).reshape(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.outer(torch.cdist(self.inner(x), self.anchors, p=3.0))
        return output


def test_a_model_without_a_second_derivative_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model: no second derivative exists.*train it with FirstOrder"):
        diagnosis.diagnose(MetaLearner(_Distances(), loss=nn.MSELoss()), _sines(2))


def test_one_task_only_is_refused() -> None:
    with pytest.raises(ValueError, match="tasks: got 1; how tasks differ can only be told from at least 2"):
        diagnosis.diagnose(MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss()), _sines(1))


def test_an_infinite_loss_names_its_task() -> None:
    x = torch.ones(3, 8, 1)
    y = x.clone()
    y[1, 2] = float("inf")
    tasks = tasks_of(x, y, 4)._replace(numbers=torch.tensor([10, 11, 12]))
    with pytest.raises(ValueError, match="support loss of task 11 is inf before the first inner step"):
        diagnosis.diagnose(MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss()), tasks)


def test_an_inner_rate_that_explodes_is_refused_with_a_better_one() -> None:
    model = linear(torch.ones(6))
    learner = MetaLearner(model, SGD(1e12), loss=HalfSquare(), inner_steps=5)
    with pytest.raises(ValueError, match=r"after inner step \d: lower the inner rate; .* stable below 2/L = 0\.\d+"):
        diagnosis.diagnose(learner, quadratics(dtype=torch.float32))


def test_a_loss_that_does_not_depend_on_the_weights_is_refused() -> None:
    class Sign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w.sign()

    with pytest.raises(ValueError, match="does not change with the weights"):
        diagnosis.diagnose(MetaLearner(Sign(), loss=nn.MSELoss()), _sines(3))


def test_whether_the_support_loss_falls_is_told_of_all_its_batches() -> None:
    """Two steps of w from 0 at a rate of 0.1 to (w - 1)^2 and (w + 3)^2: w_2 = -0.44, and only their mean falls."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    one = torch.ones(2, 3, 1)
    tasks = Tasks((Batch(one, one), Batch(one, -3 * one)), Batch(one, 0 * one), torch.arange(2))
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 2)
    assert stability(loop, tasks, 2).support_falls == 1


def test_of_unequal_tasks_those_of_the_commonest_size_are_looked_at() -> None:
    torch.manual_seed(0)
    learner = MetaLearner(MLP(hidden=(8,)).double(), loss=nn.MSELoss())
    stacks = [tree_map(_double, stack) for stack in stacks_of(UnequalSines().sample("train", [0, 1, 3, 5, 2], 0))]
    assert [stack.size for stack in stacks] == [2, 3]
    found, alone = diagnosis.diagnose(learner, stacks), diagnosis.diagnose(learner, stacks[1])
    said = "the tasks have 2 sizes; those of the commonest are looked at"
    assert found.remarks == [said, *alone.remarks]
    assert found.setting["tasks"] == 3
    assert found.curvature == alone.curvature
    with pytest.raises(ValueError, match="tasks: got 1 of one size; how tasks differ"):
        diagnosis.diagnose(learner, UnequalSines().sample("train", [0, 1], 0))


def _double(part: Tensor) -> Tensor:
    return part.double() if part.is_floating_point() else part


@pytest.mark.parametrize(
    ("rate", "strength", "iterations", "value"),
    [
        (0.009, 100.0, 10, "to be trusted here"),
        pytest.param(0.001, 10.0, 10, "take more inner steps", marks=pytest.mark.slow),
        pytest.param(0.02, 30.0, 1, "take more iterations", marks=pytest.mark.slow),
        pytest.param(0.02, 0.01, 10, "raise inner_optimizer.strength", marks=pytest.mark.slow),
    ],
)
def test_the_implicit_gradient_is_told_when_to_be_trusted(
    rate: float, strength: float, iterations: int, value: str
) -> None:
    torch.manual_seed(0)
    model = MLP(hidden=[8], init="fan_in")
    inner = Proximal(SGD(rate), strength)
    learner = MetaLearner(model, inner, Implicit(iterations), loss=nn.MSELoss(), inner_steps=4)
    found = diagnosis.diagnose(learner, _sines(4))
    told, reason = _choices(found)["implicit gradient"]
    assert told.startswith(value)
    assert "of |lambda (theta - w)|" in reason
    assert "the inner rate is that within Proximal, which transforms the gradient first" in found.remarks
    row = next(row for row in found.estimators if row.name == f"Implicit(iterations={iterations})")
    assert (row.cosine or 0) > 0.99 or value != "to be trusted here"
    assert row.cost is not None
    assert row.cost.hessian_products == iterations


@pytest.mark.parametrize(
    ("outer_gradient", "listed"),
    [pytest.param(EvolutionStrategies(2), True, marks=pytest.mark.slow), (Reptile(), False)],
    ids=["evolution", "reptile"],
)
def test_what_is_a_gradient_is_compared(outer_gradient: OuterGradient, listed: bool) -> None:
    learner = MetaLearner(MLP(hidden=[4]), outer_gradient=outer_gradient, loss=nn.MSELoss())
    found = diagnosis.diagnose(learner, _sines(4))
    names = {row.name.partition("(")[0] for row in found.estimators}
    assert (type(outer_gradient).__name__ in names) == listed
    assert any("no gradient to compare" in remark for remark in found.remarks) != listed
    assert "implicit gradient" not in _choices(found)
