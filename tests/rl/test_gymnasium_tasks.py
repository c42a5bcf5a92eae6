"""Environments of gymnasium as tasks: what they become in numbers, and what is said where they cannot."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium", reason="needs gymnasium: pip install 'litmaml[rl]'")

import gymnasium
from small_environments import Bandit, Growing, NotFinite, Raises, Reach, Settable, TwoLevers, TwoParts

from litmaml import MetaLearner
from litmaml.data import TaskDataModule
from litmaml.inner import SGD
from litmaml.models import MLP
from litmaml.rl import CategoricalPolicy, GaussianPolicy, GymnasiumTasks, PolicySurrogate, Rollouts
from litmaml.rl.trajectories import Trajectories, drawn_for, roll_out
from litmaml.runs.recipe import build
from litmaml.tasks import Tasks

GOALS: Any = {"goal": [0.5, 2.0]}


def acting(source: GymnasiumTasks, count: int = 3, seed: int = 0, policy: Any = None) -> Trajectories:
    """Trajectories of the first tasks under a random policy."""
    tasks = source.sample("train", range(count), seed)
    assert isinstance(tasks, Tasks)
    torch.manual_seed(0)
    kind = CategoricalPolicy if source.discrete else GaussianPolicy
    policy = policy or kind(source.observations, source.actions, hidden=[8])
    environments = source.environments(tasks.query.inputs.squeeze(1))
    try:
        with torch.no_grad():
            return roll_out(policy, environments, drawn_for(source, tasks, "train", seed, 0, source.trajectories))
    finally:
        environments.close()


def same(one: Trajectories, other: Trajectories) -> bool:
    assert (one.success is None) == (other.success is None)
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))


def test_bounded_actions_are_kept_within_and_their_probability_is_of_what_was_drawn() -> None:
    made: list[Reach] = []

    def make(goal: float) -> Reach:
        made.append(Reach(goal))
        return made[-1]

    source = GymnasiumTasks(make, GOALS, horizon=30, trajectories=4)
    assert (source.observations, source.actions, source.discrete) == (2, 1, False)
    found = acting(source)
    assert found.observations.shape == (3, 4, 30, 2)
    assert found.observations.dtype == torch.get_default_dtype()
    assert found.actions.abs().max() > 1  # beyond the bounds, as drawn
    taken = [action for environment in made for action in environment.taken]
    assert taken[0].dtype == np.float32
    assert max(abs(float(action[0])) for action in taken) == 0.5
    assert len(taken) == found.mask.sum()  # no step after an end
    assert all(environment.closed for environment in made)


def test_ends_and_success_are_of_each_copy() -> None:
    found = acting(GymnasiumTasks(Reach, {"goal": {"choices": [0.3, 50.0]}}, horizon=30, trajectories=4), count=8)
    lengths = found.mask.sum(-1)
    assert found.success is not None
    assert torch.equal(found.success, lengths < 30)
    assert 0 < found.success.float().mean() < 1
    assert (found.rewards[found.mask == 0] == 0).all()
    assert (found.rewards[found.mask == 1] < 0).all()


def test_indices_begin_where_the_space_does_and_observations_are_one_hot() -> None:
    source = GymnasiumTasks(Bandit, {"arm": {"choices": [1, 2, 3]}, "pays": {"choices": ["well", "little"]}}, 6, 5)
    assert (source.observations, source.actions, source.discrete) == (4, 3, True)
    found = acting(source, count=6)
    assert found.success is None
    assert (found.observations.sum(-1) == 1).all()
    assert (found.observations[:, :, 0, 0] == 1).all()
    # What is seen is the arm that was taken before: numbered from 1, where actions are numbered from 0.
    assert torch.equal(found.observations[:, :, 1:].argmax(-1), found.actions[:, :, :-1] + 1)
    assert {round(x, 1) for x in found.rewards.unique().tolist()} == {0.0, 0.1, 1.0}


def test_copies_that_are_kept_carry_nothing_over() -> None:
    Settable.made = 0
    kept = GymnasiumTasks(Settable, GOALS, horizon=12, trajectories=3)
    acting(kept, count=5, seed=7)
    made = Settable.made
    again, anew = acting(kept), acting(GymnasiumTasks(Reach, GOALS, horizon=12, trajectories=3))
    assert Settable.made == made  # no copy was made for the second batch
    assert same(again, anew)
    assert same(again, acting(kept))
    assert not same(again, acting(kept, seed=1))


def test_kept_copies_are_closed_with_their_tasks() -> None:
    made: list[Settable] = []

    def make(goal: float) -> Settable:
        made.append(Settable(goal))
        return made[-1]

    source = GymnasiumTasks(make, GOALS, horizon=5, trajectories=2)
    acting(source)
    assert not any(environment.closed for environment in made)
    del source
    gc.collect()
    assert len(made) == 6
    assert all(environment.closed for environment in made)


def test_a_wrapped_environment_is_set_too() -> None:
    def make(goal: float) -> Any:
        return gymnasium.wrappers.TimeLimit(Settable(goal), max_episode_steps=4)

    Settable.made = 0
    source = GymnasiumTasks(make, {"goal": [20.0, 30.0]}, horizon=9, trajectories=2)
    first = acting(source)
    assert (first.mask.sum(-1) == 4).all()  # truncated
    assert same(first, acting(source))
    assert Settable.made == 6


@pytest.mark.parametrize(
    ("parameters", "test", "wanted"),
    [
        ({"goal": [0.0, 1.0]}, {"goal": [2.0, 3.0]}, [2.0, 3.0]),
        ({"goal": [0.0, 1.0]}, [{"goal": 2.0}, {"goal": 3}], [2.0, 3.0]),
        ([{"goal": 0.5}], {"goal": {"choices": [2.0]}}, [2.0, 2.0]),
    ],
)
def test_tests_may_have_parameters_of_their_own(parameters: Any, test: Any, wanted: list[float]) -> None:
    source = GymnasiumTasks(Reach, parameters, horizon=5, test_parameters=test)
    known = source._known

    def goals(split: Any) -> list[Any]:
        tasks = source.sample(split, range(20), 0)
        assert isinstance(tasks, Tasks)
        return [known.named(row)["goal"] for row in tasks.query.inputs.squeeze(1).tolist()]

    assert all(0 <= goal <= 1 for goal in goals("train"))
    for split in ("val", "test"):
        assert min(wanted) <= min(goals(split)) <= max(goals(split)) <= max(wanted)
    if isinstance(test, list):
        assert goals("test") == [2.0, 3.0] * 10  # each of a list as often as the others


def test_choices_come_back_as_what_they_are() -> None:
    values: list[Any] = [1, 1.0, True, "one"]
    listed = [{"of": value} for value in values]

    class Any_(Reach):
        def __init__(self, of: Any) -> None:
            super().__init__()

    source = GymnasiumTasks(Any_, listed, horizon=5, trajectories=1)
    rows = source.sample("train", range(4), 0).query.inputs.squeeze(1).tolist()
    found = [source._known.named(row)["of"] for row in rows]
    assert [(type(a), a) for a in found] == [(type(a), a) for a in values]


@pytest.mark.parametrize(
    ("parameters", "test", "said"),
    [
        ({}, None, r"parameters: has to say what distinguishes tasks"),
        ([], None, r"parameters: has to list tasks by their parameters"),
        ({"goal": [1.0]}, None, r"parameters: goal has to be a range \[low, high\] or \{choices"),
        ({"goal": [1.0, 2.0, 3.0]}, None, r"got \[1.0, 2.0, 3.0\]; list what it may be as choices"),
        ({"goal": [2.0, 1.0]}, None, r"parameters: goal has to be a range of finite numbers, the lower first"),
        ({"goal": [0.0, float("inf")]}, None, r"parameters: goal has to be a range of finite numbers"),
        ({"goal": {"choices": []}}, None, r"parameters: goal has to be \{choices: \[...\]\} with some"),
        ({"goal": {"values": [1.0]}}, None, r"parameters: goal has to be \{choices"),
        ({"a goal": [0.0, 1.0]}, None, r"'a goal' can be no argument of make_env"),
        ({"goal": [0.0, 1.0]}, {"aim": [0.0, 1.0]}, r"test_parameters: has to have the names of parameters, goal, got"),
        ([{"goal": 1.0}, {"aim": 1.0}], None, r"parameters: tasks have to have the same names"),
        ({"goal": [0.0, 1.0]}, [{"goal": "far"}], r"goal is drawn from a range and has to be a number everywhere"),
        (
            {"aim": [0.0, 1.0]},
            None,
            r"make_env: cannot make an environment of aim=.*TypeError.*; mend it, or",
        ),
    ],
)
def test_parameters_that_are_none(parameters: Any, test: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GymnasiumTasks(Reach, parameters, horizon=5, test_parameters=test)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (TwoParts, r"observations have to be of a Box or a Discrete, got the space Dict\(.*FlattenObservation"),
        (
            TwoLevers,
            r"actions have to be of a Box of real numbers or a Discrete, got the space MultiDiscrete\(",
        ),
    ],
)
def test_other_spaces_are_refused_by_name(kind: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GymnasiumTasks(kind, GOALS, horizon=5)


def test_a_family_has_one_size() -> None:
    source = GymnasiumTasks(Growing, [{"joints": 2}, {"joints": 3}], horizon=5, trajectories=1)
    with pytest.raises(ValueError, match=r"make_env: all tasks have to have the same spaces, .*\(3,\).* for joints=3"):
        acting(source)


def test_one_that_raises_is_told_with_its_task_seed_and_step() -> None:
    made: list[Raises] = []

    def make(goal: float) -> Raises:
        made.append(Raises(goal))
        return made[-1]

    source = GymnasiumTasks(make, [{"goal": -3.0}, {"goal": 4.0}], horizon=9, trajectories=2)
    with pytest.raises(
        ValueError,
        match=r"^make_env: the environment of goal=4.0 raised ZeroDivisionError: the point is lost in step 3, after "
        r"reset\(seed=\d+\); mend it there$",
    ) as raised:
        acting(source)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    tasks = source.sample("train", range(3), 0)
    assert isinstance(tasks, Tasks)
    seed = drawn_for(source, tasks, "train", 0, 0, 2).seeds[1, 0]
    assert f"seed={seed})" in str(raised.value)
    assert all(environment.closed for environment in made)


def test_a_copy_is_not_kept_after_an_error() -> None:
    made: list[Any] = []

    class Breaks(Settable, Raises):
        pass

    def make(goal: float) -> Breaks:
        made.append(Breaks(goal))
        return made[-1]

    source = GymnasiumTasks(make, [{"goal": 4.0}], horizon=9, trajectories=2)
    with pytest.raises(ValueError, match="the point is lost"):
        acting(source, count=1)
    assert [environment.closed for environment in made] == [True, True]


def test_what_is_not_finite_is_told_with_its_task() -> None:
    source = GymnasiumTasks(NotFinite, GOALS, horizon=9, trajectories=2)
    said = r"make_env: the environment of goal=[\d.]+ gave a reward that is not finite in step 2, after reset"
    with pytest.raises(ValueError, match=said):
        acting(source)


def test_an_observation_of_another_shape_than_its_space_is_no_other_number() -> None:
    class Short(Reach):
        def _seen(self) -> Any:
            return np.array([1.0])  # which could be broadcast

    with pytest.raises(ValueError, match=r"raised ValueError: cannot reshape.* in reset, after"):
        acting(GymnasiumTasks(Short, GOALS, horizon=5))


def test_a_model_of_other_outputs_is_refused_with_what_it_has_to_give() -> None:
    source = GymnasiumTasks(Reach, GOALS, horizon=5, trajectories=2)
    learner = MetaLearner(MLP(2, 1, [4]), loss=PolicySurrogate(), inner_optimizer=SGD(0.1), experience=Rollouts())
    assert learner.experience is not None
    learner.experience.connect(learner.inner_loop.model, source, 0, 1)
    with pytest.raises(ValueError, match=r"model: has to map observations \(2, 2\) to \(2, 2\).*got \(2, 1\)"):
        learner.experience.collect(learner.inner_loop, source.sample("train", [0], 0), 1, "train")


def test_tasks_that_were_made_in_python_are_recorded() -> None:
    made = partial(Reach, near=5.0)
    data = TaskDataModule(GymnasiumTasks(made, GOALS, horizon=5, trajectories=2))  # which would warn
    again = build(dict(data.hparams)["tasks"], GymnasiumTasks, "data.tasks")
    assert same(acting(data.tasks), acting(again))  # type: ignore[arg-type]  # it is such
    assert not same(acting(again), acting(GymnasiumTasks(Reach, GOALS, horizon=5, trajectories=2)))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (CategoricalPolicy(2, 1), r"model: an action of GymnasiumTasks is 1 real numbers, .*litmaml.rl.GaussianPolicy"),
        (GaussianPolicy(3, 1), r"model.observations: GaussianPolicy is for 3, and GymnasiumTasks has 2; give 2"),
        (GaussianPolicy(2, 4), r"model.actions: GaussianPolicy is for 4, and GymnasiumTasks has 1; give 1"),
    ],
)
def test_a_policy_for_other_environments_is_refused(model: torch.nn.Module, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rollouts().connect(model, GymnasiumTasks(Reach, GOALS, horizon=5), 0, 1)
