"""A policy's trajectories while it adapts: what every inner step, and the outer one, takes as its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from litmaml.inner.gradient_rule import Losses, plain
from litmaml.inner.loop import InnerLoop
from litmaml.learner.experience import Collected, Drawing, Experience
from litmaml.learner.finite_tasks import of_all_processes
from litmaml.outer import OuterGradient, OuterLoss
from litmaml.rl.adapted_policies import AdaptedPolicies
from litmaml.rl.advantages import advantages, sums_to_come
from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.distributions import log_prob
from litmaml.rl.evolution import EvolutionOfReturns
from litmaml.rl.policy_checks import check_outer_loss, check_policy, check_repeats
from litmaml.rl.trajectories import Actor, Trajectories
from litmaml.rl.trajectory_plot import film_of, trajectory_figure
from litmaml.rl.trust_region import TrustRegion
from litmaml.tasks import Batch, MetaBatch, Split, StepTasks, Tasks, select, stacks_of, tree_map
from litmaml.weights import Params


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
        self._trust_region: TrustRegion | None = None
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
        self, inner_loop: InnerLoop, tasks: Tasks, steps: int, split: Split, film: bool = False
    ) -> tuple[list[Trajectories], Params]:
        """The trajectories at theta_0, ..., theta_N, each of which is made by those before, and theta_N."""
        with self.acting(tasks, split) as actor:
            actor.film = film

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
        self._trust_region = optimizer if isinstance(optimizer, TrustRegion) else None
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

    def draw(self, inner_loop: InnerLoop, tasks: Tasks, steps: int, split: Split) -> Drawing:
        assert self._source is not None  # the learner connects it
        few = select(tasks, slice(3))
        (first, *_, last), _ = self.along_path(inner_loop, few, max(steps, 1), split, film=True)
        goals, names = self._source.goals(few.query.inputs.squeeze(1)), self._source.axes
        seen = [(path.observations.cpu(), path.mask.cpu()) for path in (first, last)]
        title = f"{type(self._source).__name__}: {steps} inner steps"
        figure = trajectory_figure(seen, None if goals is None else goals.cpu(), names, title)
        return Drawing("trajectories", figure, film_of(first.frames, last.frames))

    def goals(self) -> Mapping[str, bool]:
        return {"return": True, "success": True}

    def counts(self) -> Mapping[str, float]:
        taken = torch.tensor([self._taken], device=self.environment_steps.device)
        self.environment_steps += of_all_processes(taken, self._processes).sum()
        self._taken = 0
        found = {"environment_steps": float(self.environment_steps)}
        if self._trust_region is not None:  # its step is still to come, so that this is of the one before
            found |= {f"trust_region_{name}": value for name, value in self._trust_region.last.items()}
        return found

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
