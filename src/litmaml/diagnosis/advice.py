"""What to choose, from the measured quantities and the theory, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from litmaml.diagnosis.batch_sizes import Batches, choose_batches
from litmaml.diagnosis.findings import Choice, Findings
from litmaml.diagnosis.gradient_choice import choose_gradient
from litmaml.diagnosis.implicit_choice import choose_implicit
from litmaml.measure import theory
from litmaml.measure.estimate import Estimate
from litmaml.measure.stability import FURTHER
from litmaml.outer import SecondOrder


@dataclass(frozen=True)
class Rates:
    """Inner rates.

    configured: The user's, or the mean of learnt ones.
    stable: 2 / L, beyond which gradient steps grow along the sharpest direction.
    fallah: 1 / L. ji: (2^(1/(2N)) - 1) / L. ji_corollary: 1 / (8 N L).
    recommended: The one that ``Choice`` names.
    """

    configured: float
    stable: float
    fallah: float
    ji: float
    ji_corollary: float
    recommended: float


@dataclass(frozen=True)
class Advice:
    """Rates, outer step, batch sizes, and the choices in plain words.

    meta_step: beta, a step of plain gradient descent for the outer loop.
    adaptation_bias: alpha L sigma~ / sqrt(D_in), a bound.
    first_order_distance: |first order - exact| / |exact| of one task's outer gradient (root mean square).
    """

    rates: Rates
    meta_step: Estimate
    adaptation_bias: Estimate
    first_order_distance: float
    batches: Batches
    choices: list[Choice]


def advise(found: Findings) -> Advice:
    """Applies the theory to the findings."""
    size, noise = found.smoothness, found.noise.support_noise
    rate_choice, recommended = _choose_rate(found)
    batches, batch_choice = choose_batches(found)
    distance = found.row("FirstOrder()").error
    assert distance is not None
    rates = Rates(
        configured=found.rate,
        stable=2 / size,
        fallah=1 / size,
        ji=theory.ji_rate(size, found.steps),
        ji_corollary=theory.ji_corollary_rate(size, found.steps),
        recommended=recommended,
    )
    bias = noise.scaled(found.rate * size, "a bound, where the support set is a sample of a larger task")
    return Advice(
        rates=rates,
        meta_step=_meta_step(found),
        adaptation_bias=noise if noise.value is None else bias,
        first_order_distance=distance,
        batches=batches,
        choices=[*choose_gradient(found), *choose_implicit(found), rate_choice, batch_choice],
    )


def _choose_rate(found: Findings) -> tuple[Choice, float]:
    rate, size, held = found.rate, found.smoothness, found.stability
    limit = f"L = {size:.3g} on the inner paths, so steps are stable below 2/L = {2 / size:.3g}"
    falls = (
        f"the support loss falls in {held.support_falls:.0%} of the tasks, and {FURTHER} steps further it is still "
        f"below its start in {held.holds:.0%}"
    )
    proved = theory.ji_rate(size, found.steps)
    kept = f"{rate:.3g}, as it is"
    if not found.plain_descent:
        return Choice("inner rate", kept, f"the theory is of plain gradient steps; {falls}"), rate
    if rate <= proved:
        reason = f"{limit}; convergence is proved up to {proved:.3g}, and no step overshoots up to 1/L = {1 / size:.3g}"
        return Choice("inner rate", kept, reason), rate
    if rate <= 1 / size:
        reason = (
            f"{limit}; no step overshoots up to 1/L = {1 / size:.3g}, but convergence is proved up to {proved:.3g} only"
        )
        return Choice("inner rate", kept, reason), rate
    if rate < 2 / size or min(held.holds, held.support_falls) < 0.95:
        fault = "steps overshoot" if rate < 2 / size else "steps grow along the sharpest direction"
        reason = (
            f"at {rate:.3g} {fault}: {limit}; {falls}. That is at these weights: meta-training flattens the loss to "
            "the rate that it is given, so look at a checkpoint before you lower a rate that trains well"
        )
        return Choice("inner rate", f"{1 / size:.3g} (1/L)", reason), 1 / size
    reason = (
        f"{rate * size / 2:.2g} times the 2/L of the sharpest point met, so no theorem covers it; but the loss is no "
        f"quadratic: {falls}. Should training be unstable, go towards 1/L = {1 / size:.3g}"
    )
    return Choice("inner rate", kept, reason), rate


def _meta_step(found: Findings) -> Estimate:
    """beta; the mean norm of the tasks' gradients and L are the estimates."""
    size, rho, norm = found.smoothness, found.curvature.hessian_lipschitz, found.noise.gradient_norm
    if rho.value is None or norm.value is None:
        return Estimate(None, note=rho.note if rho.value is None else norm.note)
    if not found.plain_descent:
        return Estimate(None, note="the theory is of plain gradient steps in the inner loop")
    smooth = theory.outer_smoothness(size, rho.value, found.rate, found.steps, norm.value)
    if not math.isfinite(smooth):
        return Estimate(None, note="the bound on the meta-objective's smoothness overflows at this inner rate")
    if found.steps == 1 and found.rate * size <= 1:
        return Estimate(
            theory.step_constant(SecondOrder(), 1) / smooth,
            note="1/(12 L~) of Fallah et al., for plain gradient descent with exact outer gradients (1/18 for "
            "FirstOrder, 1/25 for FiniteDifference); Adam's rate is not covered",
        )
    return Estimate(
        theory.JI_CONSTANT / smooth,
        note="1/(100 L^) of Ji et al., for plain gradient descent; a safe one. Adam's rate is not covered",
    )
