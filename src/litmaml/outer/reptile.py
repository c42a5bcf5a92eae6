"""The way that a task has gone, in the place of a gradient."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from litmaml.inner.loop import InnerLoop
from litmaml.outer.given import with_gradient
from litmaml.outer.gradient import OuterGradient
from litmaml.outer.loss import OuterLoss
from litmaml.outer.path import Inner, end_of
from litmaml.outer.refusals import refuse_along, refuse_learnt
from litmaml.shown import listed
from litmaml.tasks import Tasks
from litmaml.weights import Params, constants


@final
class Reptile(OuterGradient):
    """Reptile (Nichol, Achiam and Schulman 2018, arXiv 1803.02999): the outer optimizer gets

        G = w - theta_N

    from each task, where w is the start and theta_N what N inner steps on the support make of it. Nothing is
    differentiated, and the query is only looked at: its loss is what is logged. G is not the gradient of any loss. With
    gradient descent inside it is alpha sum_j g_j. An outer SGD of rate 1 goes to the mean of the tasks' ends; in the
    paper the rate falls from 1 to 0. N gradients, and no memory for the path.

    With ``Proximal`` of strength lambda inside, lambda G is the gradient of the Moreau envelope of the support loss
    where the steps have come to its minimiser: Meta-MinibatchProx (Zhou et al. 2019) and biased regularisation (Denevi
    et al. 2019).

    Example:
        A step of rate 0.1 on l(w) = (w x - y)^2 at x = y = 1 from w = 0 moves w by 0.2:

        >>> from litmaml.inner import SGD
        >>> from litmaml.outer.meta_gradient import MetaGradientOf
        >>> from litmaml.tasks import Batch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> torch.nn.init.zeros_(model.weight).shape
        torch.Size([1, 1])
        >>> one = Batch(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
        >>> loop = InnerLoop(model, torch.nn.MSELoss(), SGD(0.1), ["*"], steps=1)
        >>> found = MetaGradientOf(loop, Reptile(), 1)(Tasks((one,), one, torch.zeros(1).long()))
        >>> round(found.gradients["model.weight"].item(), 6)
        -0.2
    """

    through_support = False

    def check(self, inner_loop: InnerLoop, outer_loss: OuterLoss) -> None:
        if still := [*inner_loop.slow_names, *inner_loop.rows]:
            raise ValueError(
                f"fast_weights: Reptile moves what is adapted, and {listed(still, 3)} would stay as it is; set "
                "fast_weights to *, leave out per_step_weights, or name the others in frozen_weights"
            )
        refuse_learnt(inner_loop, "Reptile")
        refuse_along(outer_loss, "Reptile", "step_weights", "along")
        if outer_loss.loss is not None:
            raise ValueError(
                "outer_loss.loss: would be logged and not trained, since Reptile takes no gradient on the query, got "
                f"{type(outer_loss.loss).__name__}; leave it out"
            )
        if inner_loop.head is not None and inner_loop.head.start == "prototypes":
            raise ValueError(
                "head_start: Reptile would move a head that is made of the body's prototypes anew, got prototypes; set "
                "it to learnt or zero"
            )

    def solve(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        tasks.check_batches(steps)
        if tasks.hessian is not None:
            raise ValueError(
                f"hessian_batches: Reptile takes no Hessian products, got {len(tasks.hessian)} per task; set it to 0"
            )
        with torch.no_grad():
            end = end_of(inner.steps(constants(start), slow, tasks, steps))
            losses, predictions = inner.outcome(end, inner.at_query(slow, steps), tasks.query, outer_loss.loss)
        return with_gradient(losses, {name: start[name] - end[name] for name in start}, start), predictions
