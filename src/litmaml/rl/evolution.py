"""The outer gradient from returns alone, each of adaptations that act by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, final

from torch import Tensor, nn

from litmaml.inner.gradient_rule import GradientRule, Losses, plain
from litmaml.inner.loop import InnerLoop
from litmaml.outer import EvolutionStrategies, OuterGradient, OuterLoss
from litmaml.outer.path import AroundInner, Inner
from litmaml.randomness import Streams
from litmaml.tasks import Batch, Split, StepTasks, Tasks
from litmaml.weights import Params, Weights


class Acts(Protocol):
    """What lets policies act along a path, see ``Actor``."""

    def __call__(self, policy: Callable[[Tensor], Tensor], last: bool = False) -> Any: ...
    def restart(self) -> None: ...


class HasEnvironments(Protocol):
    """What acts in the environments of tasks, see ``Rollouts``."""

    def again(self, numbers: Tensor) -> Tasks: ...
    def acting(self, tasks: Tasks, split: Split) -> AbstractContextManager[Any]: ...
    def recorded(self, found: Any) -> Batch: ...


@final
class EvolutionOfReturns(OuterGradient):
    """ES-MAML (Song et al. 2020, arXiv 1910.01215) on the return of the adapted policy, F(theta) = E J(theta_N):

        G = 1/(2 sigma Q) sum_q [F(theta + sigma u_q) - F(theta - sigma u_q)] u_q,   u_q ~ N(0, I)

    with trajectories of their own for each of the 2 Q adaptations, which share seeds and noise. Nothing is
    differentiated, and what the weights do to the trajectories is in it: in ``EvolutionStrategies``, which takes
    recorded ones, it is not.

    Args:
        samples: Q.
        smoothing: sigma, in units of the weights.

    Raises:
        ValueError: samples or smoothing is not positive.

    Attributes:
        rollouts: That act; ``Rollouts`` of a learner give themselves.
    """

    sampled = True
    through_support = False

    def __init__(self, samples: int = 20, smoothing: float = 0.05) -> None:
        self._core = EvolutionStrategies(samples, smoothing)
        self.samples, self.smoothing = samples, smoothing
        self.rollouts: HasEnvironments | None = None

    @property
    def repeats(self) -> bool:
        return True

    @property
    def differences(self) -> bool:
        return True

    def check(self, inner_loop: InnerLoop, outer_loss: OuterLoss) -> None:
        self._core.check(inner_loop, outer_loss)

    def directions(self, weights: Weights, streams: Streams, steps: int) -> tuple[Params, ...]:
        return self._core.directions(weights, streams, steps)

    def solve(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        if self.rollouts is None:
            raise RuntimeError(
                "EvolutionOfReturns: has to act; use it in a MetaLearner whose experience is litmaml.rl.Rollouts"
            )
        assert isinstance(inner, InnerLoop)  # which predicts
        with self.rollouts.acting(self.rollouts.again(tasks.numbers), "train") as actor:
            acting = _Acting(inner, actor, self.rollouts)
            return self._core.solve(acting, OuterLoss(), start, slow, tasks, steps, epoch)


class _Acting(AroundInner):
    """An inner loop whose steps take trajectories of the policy at that step, and whose loss is minus the return."""

    def __init__(self, inner: InnerLoop, actor: Acts, rollouts: HasEnvironments) -> None:
        super().__init__(inner)
        self._predict, self._actor, self._rollouts = inner.predict, actor, rollouts

    def steps(
        self, start: Params, slow: Params, tasks: Tasks, count: int, gradient: GradientRule = plain
    ) -> Iterator[Params]:
        self._actor.restart()

        def on_policy(losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
            found = self._actor(lambda seen: self._predict({**slow, **fast}, seen))
            return gradient(losses, fast, slow, StepTasks(self._rollouts.recorded(found)))

        return self._inner.steps(start, slow, tasks, count, on_policy)

    def outcome(self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        found = self._actor(lambda seen: self._predict({**slow, **fast}, seen), last=True)
        return -found.returns, found.parameters
