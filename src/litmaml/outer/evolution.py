"""The outer gradient from outer losses alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from litmaml.inner.gradient_rule import GradientRule, Losses, plain
from litmaml.inner.loop import InnerLoop
from litmaml.outer.given import with_gradient
from litmaml.outer.gradient import OuterGradient
from litmaml.outer.loss import OuterLoss
from litmaml.outer.path import AroundInner, Inner, loss_of_path
from litmaml.outer.refusals import refuse_along, refuse_learnt, refuse_rows
from litmaml.randomness import Streams, normal_directions
from litmaml.tasks import Batch, StepTasks, Tasks
from litmaml.weights import Params, Weights, added, moved, scaled, zeros


@final
class EvolutionStrategies(OuterGradient):
    """ES-MAML (Song et al. 2020, arXiv 1910.01215), antithetic: from the outer loss F of each task, which its whole
    adaptation is part of,

        G = 1/(2 sigma Q) sum_q [F(w + sigma u_q) - F(w - sigma u_q)] u_q,   u_q ~ N(0, I), q = 1..Q

    in all that is trained, with directions of each task's own. In the mean it is the gradient of F smoothed by
    N(0, sigma^2 I), on quadratics that of F itself; its variance is (d + 1)/Q of |grad F|^2 for d weights. It takes 2 Q
    adaptations and one to look at, and any that there are: nothing is differentiated. For very small models, or where
    there is no derivative.

    Args:
        samples: Q.
        smoothing: sigma, in units of the weights.

    Raises:
        ValueError: samples or smoothing is not positive.

    Example:
        Along u = 1 of l(w) = (w - 1)^2, whose gradient at w = 0 is -2, without an inner step:

        >>> from litmaml.inner import SGD
        >>> from litmaml.inner.loop import InnerLoop
        >>> model = nn.Linear(1, 1, bias=False)
        >>> nn.init.zeros_(model.weight).shape
        torch.Size([1, 1])
        >>> one = Batch(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
        >>> loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], steps=1)
        >>> tasks = Tasks((one,), one, torch.zeros(1).long(), directions=({"weight": torch.ones(1, 1, 1, 1)},))
        >>> losses, _ = EvolutionStrategies(1).solve(loop, OuterLoss(), *loop.start(tasks), tasks, steps=0)
        >>> losses.backward()
        >>> round(model.weight.grad.item(), 4)
        -2.0
    """

    sampled = True
    through_support = False

    def __init__(self, samples: int = 20, smoothing: float = 0.05) -> None:
        if samples < 1:
            raise ValueError(f"samples: has to be at least 1, got {samples}")
        if not 0 < smoothing < float("inf"):
            raise ValueError(f"smoothing: has to be a positive number, got {smoothing}")
        self.samples, self.smoothing = samples, smoothing

    @property
    def repeats(self) -> bool:
        return True

    @property
    def differences(self) -> bool:
        return True

    def check(self, inner_loop: InnerLoop, outer_loss: OuterLoss) -> None:
        refuse_along(outer_loss, "EvolutionStrategies", "along")
        refuse_learnt(inner_loop, "EvolutionStrategies")
        refuse_rows(inner_loop, "EvolutionStrategies", "a direction has no row for each step")

    def directions(self, weights: Weights, streams: Streams, steps: int) -> tuple[Params, ...]:
        return normal_directions({**weights.fast, **weights.slow}, self.samples, streams, 1)

    def solve(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        assert tasks.directions is not None  # what solves a sampled outer gradient draws them
        (directions,), tasks = tasks.directions, tasks._replace(directions=None)
        each, own = _EachItsOwn(inner), {name: w.expand(tasks.size, *w.shape) for name, w in slow.items()}

        def outcome(weights: Params) -> tuple[Tensor, Tensor]:
            of_task = {name: weights.get(name, w) for name, w in start.items()}, {name: weights[name] for name in own}
            return loss_of_path(each, outer_loss, *of_task, tasks, steps, epoch)

        here = {name: w for name, w in start.items() if name not in inner.fixed_starts} | own
        with torch.no_grad():
            losses, predictions = outcome(here)
            found, length = zeros(here), torch.full_like(losses, self.smoothing)
            with torch.autocast(losses.device.type, enabled=False):  # in half precision a difference would drown
                for q in range(self.samples):
                    direction = {name: directions[name][:, q] for name in here}
                    ahead, behind = (outcome(moved(here, direction, way))[0] for way in (length, -length))
                    found = added(found, scaled(direction, (ahead - behind) / (2 * self.smoothing * self.samples)))
        return with_gradient(losses, found, here), predictions


class _EachItsOwn(AroundInner):
    """An inner loop whose slow weights are of each task (T, ...), too."""

    def losses(self, fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
        return self._inner.losses({**slow, **fast}, {}, batch, twice)

    def steps(
        self, start: Params, slow: Params, tasks: Tasks, count: int, gradient: GradientRule = plain
    ) -> Iterator[Params]:
        def by_fast(losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
            return gradient(self.losses, fast, slow, step)

        return self._inner.steps(start, slow, tasks, count, by_fast)

    def at_query(self, slow: Params, j: int) -> Params:
        return slow

    def outcome(self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        return self._inner.outcome({**slow, **fast}, {}, batch, loss)
