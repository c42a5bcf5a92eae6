"""Trajectories as data: repeatable, what was recorded is what is differentiated, runs that go on where they stopped."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Sinusoid
from litmaml.inner import SGD
from litmaml.outer import (
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    OuterGradient,
    Reptile,
    SecondOrder,
    ZerothOrder,
)
from litmaml.outer.meta_gradient import MetaGradient, MetaGradientOf
from litmaml.randomness import normal_directions, task_streams
from litmaml.rl import (
    CategoricalPolicy,
    EvolutionOfReturns,
    GaussianPolicy,
    Navigation,
    PolicySurrogate,
    ProMP,
    RepeatedAdam,
    Rollouts,
    ScoreCorrection,
    TabularMDP,
    TrustRegion,
)
from litmaml.rl.advantages import LinearBaseline, advantages, sums_to_come
from litmaml.rl.distributions import act, divergence, log_prob
from litmaml.tasks import Tasks, stacks_of
from litmaml.weights import Params
from quiet_trainer import quiet_trainer


def learner_of(**given: Any) -> MetaLearner:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "model": GaussianPolicy(2, 2, [16, 16]),
        "inner_optimizer": SGD(0.1),
        "loss": PolicySurrogate(),
        "experience": Rollouts(0.95),
        "optimizer": lambda weights: torch.optim.Adam(weights, lr=1e-2),
    }
    return MetaLearner(**{**arguments, **given})


def navigation(**given: Any) -> TaskDataModule:
    source = Navigation(horizon=20, trajectories=4)
    return TaskDataModule(source, **{"meta_batch": 4, "train_tasks": 12, "val_tasks": 4, "test_tasks": 6, **given})


def collected(learner: MetaLearner, source: Any, numbers: list[int], steps: int = 1) -> Tasks:
    assert learner.experience is not None
    learner.experience.connect(learner.inner_loop.model, source, 3, 1)
    found = learner.experience.collect(learner.inner_loop, source.sample("train", numbers, 3), steps, "train")
    assert isinstance(found.tasks, Tasks)
    return found.tasks


def of(learner: MetaLearner, tasks: Tasks, outer: OuterGradient) -> MetaGradient:
    return MetaGradientOf(learner.inner_loop, outer, learner.inner_steps, outer_loss=learner.outer_loss)(tasks)


def apart(one: Params, other: Params) -> float:
    first, second = (torch.cat([part[name].flatten() for name in one]) for part in (one, other))
    return float((first - second).norm() / second.norm())


def test_finite_differences_agree_with_the_exact_gradient_in_float32() -> None:
    learner = learner_of()
    tasks = collected(learner, Navigation(horizon=100), list(range(20)))
    exact = of(learner, tasks, SecondOrder()).gradients
    assert apart(of(learner, tasks, FiniteDifference()).gradients, exact) < 1e-4
    assert 1e-4 < apart(of(learner, tasks, FirstOrder()).gradients, exact) < 0.5


@pytest.mark.parametrize("steps", [1, 2])
def test_what_was_recorded_is_what_is_computed_along_the_path(steps: int) -> None:
    learner = learner_of()
    tasks = collected(learner, Navigation(horizon=30, trajectories=5), [4, 7], steps)
    for j, fast in enumerate(learner.inner_loop.path(tasks, steps)):
        batch = tasks.query if j == steps else tasks.support[j]
        parameters = learner.inner_loop.predict(fast, batch.inputs).detach()
        again = log_prob(parameters, batch.targets["actions"]) * batch.targets["mask"]
        assert float((again - batch.targets["log_probs"]).abs().max()) < 1e-5
        assert float((parameters - batch.targets["parameters"]).abs().max()) < 1e-5


def test_trajectories_are_a_function_of_seed_number_step_and_weights() -> None:
    learner, source = learner_of(), Navigation(horizon=30, trajectories=5)
    first = collected(learner, source, [2, 5, 9], 2)
    again = collected(learner_of(), source, [2, 5, 9], 2)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first.adapting, again.adapting, strict=True))
    assert torch.equal(first.query.inputs, again.query.inputs)
    alone = collected(learner_of(), source, [5], 2)
    assert float((alone.query.inputs[0] - first.query.inputs[1]).abs().max()) < 1e-5
    # Neither tasks nor steps share their noise.
    noise = [batch.targets["actions"] - batch.targets["parameters"][..., :2] for batch in first.adapting]
    assert not torch.allclose(noise[0], noise[1])
    assert not torch.allclose(noise[0][0], noise[0][1])


def test_an_ended_trajectory_counts_no_further() -> None:
    source = Navigation(horizon=60, trajectories=6, near=0.1)
    tasks = collected(learner_of(), source, list(range(6)))
    targets = tasks.query.targets
    mask = targets["mask"]
    ended = mask[..., -1] == 0
    assert bool(ended.any())
    assert bool((mask.diff(dim=-1) <= 0).all())  # once it has ended it has
    for name in ("advantages", "log_probs"):
        assert not bool((targets[name] * (1 - mask)).any())
    assert abs(float((targets["advantages"][0] * mask[0]).sum())) < 1e-2  # normalised over what counts

    def loss(change: float) -> Tensor:
        moved = targets["parameters"] + change * (1 - mask).unsqueeze(-1)
        return torch.stack([PolicySurrogate(0.5)(moved[i], {n: t[i] for n, t in targets.items()}) for i in range(6)])

    assert torch.equal(loss(0.0), loss(1000.0))


@pytest.mark.parametrize(
    "outer",
    [
        *(SecondOrder(), FirstOrder(), FiniteDifference(), GaussianSmoothing(2), ZerothOrder(2), Reptile()),
        *(EvolutionStrategies(2), EvolutionOfReturns(2)),
    ],
    ids=lambda outer: type(outer).__name__,
)
@pytest.mark.parametrize("discrete", [False, True])
def test_every_outer_gradient_trains_policies(outer: OuterGradient, discrete: bool, tmp_path: Path) -> None:
    model = CategoricalPolicy(5, 3, [8]) if discrete else GaussianPolicy(2, 2, [8])
    learner = learner_of(model=model, outer_gradient=outer, inner_steps=2)
    source = TabularMDP(trajectories=4) if discrete else Navigation(horizon=10, trajectories=4)
    data = TaskDataModule(source, meta_batch=2, train_tasks=4, val_tasks=2, test_tasks=4)
    before = [weight.detach().clone() for weight in learner.parameters()]
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(learner, data)
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))
    trainer.test(learner, data, verbose=False)
    assert len(learner.results["return"]) == 3
    assert "loss" not in learner.results


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"optimizer": TrustRegion, "experience": Rollouts(0.95, normalise=False)},
        {"optimizer": lambda weights: RepeatedAdam(weights, times=3), "outer_loss": ProMP()},
        {"outer_loss": ScoreCorrection(weight=1e-3), "loss": PolicySurrogate(None)},
    ],
    ids=["adam", "trust_region", "promp", "score"],
)
def test_a_run_goes_on_as_if_it_had_not_stopped(
    given: dict[str, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    def trained(folder: Path, epochs: int, checkpoint: Path | None = None) -> dict[str, Tensor]:
        learner = learner_of(**given)
        trainer = quiet_trainer(folder, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(learner, navigation(), ckpt_path=checkpoint)
        trainer.save_checkpoint(folder / "end.ckpt")
        return learner.state_dict()

    whole = trained(tmp_path / "whole", 2)
    trained(tmp_path / "half", 1)
    resumed = trained(tmp_path / "rest", 2, tmp_path / "half" / "end.ckpt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert int(whole["experience.environment_steps"]) > 0
    loaded = MetaLearner.load_from_checkpoint(tmp_path / "rest" / "end.ckpt")
    assert isinstance(loaded.experience, Rollouts)
    assert type(loaded.outer_loss) is type(learner_of(**given).outer_loss)


def test_a_trust_region_is_kept(tmp_path: Path) -> None:
    made: list[TrustRegion] = []

    def optimizer(weights: Any) -> TrustRegion:
        made.append(TrustRegion(weights, radius=0.003))
        return made[-1]

    learner = learner_of(optimizer=optimizer)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(learner, navigation(train_tasks=8))
    assert 0 < made[0].last["kl"] <= 0.003
    assert made[0].last["tries"] >= 1
    logged = trainer.callback_metrics  # with the second batch, of the step on the first
    assert 0 < logged["train/trust_region_kl"] <= 0.003
    assert logged["train/trust_region_tries"] >= 1


def test_the_curvature_is_the_second_derivative_of_the_divergence() -> None:
    learner = learner_of(model=GaussianPolicy(2, 2, [4]))
    torch.set_default_dtype(torch.float64)
    try:
        learner = learner.double()
        collected(learner, Navigation(horizon=5, trajectories=3), [0, 1])
        assert isinstance(learner.experience, Rollouts)
        optimizer = TrustRegion(learner.inner_loop.parameters())
        learner.experience.help_step(optimizer, learner.inner_loop, learner.outer_loss, 1)
        policies, weights = optimizer.policies, list(learner.inner_loop.model.parameters())
        assert policies is not None
        product = policies.curvature(weights)
        ways = [torch.randn_like(weight) for weight in weights]
        expected = 0.5 * float(sum((a * b).sum() for a, b in zip(ways, product(ways), strict=True)))

        # Without an inner step theta' moves as theta does: KL of a small step is half its square along F.
        tasks = learner.experience._recorded_tasks()
        *_, adapted = learner.inner_loop.path(tasks, 1)
        names = [name for name, _ in learner.inner_loop.model.named_parameters()]
        h = 1e-4
        moved = {n: adapted[n] + h * way for n, way in zip(names, ways, strict=True)}
        before, after = (learner.inner_loop.predict(w, tasks.query.inputs).detach() for w in (adapted, moved))
        mask = tasks.query.targets["mask"]
        apart = (divergence(before, after, False) * mask).sum((1, 2)) / mask.sum((1, 2))
        assert float(apart.mean()) / h**2 == pytest.approx(expected, rel=1e-3)
    finally:
        torch.set_default_dtype(torch.float32)


def test_several_outer_steps_take_the_same_trajectories(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watched(Rollouts):
        def collect(self, *given: Any) -> Any:
            found = super().collect(*given)
            (stack,) = stacks_of(found.tasks)
            seen.append(stack.query.inputs)
            return found

    learner = learner_of(
        experience=Watched(0.95), optimizer=lambda weights: RepeatedAdam(weights, times=3), outer_loss=ProMP()
    )
    quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(learner, navigation(train_tasks=8))
    assert [one is other for one, other in pairwise(seen)] == [True, True, False, True, True]


@pytest.mark.parametrize("fast", ["*", "body.body.*"])
def test_evolution_of_returns_by_a_plain_loop(fast: str) -> None:
    """2 Q copies of the policy that are moved by hand, each of which acts and adapts by itself."""
    learner = learner_of(outer_gradient=EvolutionOfReturns(3, 0.1), inner_steps=2, fast_weights=[fast])
    source, numbers = Navigation(horizon=8, trajectories=3), [2, 6]
    tasks = collected(learner, source, numbers, 2)
    assert isinstance(learner.experience, Rollouts)
    learner.experience.help_gradient(learner.outer_gradient)
    found = learner.meta_gradient(tasks)
    loop = learner.inner_loop
    names = [*loop.fast_names, *loop.slow_names]
    shapes = {name: loop.model.get_parameter(name).detach() for name in names}
    (directions,) = normal_directions(shapes, 3, task_streams(0, "train", numbers, "directions"), 1)

    def adapted_return(number: int, moves: Params) -> Tensor:
        other = learner_of(inner_steps=2, fast_weights=[fast])
        with torch.no_grad():
            for name, move in moves.items():
                other.inner_loop.model.get_parameter(name).add_(move)
        rollouts = Rollouts(0.95)
        rollouts.connect(other.inner_loop.model, source, 3, 1)
        path, _ = rollouts.along_path(other.inner_loop, source.sample("train", [number], 3), 2, "train")
        return path[-1].returns[0]

    total = {name: torch.zeros_like(weight) for name, weight in shapes.items()}
    for i, number in enumerate(numbers):
        for q in range(3):
            way = {name: directions[name][i, q] for name in names}
            ahead, behind = (adapted_return(number, {n: s * 0.1 * w for n, w in way.items()}) for s in (1, -1))
            for name in names:
                total[name] -= (ahead - behind) / (2 * 0.1 * 3) * way[name] / len(numbers)
    assert apart({n.removeprefix("model."): g for n, g in found.gradients.items()}, total) < 1e-3
    assert float(found.loss) == pytest.approx(-float(tasks_return(learner, tasks)), rel=1e-4)


def tasks_return(learner: MetaLearner, tasks: Tasks) -> Tensor:
    assert isinstance(learner.experience, Rollouts)
    assert learner.experience._last is not None
    return learner.experience._last[1].measured["return"][:, -1].mean()


@pytest.mark.parametrize("gae", [1.0, 0.9])
def test_advantages_by_a_plain_loop(gae: float) -> None:
    torch.manual_seed(0)
    rewards, mask = torch.randn(2, 3, 6).double(), torch.ones(2, 3, 6).double()
    mask[0, 0, 4:] = 0
    rewards = rewards * mask
    observations = torch.randn(2, 3, 6, 2).double()
    found = advantages(observations, rewards, mask, 0.9, gae, normalise=False)
    values = LinearBaseline()(observations, sums_to_come(rewards, 0.9), mask) * mask
    for i in range(2):
        for k in range(3):
            last = 0.0
            for t in reversed(range(6)):
                after = float(values[i, k, t + 1]) if t < 5 else 0.0
                last = float(rewards[i, k, t]) + 0.9 * after - float(values[i, k, t]) + 0.9 * gae * last
                assert float(found[i, k, t]) == pytest.approx(last * float(mask[i, k, t]), abs=1e-9)


def test_actions_come_as_often_as_their_probabilities_say() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0])
    drawn = act(logits.expand(20000, 3), torch.rand(20000, generator=torch.Generator().manual_seed(0)))
    counted = torch.bincount(drawn, minlength=3) / 20000
    assert float((counted - logits.softmax(0)).abs().max()) < 0.012
    gaussian = torch.distributions.Normal(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0]))
    parameters = torch.tensor([1.0, -1.0, *torch.tensor([0.5, 2.0]).log().tolist()])
    actions = torch.tensor([0.3, 0.7])
    assert float(log_prob(parameters, actions)) == pytest.approx(float(gaussian.log_prob(actions).sum()), rel=1e-5)
    other = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    expected = torch.distributions.kl_divergence(gaussian, other).sum()
    assert float(divergence(parameters, torch.zeros(4), False)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianPolicy(0, 2), "observations: has to be at least 1, got 0"),
        (lambda: PolicySurrogate(1.5), "credit: has to be from 0 to 1, or null for the score, got 1.5"),
        (lambda: PolicySurrogate(discount=0), "discount: has to be above 0 and at most 1, got 0"),
        (lambda: Rollouts(gae=2), "gae: has to be above 0 and at most 1, got 2"),
        (lambda: Navigation(reach=-1), "reach: has to be a positive number, got -1"),
        (lambda: TabularMDP(choices=1), "choices: has to be at least 2, got 1"),
        (lambda: ScoreCorrection(weight=0), "weight: has to be a positive number, got 0"),
        (lambda: ProMP(clip=1), "clip: has to be between 0 and 1, got 1"),
        (lambda: TrustRegion([torch.zeros(1)], radius=0), "radius: has to be a positive number, got 0"),
        (lambda: RepeatedAdam([torch.zeros(1)], times=0), "times: has to be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_cannot_be_acted_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="experience: Rollouts acts in environments, got tasks of Sinusoid"):
        quiet_trainer(tmp_path, max_epochs=1).fit(learner_of(), TaskDataModule(Sinusoid()))
    learner = learner_of(inner_optimizer=SGD(0.1, learn="tensor"), optimizer=TrustRegion)
    with pytest.raises(ValueError, match="optimizer: TrustRegion moves the policy alone, got learnt rate"):
        quiet_trainer(tmp_path, max_epochs=1).fit(learner, navigation())
    with pytest.raises(ValueError, match="outer_loss"):
        learner_of(outer_gradient=EvolutionStrategies(), outer_loss=ScoreCorrection())
