"""What trajectories, losses and optimizers make of each other where something is small, ended, wrong or repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litmaml import MetaLearner, TaskDataModule
from litmaml.inner import SGD
from litmaml.learner.finite_tasks import Count
from litmaml.learner.outer_step import OuterStep
from litmaml.outer import MultiStepLoss, OuterLoss, WorstCaseLoss
from litmaml.outer.meta_gradient import MetaGradient
from litmaml.rl import (
    EvolutionOfReturns,
    GaussianPolicy,
    Navigation,
    PolicySurrogate,
    ProMP,
    RepeatedAdam,
    Rollouts,
    TrustRegion,
)
from litmaml.rl.advantages import advantages
from litmaml.rl.control_tasks import named_numbers
from litmaml.rl.environments import Environments, Step
from litmaml.tasks import Tasks
from quiet_trainer import quiet_trainer


def learner_of(**given: Any) -> MetaLearner:
    torch.manual_seed(0)
    arguments = {"model": GaussianPolicy(2, 2, [8]), "inner_optimizer": SGD(0.1), "loss": PolicySurrogate()}
    return MetaLearner(**{**arguments, "experience": Rollouts(0.95), **given})


def collected(learner: MetaLearner, source: Navigation, numbers: list[int]) -> Tasks:
    assert isinstance(learner.experience, Rollouts)
    learner.experience.connect(learner.inner_loop.model, source, 3, 1)
    found = learner.experience.collect(learner.inner_loop, source.sample("train", numbers, 3), 1, "train").tasks
    assert isinstance(found, Tasks)
    return found


class Changed(Environments):
    """Points whose steps are changed."""

    def __init__(self, points: Environments, change: Callable[[Step, Tensor], Step]) -> None:
        self._points, self._change = points, change

    def start(self, seeds: Tensor) -> Tensor:
        return self._points.start(seeds)

    def step(self, actions: Tensor, chance: Tensor, going: Tensor) -> Step:
        return self._change(self._points.step(actions, chance, going), going)


class Other(Navigation):
    """Navigation with other steps."""

    def __init__(self, change: Callable[[Step, Tensor], Step], **given: Any) -> None:
        super().__init__(**given)
        self._change = change

    def environments(self, parameters: Tensor) -> Environments:
        return Changed(super().environments(parameters), self._change)


def lost_after_the_end(step: Step, going: Tensor) -> Step:
    over = (step.ended | ~going).unsqueeze(-1)
    return step._replace(observations=torch.where(over, torch.nan, step.observations))


def unpaid_in_the_first_task(step: Step, going: Tensor) -> Step:
    rewards = step.rewards.clone()
    rewards[0] = torch.nan
    return step._replace(rewards=rewards)


def test_what_is_seen_after_the_end_is_in_no_number() -> None:
    given: dict[str, Any] = {"horizon": 30, "trajectories": 6, "near": 0.2}
    right = collected(learner_of(), Navigation(**given), [0, 1])
    found = collected(learner_of(), Other(lost_after_the_end, **given), [0, 1])
    assert bool((found.query.targets["mask"] == 0).any())
    for batch, other in zip((*right.support, right.query), (*found.support, found.query), strict=True):
        assert torch.equal(batch.inputs, other.inputs)
        assert all(torch.equal(value, other.targets[name]) for name, value in batch.targets.items())


def test_a_task_that_is_not_finite_spoils_no_other() -> None:
    learner = learner_of()
    tasks = collected(learner, Other(unpaid_in_the_first_task, horizon=5, trajectories=3), [0, 1, 2])
    assert tasks.query.targets["gains"].isfinite().all(1).tolist() == [False, True, True]
    assert float(tasks.query.targets["gains"][:, 0][1:].sum()) == pytest.approx(0, abs=1e-5)
    assert isinstance(learner.experience, Rollouts)
    optimizer = TrustRegion(learner.inner_loop.parameters())
    learner.experience.help_step(optimizer, learner.inner_loop, learner.outer_loss, 1)
    assert optimizer.policies is not None
    assert all(value == pytest.approx(0, abs=1e-5) for value in optimizer.policies.measure())
    weights = list(learner.inner_loop.model.parameters())
    assert all(part.isfinite().all() for part in optimizer.policies.curvature(weights)(weights))


class Network(nn.Module):
    """Of which one row depends on the others, or on chance."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance
        middle = nn.Dropout(chance) if chance else nn.BatchNorm1d(8, track_running_stats=False)
        self.layers = nn.Sequential(nn.Linear(2, 8), middle, nn.Tanh(), nn.Linear(8, 2))

    def forward(self, seen: Tensor) -> Tensor:
        found: Tensor = self.layers(seen)
        return found


@pytest.mark.parametrize("chance", [0.0, 0.3])
def test_a_policy_that_acts_otherwise_than_it_is_differentiated_is_refused(chance: float) -> None:
    torch.manual_seed(0)
    learner = learner_of(model=GaussianPolicy(2, 2, body=Network(chance)))
    with pytest.raises(ValueError, match="model: its outputs for an observation depend on the others beside it"):
        collected(learner, Navigation(horizon=5, trajectories=4), [0, 1])


def test_no_baseline_is_fitted_to_fewer_steps_than_it_has_weights() -> None:
    torch.manual_seed(0)
    rewards, mask = torch.randn(1, 1, 4), torch.ones(1, 1, 4)
    found = advantages(torch.randn(1, 1, 4, 3), rewards, mask, 1.0, 1.0, normalise=False)
    returns = rewards.flip(-1).cumsum(-1).flip(-1)
    assert torch.allclose(found, returns - returns.mean(), atol=1e-4)


def test_a_discount_is_not_rounded_in_float64() -> None:
    torch.manual_seed(0)
    recorded = {name: torch.randn(1, 9).double() for name in ("log_probs", "advantages")}
    recorded |= {"actions": torch.zeros(1, 9).long(), "mask": torch.ones(1, 9).double()}
    logits = torch.randn(1, 9, 2).double()
    ratios = (logits.log_softmax(-1)[..., 0] - recorded["log_probs"]).exp()
    terms = [0.9**t * float((ratios[0, t] - 1) * recorded["advantages"][0, t]) for t in range(9)]
    assert float(PolicySurrogate(discount=0.9)(logits, recorded)) == pytest.approx(-sum(terms) / 9, rel=1e-14)


def test_every_step_of_an_environment_is_counted(tmp_path: Path) -> None:
    learner = learner_of(outer_gradient=EvolutionOfReturns(2))
    data = TaskDataModule(Navigation(horizon=3, trajectories=2, near=1e-6), meta_batch=2, train_tasks=2)
    quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(learner, data)
    path = 2 * 2 * 2 * 3  # of two tasks with two batches of two trajectories of three steps
    assert int(learner.state_dict()["experience.environment_steps"]) == path * (1 + 1 + 2 * 2)


def test_a_family_of_the_one_task_at_zero_stays_there() -> None:
    class Line(Navigation):
        def numbers_of(self, named: Any) -> Any:
            return torch.tensor([named["x"]]).numpy()

    assert Line().only({"x": 0.0}).sample("test", [0, 5], 0).query.inputs.flatten().tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="task: has to be finite numbers, got"):
        named_numbers({"x": "nan"}, ["x"])


def test_the_simulator_of_the_docs_acts() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reinforcement-learning.md").read_text()
    found: dict[str, Any] = {}
    exec(next(part for part in text.split("```python\n") if "class Lines" in part).split("```")[0], found)
    source = found["Lines"](horizon=5, trajectories=3)
    tasks = collected(learner_of(model=GaussianPolicy(1, 1, [4])), source, [0, 1])
    assert tasks.query.inputs.shape == (2, 3, 5, 1)
    one = source.only({"goal": 0.5})
    environments = one.environments(one.sample("test", [0], 0).query.inputs.squeeze(1))
    environments.start(torch.zeros(1, 2).long())
    step = environments.step(torch.ones(1, 2, 1), torch.zeros(1, 2), torch.ones(1, 2).bool())
    assert step.rewards.tolist() == [[pytest.approx(-0.4), pytest.approx(-0.4)]]


def test_gradients_that_are_computed_again_are_not_accumulated() -> None:
    learner = learner_of()
    step = OuterStep(learner.inner_loop, OuterLoss())
    one = torch.ones(1)
    found = MetaGradient(one, one, {}, one.bool())
    numbers, count = torch.zeros(1).long(), Count([1], [1], [])
    step.add(found, numbers, count, 0)
    step.check(10)
    step.add(found, numbers, count, 0)
    assert step.finish(2, 1)  # once for each of two batches
    step.add(found, numbers, count, 0)
    with pytest.raises(ValueError, match="accumulate_grad_batches: the optimizer computes gradients sev"):
        step.finish(2, 1)


@pytest.mark.parametrize(
    ("given", "trainer", "message"),
    [
        ({"optimizer": TrustRegion}, {"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches: TrustRegion"),
        ({"optimizer": RepeatedAdam, "outer_loss": ProMP()}, {"accumulate_grad_batches": 2}, "computes gradients sev"),
        ({"outer_loss": MultiStepLoss()}, {}, "outer_loss: MultiStepLoss takes one query at each"),
        ({"outer_loss": WorstCaseLoss(4, 0.1)}, {}, "outer_loss: WorstCaseLoss weighs tasks by the value of the loss"),
        (
            {"optimizer": TrustRegion, "lr_scheduler": lambda made: torch.optim.lr_scheduler.StepLR(made, 1)},
            {},
            "model.lr_scheduler: TrustRegion has no rate to be scheduled",
        ),
    ],
)
def test_what_would_be_wrong_together_is_refused(
    given: dict[str, Any], trainer: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = TaskDataModule(Navigation(horizon=4, trajectories=3), meta_batch=2, train_tasks=4, val_tasks=2)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path, max_epochs=1, **trainer).fit(learner_of(**given), data)
