"""The numbers that torch's losses are meant for: outside they give a number all the same, but not a loss."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

_ROUNDING = 1e-4


class _Range(NamedTuple):
    """From low to high, or one of the two alone."""

    low: float
    high: float
    remedy: str
    ends_only: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} {'or' if self.ends_only else 'to'} {self.high:g}"

    def outside(self, values: Tensor) -> Tensor:
        """The values that lie outside; none that is not a number."""
        if self.ends_only:
            return values[(values != self.low) & (values != self.high) & ~values.isnan()]
        return values[(values < self.low - _ROUNDING) | (values > self.high + _ROUNDING)]


_SHARES = _Range(0, 1, "give probabilities, or 0 and 1")
_SIGNS = _Range(-1, 1, "give -1 and 1", ends_only=True)
_LOG = _Range(-math.inf, 0, "end the model in LogSoftmax(dim=1)")
_LOG_SHARES = _Range(-math.inf, 0, "give log-probabilities, or set log_target to False")

_PREDICTIONS: dict[type[nn.Module], _Range] = {
    nn.BCELoss: _Range(0, 1, "end the model in a sigmoid, or use BCEWithLogitsLoss"),
    nn.NLLLoss: _LOG._replace(remedy=f"{_LOG.remedy}, or use CrossEntropyLoss"),
    nn.KLDivLoss: _LOG,
}
_TARGETS: dict[type[nn.Module], _Range] = {
    nn.BCELoss: _SHARES,
    nn.BCEWithLogitsLoss: _SHARES,
    nn.MultiLabelSoftMarginLoss: _SHARES,
    nn.KLDivLoss: _SHARES,
    nn.HingeEmbeddingLoss: _SIGNS,
    nn.SoftMarginLoss: _SIGNS,
    nn.PoissonNLLLoss: _Range(0, math.inf, "give counts, from 0 on"),
}


def check_ranges(loss: nn.Module, predictions: Tensor, targets: Tensor) -> None:
    """Refuse outputs and targets outside the range that a loss of torch is meant for.

    Raises:
        ValueError: With the first such number.
    """
    for kind, wanted in _PREDICTIONS.items():
        if isinstance(loss, kind):
            _check("model", loss, predictions, wanted)
    for kind, wanted in _TARGETS.items():
        if isinstance(loss, kind):
            _check("targets", loss, targets, _LOG_SHARES if getattr(loss, "log_target", False) else wanted)
    if isinstance(loss, nn.CrossEntropyLoss) and targets.is_floating_point():
        _check("targets", loss, targets, _SHARES)


def _check(argument: str, loss: nn.Module, values: Tensor, wanted: _Range) -> None:
    if (outside := wanted.outside(values)).numel():
        raise ValueError(
            f"{argument}: {type(loss).__name__} takes {'outputs' if argument == 'model' else 'targets'} of {wanted}, "
            f"got {float(outside[0]):.4g}; {wanted.remedy}"
        )
