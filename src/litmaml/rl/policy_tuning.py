"""One fine-tuning from a meta-checkpoint of a policy to an environment of one's own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from litmaml.data.episode import Episode
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint
from litmaml.finetuning.model_folder import Recipe
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.inner.optimizer import InnerOptimizer
from litmaml.randomness import seeded
from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.rollouts import Rollouts
from litmaml.rl.trajectories import Trajectories
from litmaml.rl.trajectory_plot import film_of, trajectory_figure
from litmaml.runs.recipe import build
from litmaml.statistics.interval import Interval, interval
from litmaml.weights import Params

FROM_CHECKPOINT, FROM_RANDOM = "meta-learnt", "random weights"


@dataclass
class PolicyTuned:
    """A fine-tuning of a policy, and its results.

    Args:
        model: The adapted policy.
        checkpoint: Its start.
        task: The parameters of its environment, in words.
        trajectories: Those of each inner step.
        curves: The return over trajectories after 0, 1, ... steps, from the checkpoint and from random weights.
        figure: Where the policy goes before and after adaptation.
        film: Of one trajectory each, as a GIF; None where the environment does not render.
        observations: Some that it has seen (n, o).
        discrete: Whether an action is one of some choices.
    """

    model: AdaptedModel
    checkpoint: MetaCheckpoint
    task: str
    trajectories: int
    curves: Mapping[str, list[Interval]]
    figure: Figure
    film: bytes | None
    observations: Tensor
    discrete: bool

    @property
    def mean_action(self) -> nn.Module:
        """The policy as it acts where it does not explore, for export."""
        return MeanAction(self.model, self.discrete).eval()


def tune_policy(
    start: MetaCheckpoint,
    source: ControlTasks,
    task: str,
    steps: int | None = None,
    trajectories: int = 20,
    lr: float | None = None,
    seed: int = 0,
) -> PolicyTuned:
    """Let a meta-learnt policy act in an environment and adapt to what it gets there.

    Args:
        start: The checkpoint, of a learner whose experience is ``Rollouts``.
        source: A family of the one environment.
        task: Its parameters, in words.
        steps: Inner steps; by default as in the checkpoint's own tests.
        trajectories: Of each inner step, and of the adapted policy.
        lr: Inner rate for all steps; by default what was meta-learnt, or a fixed rate, halved after the first step.
        seed: Of the trajectories, and of the random weights.

    Raises:
        ValueError: The checkpoint is no policy's, or does not fit the environment; or a number is too small.
    """
    learner = start.learner
    if not isinstance(learner.experience, Rollouts):
        raise ValueError(f"checkpoint: {start.name!r} is not of a policy; leave out env and task, and give data")
    steps = learner.evaluation_steps if steps is None else steps
    for name, count, least in (("steps", steps, 0), ("trajectories", trajectories, 1)):
        if count < least:
            raise ValueError(f"{name}: has to be at least {least}, got {count}")
    source = source.resized(Episode(shots=trajectories, queries=trajectories))
    rollouts, loop = learner.experience, _with_rate(learner.inner_loop, lr)
    rollouts.connect(loop.model, source, seed, 1)
    tasks = source.sample("test", [0], seed)
    path, adapted = rollouts.along_path(loop, tasks, steps, "test", film=True)
    with seeded(seed, torch.device("cpu")):
        other = _with_random_weights(learner.hparams.get("model"), loop)
    unlearnt, _ = rollouts.along_path(other, tasks, steps, "test")
    goals = source.goals(tasks.query.inputs.squeeze(1))
    few = [(each.observations, each.mask) for each in (path[0], path[-1])]
    return PolicyTuned(
        _policy(start, adapted, steps, path),
        start,
        task,
        trajectories,
        {FROM_CHECKPOINT: _returns(path), FROM_RANDOM: _returns(unlearnt)},
        trajectory_figure(few, goals, source.axes, f"{task}: before and after {steps} inner steps"),
        film_of(path[0].frames, path[-1].frames),
        path[-1].observations[0].flatten(0, 1),
        source.discrete,
    )


def halved(optimizer: InnerOptimizer) -> InnerOptimizer:
    """The optimizer with a fixed rate halved after the first step, as Finn et al. 2017 have it; any other as it is."""
    if isinstance(optimizer, SGD) and optimizer.learn == "none" and optimizer.later_lr is None:
        return dataclasses.replace(optimizer, later_lr=optimizer.lr / 2)
    return optimizer


def _with_rate(loop: InnerLoop, lr: float | None) -> InnerLoop:
    loop = copy.copy(loop)
    loop.optimizer = halved(loop.optimizer) if lr is None else SGD(lr)
    return loop


def _with_random_weights(recipe: Any, loop: InnerLoop) -> InnerLoop:
    """The same inner loop around the model as it is made."""
    made = copy.deepcopy(loop)
    made.model.load_state_dict(build(recipe, nn.Module, "model").state_dict())
    return made


def _returns(path: list[Trajectories]) -> list[Interval]:
    return [interval(each.rewards.sum(-1)[0]) for each in path]


def _policy(start: MetaCheckpoint, adapted: Params, steps: int, path: list[Trajectories]) -> AdaptedModel:
    network = copy.deepcopy(start.learner.inner_loop.model)
    with torch.no_grad():
        for name, weight in adapted.items():
            network.get_parameter(name).copy_(weight[0])
    source = {
        "checkpoint": start.name,
        "trajectories": path[0].rewards.shape[1],
        "inner_steps": steps,
        "litmaml": version("litmaml"),
    }
    recipe = Recipe(start.learner.hparams.get("model"), (), 0, source, start.learner.batch_norm)
    observations = path[-1].observations[0, :, 0]
    return AdaptedModel(network, None, None, recipe, observations, None, None)


class MeanAction(nn.Module):
    """What an adapted policy does where it does not explore: observations (n, o) to the mean action (n, a), or to the
    index of the likeliest (n,)."""

    def __init__(self, policy: nn.Module, discrete: bool) -> None:
        super().__init__()
        self.policy, self.discrete = policy, discrete

    def forward(self, observations: Tensor) -> Tensor:
        parameters = self.policy(observations)
        return cast(Tensor, parameters.argmax(-1) if self.discrete else parameters.chunk(2, -1)[0])
