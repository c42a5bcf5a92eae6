"""What an outer gradient tells of how true it is, watched in training."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn

from litmaml.weights import Params

LARGE = 0.5
"""|grad l + lambda (theta_N - w)| as a share of |lambda (theta_N - w)|: on sinusoids the cosine of iMAML's gradient and
the one through the steps is .97 at .2 and .7 from .9 on (scripts/implicit_cosines.py)."""
_GROWN, _NOTICED = 3.0, 0.1


class Residuals:
    """Warns once where the end of the inner steps is no minimiser, or is one less and less."""

    def __init__(self) -> None:
        self._least, self._warned = float("inf"), False

    def look(self, found: Params) -> dict[str, float]:
        """Their means over the tasks, by name."""
        means = {name: float(values.mean()) for name, values in found.items()}
        share = means.get("stationarity")
        if share is not None and not self._warned:
            grown = share > max(_NOTICED, _GROWN * self._least)
            if share > LARGE or grown:
                self._warned = True
                rank_zero_warn(
                    "outer_gradient: the end of the inner steps is no minimiser, as Implicit takes it for: |grad l + "
                    f"lambda (theta - w)| is {share:.2g} of |lambda (theta - w)|"
                    + (f", and was {self._least:.2g}" if grown and self._least < share else "")
                    + "; raise inner_optimizer.strength, take more inner steps, or lower the inner rate below "
                    "2 / (L + lambda)"
                )
            self._least = min(self._least, share)
        return means
