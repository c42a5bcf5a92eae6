"""A policy's trajectories while it adapts: what every inner step, and the outer one, takes as its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from litmaml.inner.gradient_rule import Losses, plain
from litmaml.inner.loop import InnerLoop
from litmaml.learner.experience import Collected, Experience
from litmaml.learner.finite_tasks import of_all_processes
from litmaml.outer import OuterGradient, OuterLoss
from litmaml.randomness import task_streams
from litmaml.rl.adapted_policies import AdaptedPolicies
from litmaml.rl.advantages import advantages, sums_to_come
from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.distributions import act, log_prob
from litmaml.rl.environments import Environments
from litmaml.rl.evolution import EvolutionOfReturns
from litmaml.rl.policy_checks import check_outer_loss, check_outputs, check_policy, check_repeats
from litmaml.rl.trajectory_plot import trajectory_figure
from litmaml.rl.trust_region import TrustRegion
from litmaml.tasks import Batch, MetaBatch, Split, StepTasks, Tasks, select, stacks_of, tree_map
from litmaml.weights import Params


class Trajectories(NamedTuple):
    """K trajectories of at most H steps in each of T tasks.

    observations: (T, K, H, o). actions: (T, K, H, a), or (T, K, H) indices. parameters: (T, K, H, ...) of the policy
    that acted. rewards: (T, K, H), zero after the end. mask: (T, K, H), 1 until the end. success: (T, K), whether the
    aim was reached in any step, or None.
    """

    observations: Tensor
    actions: Tensor
    parameters: Tensor
    rewards: Tensor
    mask: Tensor
    success: Tensor | None

    @property
    def returns(self) -> Tensor:
        """The sum of the rewards of a trajectory, as a mean for each task (T,)."""
        return self.rewards.sum(-1).mean(-1)


class Chance(NamedTuple):
    """What is drawn for the trajectories of T tasks.

    seeds: (T, K) of the environments. noise: (T, K, H, a) normal for real actions, (T, K, H) uniform for indices.
    chance: (T, K, H) uniform.
    """

    seeds: Tensor
    noise: Tensor
    chance: Tensor


def drawn_for(source: ControlTasks, tasks: Tasks, split: Split, seed: int, step: int, copies: int) -> Chance:
    """What trajectories of an inner step draw: a function of seed, split, task number and step alone."""
    shape, device, dtype = (copies, source.horizon), tasks.query.device, torch.get_default_dtype()
    seeds, noise, chance = [], [], []
    for stream in task_streams(seed, split, tasks.numbers.tolist(), "rollouts", block=step):
        seeds.append(stream.integers(2**31, size=copies))
        noise.append(stream.random(shape) if source.discrete else stream.standard_normal((*shape, source.actions)))
        chance.append(stream.random(shape))
    as_tensors = [torch.from_numpy(np.stack(each)).to(device) for each in (seeds, noise, chance)]
    return Chance(as_tensors[0], as_tensors[1] if source.discrete else as_tensors[1].to(dtype), as_tensors[2])


def roll_out(policy: Callable[[Tensor], Tensor], environments: Environments, drawn: Chance) -> Trajectories:
    """The trajectories of a policy that maps observations (T, K, o) to parameters (T, K, ...)."""
    seen, taken, told, paid, kept = [], [], [], [], []
    observations = environments.start(drawn.seeds)
    going = torch.ones_like(drawn.seeds, dtype=torch.bool)
    success: Tensor | None = None
    for t in range(drawn.chance.shape[2]):
        # Whatever an environment gives after its end, not a number included, is recorded nowhere.
        observations = torch.where(going.unsqueeze(-1), observations, 0.0)
        parameters = policy(observations)
        actions = act(parameters, drawn.noise[:, :, t])
        seen.append(observations)
        taken.append(actions)
        told.append(parameters)
        kept.append(going)
        observations, rewards, ended, reached = environments.step(actions, drawn.chance[:, :, t], going)
        paid.append(torch.where(going, rewards, 0.0))
        if reached is not None:
            success = reached & going if success is None else success | (reached & going)
        going = going & ~ended
    found = [torch.stack(each, dim=2) for each in (seen, taken, told, paid, kept)]
    return Trajectories(found[0], found[1], found[2], found[3], found[4].to(found[3].dtype), success)


class Actor:
    """Lets policies act in the environments of tasks, one after another along the path of inner steps.

    Attributes:
        found: The trajectories so far.
        steps: Taken in all environments by now, also on earlier paths.
    """

    def __init__(self, source: ControlTasks, environments: Environments, tasks: Tasks, split: Split, seed: int) -> None:
        self._source, self._environments, self._tasks = source, environments, tasks
        self._split, self._seed = split, seed
        self.found: list[Trajectories] = []
        self.steps = 0

    def __call__(self, policy: Callable[[Tensor], Tensor], last: bool = False) -> Trajectories:
        """The trajectories of a policy, observations (T, K, o) to parameters; ``last``: of the adapted one."""
        source, sizes = self._source, self._source.sizes(self._split)

        def checked(observations: Tensor) -> Tensor:
            parameters = policy(observations)
            check_outputs(parameters, observations, source)
            return parameters

        copies = sizes.queries if last else sizes.shots
        drawn = drawn_for(source, self._tasks, self._split, self._seed, len(self.found), copies)
        with torch.no_grad():
            self.found.append(roll_out(checked, self._environments, drawn))
        self.steps += int(self.found[-1].mask.sum(dtype=torch.float64))
        return self.found[-1]

    def restart(self) -> None:
        """Begin the path anew: the same noise comes again."""
        self.found = []


class Rollouts(Experience):
    """Lets the policy act at theta_0, ..., theta_N: the trajectories D_j at theta_j are the support of inner step j,
    and those at theta_N the query.

    Trajectories are a function of seed, split, task number, inner step and weights. Within one batch of tasks several
    outer steps take the same ones, as those of ``ProMP`` and of line searches do.

    Args:
        discount: gamma.
        gae: lambda of the generalised advantage estimates; 1 for the return minus the baseline.
        normalise: Whether advantages have mean 0 and variance 1 in each task, which makes inner steps free of the scale
            of rewards. What is exact of the surrogates' derivatives holds without.

    Raises:
        ValueError: discount or gae is out of its range.
    """

    def __init__(self, discount: float = 0.99, gae: float = 1.0, normalise: bool = True) -> None:
        super().__init__()
        for name, value in (("discount", discount), ("gae", gae)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}: has to be above 0 and at most 1, got {value}")
        self.discount, self.gae, self.normalise = discount, gae, normalise
        self.environment_steps: Tensor
        self.register_buffer("environment_steps", torch.zeros((), dtype=torch.int64))
        self._source: ControlTasks | None = None
        self._seed, self._processes, self._taken, self._tried = 0, 1, 0, False
        self._last: tuple[MetaBatch, Collected] | None = None

    def connect(self, model: nn.Module, source: object, seed: int, processes: int) -> None:
        if not isinstance(source, ControlTasks):
            raise ValueError(
                f"experience: Rollouts acts in environments, got tasks of {type(source).__name__}; give data.tasks as "
                "ControlTasks, such as litmaml.rl.Navigation"
            )
        check_policy(model, source)
        self._source, self._seed, self._processes, self._last = source, seed, processes, None
        self._taken, self._tried = 0, False

    def collect(self, inner_loop: InnerLoop, tasks: MetaBatch, steps: int, split: Split) -> Collected:
        if split == "train" and self._last is not None and self._last[0] is tasks:
            return self._last[1]  # another outer step on the same trajectories
        (stack,) = stacks_of(tasks)
        path, _ = self.along_path(inner_loop, stack, steps, split)
        batches = [self.recorded(each) for each in path]
        gains = self._gains(path[-1], self._processes if split == "train" else 1).unsqueeze(1)
        for batch in batches:
            batch.targets["gains"] = gains.expand(-1, batch.examples)
        measured = {"return": torch.stack([each.returns for each in path], dim=1)}
        if successes := [each.success.to(gains.dtype).mean(-1) for each in path if each.success is not None]:
            measured["success"] = torch.stack(successes, dim=1)
        made = stack._replace(support=tuple(batches[:-1]), query=batches[-1])
        if not self._tried:
            check_repeats(inner_loop, made)
            self._tried = True
        collected = Collected(made, measured)
        if split == "train":
            self._last = tasks, collected
        return collected

    def along_path(
        self, inner_loop: InnerLoop, tasks: Tasks, steps: int, split: Split
    ) -> tuple[list[Trajectories], Params]:
        """The trajectories at theta_0, ..., theta_N, each of which is made by those before, and theta_N."""
        with self.acting(tasks, split) as actor:

            def on_policy(losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
                found = actor(lambda seen: inner_loop.predict(fast, seen, slow))
                return plain(losses, fast, slow, StepTasks(self.recorded(found)))

            *_, adapted = inner_loop.path(tasks, steps, on_policy)
            slow = inner_loop.at_query(inner_loop.start(tasks).slow, steps)
            actor(lambda seen: inner_loop.predict(adapted, seen, slow), last=True)
            return actor.found, adapted

    @contextmanager
    def acting(self, tasks: Tasks, split: Split) -> Iterator[Actor]:
        """What acts in the environments of these tasks, step after step."""
        assert self._source is not None  # the learner connects it
        environments = self._source.environments(tasks.query.inputs.squeeze(1))
        actor = Actor(self._source, environments, tasks, split, self._seed)
        try:
            yield actor
        finally:
            environments.close()
            self._taken += actor.steps if split == "train" else 0

    def again(self, numbers: Tensor) -> Tasks:
        """The training tasks with these numbers, without data."""
        assert self._source is not None  # the learner connects it
        tasks = self._source.sample("train", numbers.tolist(), self._seed)
        return tree_map(lambda part: part.to(numbers.device), tasks)

    def recorded(self, found: Trajectories) -> Batch:
        """What a surrogate takes of them, trajectories as examples."""
        better = advantages(found.observations, found.rewards, found.mask, self.discount, self.gae, self.normalise)
        targets = {
            "actions": found.actions,
            "log_probs": log_prob(found.parameters, found.actions) * found.mask,
            "parameters": found.parameters,
            "advantages": better,
            "mask": found.mask,
        }
        return Batch(found.observations, targets)

    def end_batch(self) -> None:
        self._last = None

    def help_step(
        self, optimizer: torch.optim.Optimizer, inner_loop: InnerLoop, outer_loss: OuterLoss, batches: int
    ) -> None:
        check_outer_loss(outer_loss)
        if isinstance(optimizer, TrustRegion):
            if batches > 1:
                raise ValueError(
                    "trainer.accumulate_grad_batches: TrustRegion measures a step on the trajectories of one batch, "
                    f"got {batches}; leave it out, and give data.meta_batch all tasks of a step"
                )
            if inner_loop.learnt.names:
                raise ValueError(
                    f"optimizer: TrustRegion moves the policy alone, got learnt {inner_loop.learnt.names[0]}; leave "
                    "learn out of the inner optimizer, or take Adam"
                )
            optimizer.policies = AdaptedPolicies(inner_loop, outer_loss, self._recorded_tasks, self._processes)

    def help_gradient(self, outer_gradient: OuterGradient) -> None:
        if isinstance(outer_gradient, EvolutionOfReturns):
            outer_gradient.rollouts = self

    def draw(self, inner_loop: InnerLoop, tasks: Tasks, steps: int, split: Split) -> tuple[str, Figure]:
        assert self._source is not None  # the learner connects it
        few = select(tasks, slice(3))
        (first, *_, last), _ = self.along_path(inner_loop, few, max(steps, 1), split)
        goals, names = self._source.goals(few.query.inputs.squeeze(1)), self._source.axes
        seen = [(path.observations.cpu(), path.mask.cpu()) for path in (first, last)]
        title = f"{type(self._source).__name__}: {steps} inner steps"
        return "trajectories", trajectory_figure(seen, None if goals is None else goals.cpu(), names, title)

    def goals(self) -> Mapping[str, bool]:
        return {"return": True, "success": True}

    def counts(self) -> Mapping[str, float]:
        taken = torch.tensor([self._taken], device=self.environment_steps.device)
        self.environment_steps += of_all_processes(taken, self._processes).sum()
        self._taken = 0
        return {"environment_steps": float(self.environment_steps)}

    def _recorded_tasks(self) -> Tasks:
        assert self._last is not None  # a step is taken in a batch
        (stack,) = stacks_of(self._last[1].tasks)
        better = [batch.targets["advantages"].flatten(1) for batch in (*stack.support, stack.query)]
        finite = torch.cat(better, dim=1).isfinite().all(1)  # those of others are in no gradient
        return select(stack, finite.nonzero().squeeze(1)) if finite.any() else stack

    def _gains(self, adapted: Trajectories, processes: int) -> Tensor:
        """J - b (T,): the discounted return of the adapted policy over the mean of the other tasks', of all processes;
        over the standard deviation, too, where advantages are normalised."""
        found = sums_to_come(adapted.rewards, self.discount)[..., 0].mean(-1)
        every = of_all_processes(found, processes)
        every = every[every.isfinite()]
        if len(every) < 2:
            return found
        gains = (found - every.mean()) * len(every) / (len(every) - 1)
        return gains / (every.std() + 1e-8) if self.normalise else gains
