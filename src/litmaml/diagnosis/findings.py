"""What a diagnosis measured, and the form of what it advises."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from litmaml.measure.curvature import Curvature
from litmaml.measure.estimator_errors import EstimatorError, ProbeScan
from litmaml.measure.noise import Noise
from litmaml.measure.stability import Stability
from litmaml.weights import Params


@dataclass(frozen=True)
class Findings:
    """What the advice rests on.

    exact: The exact outer gradients of the tasks (T, D). rate: The configured inner rate. plain_descent: Whether
    the inner optimizer is SGD without momentum and decay. kinks: The layers that have some. residuals: What the
    configured outer gradient tells of how true it is, of each task. own_cosine: Between its mean and the exact one's.
    """

    curvature: Curvature
    noise: Noise
    stability: Stability
    estimators: list[EstimatorError]
    probes: ProbeScan | None
    exact: Tensor
    steps: int
    rate: float
    plain_descent: bool
    meta_batch: int
    kinks: list[str]
    batch_norm: bool
    residuals: Params
    own_cosine: float

    @property
    def smoothness(self) -> float:
        """L, not zero."""
        return max(self.curvature.smoothness.value or 0.0, 1e-300)

    def row(self, name: str) -> EstimatorError:
        """The errors of an outer gradient by its name."""
        return next(row for row in self.estimators if row.name == name)


@dataclass(frozen=True)
class Choice:
    """One recommendation: what of, which value, and the reason in plain words."""

    what: str
    value: str
    reason: str
