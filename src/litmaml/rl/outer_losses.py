"""Outer losses along the path of a policy that adapts."""

from __future__ import annotations

from torch import Tensor, nn

from litmaml.outer import OuterLoss
from litmaml.outer.loss import Outcomes
from litmaml.rl.distributions import divergence, log_prob
from litmaml.rl.surrogate import ClippedSurrogate, Per, Targets
from litmaml.tasks import Batch
from litmaml.weights import Params


class ScoreCorrection(OuterLoss):
    """The outer loss with what the weights do to the trajectories that are adapted to: E-MAML (Stadie et al. 2018,
    arXiv 1803.01118), SG-MRL (Fallah et al. 2021, arXiv 2002.05135).

    Adds to each task's loss - weight (J - b) sum_j sum_{tau in D_j} log p_{theta_j}(tau), with J the discounted return
    of the adapted policy and b that of the batch's other tasks, constants both. With weight 1, the score as inner loss
    and advantages that are not normalised, the gradient is that of F(theta) = E_{D ~ theta} J(theta'(D)) itself. Its
    noise does not fall with more trajectories: it takes many tasks, or a smaller weight.

    Args:
        loss: Of the query; by default the inner one.
        weight: Of the correction, in units of the loss; 1 / (K H) is the size of a mean over steps.

    Raises:
        ValueError: weight is not positive.
    """

    def __init__(self, loss: nn.Module | None = None, weight: float = 1.0) -> None:
        super().__init__(loss)
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight: has to be a positive number, got {weight}")
        self.weight = weight
        self._scores = _Scores()

    def along(self, inner: Outcomes, j: int, fast: Params, slow: Params, support: Batch) -> Tensor:
        return self.weight * inner.outcome(fast, slow, support, self._scores)[0]


class _Scores(nn.Module):
    """- (J - b) sum log p of a task's trajectories."""

    def forward(self, parameters: Tensor, targets: Targets) -> Tensor:
        logs = (log_prob(parameters, targets["actions"]) * targets["mask"]).sum(-1)
        return -(targets["gains"] * logs).sum()


class ProMP(OuterLoss):
    """The clipped loss of several outer steps on the same trajectories (Rothfuss et al. 2019, arXiv 1810.06784): see
    ``ClippedSurrogate``, with ``RepeatedAdam`` as the optimizer. Adds penalty times the mean over steps of
    KL(pi_acted || pi_theta_j) on the trajectories of each inner step.

    Args:
        clip: Of the ratio on the query.
        penalty: eta, of the divergence.
        discount: See ``PolicySurrogate``.
        per: Likewise.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, clip: float = 0.3, penalty: float = 5e-4, discount: float = 1.0, per: Per = "step") -> None:
        super().__init__(ClippedSurrogate(clip, discount, per))
        if not 0 <= penalty < float("inf"):
            raise ValueError(f"penalty: must not be negative, got {penalty}")
        self.clip, self.penalty, self.discount, self.per = clip, penalty, discount, per
        self._moved = _Moved()

    def along(self, inner: Outcomes, j: int, fast: Params, slow: Params, support: Batch) -> Tensor:
        return self.penalty * inner.outcome(fast, slow, support, self._moved)[0]


class _Moved(nn.Module):
    """The mean of KL over the steps of a task's trajectories."""

    def forward(self, parameters: Tensor, targets: Targets) -> Tensor:
        apart = divergence(targets["parameters"], parameters, not targets["actions"].is_floating_point())
        return (apart * targets["mask"]).sum() / targets["mask"].sum()
