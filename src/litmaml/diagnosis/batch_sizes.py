"""How many tasks and examples a step should have."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from litmaml.diagnosis.findings import Choice, Findings
from litmaml.measure import theory
from litmaml.measure.estimate import Estimate
from litmaml.statistics.interval import student_quantile


@dataclass(frozen=True)
class Batches:
    """Numbers of tasks and examples; those that are None cannot be told.

    configured: The user's meta-batch. recommended: The one that ``Choice`` names.
    noise_scale: See ``noise_scale``.
    hessian_samples: D_h, for a Hessian product.
    step_tasks, step_samples: B' and D_beta, for the gradients in the outer step of the theory.
    """

    configured: int
    recommended: int
    noise_scale: Estimate
    hessian_samples: int | None
    step_tasks: int | None
    step_samples: int | None


def noise_scale(exact: Tensor) -> Estimate:
    """S^2 / |grad F|^2, S^2 the variance of one task's outer gradient: the number of tasks a step at which noise and
    signal are equal (McCandlish et al. 2018, arXiv 1812.06162).

    |grad F|^2 is estimated by the mean product of two tasks' gradients, the interval by leaving out each task in turn.

    Args:
        exact: The exact outer gradients of T tasks (T, D).
    """
    exact = exact.double()
    count = len(exact)
    if count < 4:
        return Estimate(None, note=f"{count} tasks are too few")
    products = (exact @ exact.T).cpu()
    own = products.diagonal()
    total, trace = products.sum(), own.sum()
    signal = float((total - trace) / (count * (count - 1)))
    # Leaving out one task takes away its row and its column.
    signals = (total - trace - 2 * (products.sum(1) - own)) / ((count - 1) * (count - 2))
    squares = (trace - own) / (count - 1)
    reach = student_quantile(count - 1) * (count - 1) ** 0.5  # times the standard deviation of the count values
    if signal <= reach * float(signals.std(correction=0)) or bool((signals <= 0).any()):
        return Estimate(
            None,
            note=f"the mean outer gradient of {count} tasks is not told apart from zero: near an optimum, or too few "
            "tasks",
        )
    value = max(float(trace / count) / signal - 1, 0.0)
    logarithms = (squares / signals - 1).clamp(min=1e-12).log()
    factor = math.exp(min(reach * float(logarithms.std(correction=0)), 50.0))
    return Estimate(value, value / factor, value * factor, f"the exact outer gradients of {count} tasks")


def choose_batches(found: Findings) -> tuple[Batches, Choice]:
    """The meta-batch by the noise scale, and the sizes that the theorems ask for."""
    own, scale = found.meta_batch, noise_scale(found.exact)
    if scale.value is None:
        recommended = max(own, 20)
        value = f"{recommended} or more"
        reason = f"{scale.note}; the noise of a step falls as 1/sqrt(tasks), and the theorems ask for at least 20"
    else:
        enough = scale.value <= 2 * own
        recommended = own if enough else math.ceil(scale.value)
        value = f"{own}, as it is" if enough else f"{recommended} instead of {own}"
        reason = (
            f"one task's outer gradient varies so that noise and signal are equal at {scale.value:.2g} tasks: below, "
            "more tasks a step save as many steps, far above they save none; the number grows as training goes on"
        )
    batches = Batches(own, recommended, scale, *_theorems(found))
    return batches, Choice("meta-batch", value, reason)


def _theorems(found: Findings) -> tuple[int | None, int | None, int | None]:
    """D_h, B' and D_beta."""
    noise, rho = found.noise, found.curvature.hessian_lipschitz.value
    spread, sample, hessian = noise.task_spread.value, noise.sample_noise.value, noise.hessian_noise.value
    products = None if hessian is None else theory.hessian_batch(found.rate, hessian * noise.samples**0.5)
    if rho is None or spread is None or sample is None:
        return products, None, None
    return products, *theory.step_batches(found.rate, found.smoothness, rho, spread, sample)
