"""Outer step sizes of the convergence theorems."""

from __future__ import annotations

from litmaml.diagnosis.theory import outer_smoothness
from litmaml.outer_gradient import FiniteDifference, FirstOrder, OuterGradient, SecondOrder

FALLAH_CONSTANTS: dict[type[OuterGradient], float] = {
    SecondOrder: 1 / 12,
    FirstOrder: 1 / 18,
    FiniteDifference: 1 / 25,
}
"""c of Fallah et al. for one inner step, by the outer gradient."""

FALLAH_RATES: dict[type[OuterGradient], float] = {SecondOrder: 1.0, FirstOrder: 1 / 10, FiniteDifference: 1 / 6}
"""The largest alpha L of their theorems."""

JI_CONSTANT = 1 / 100
"""1 / C_beta of Ji et al. for N inner steps."""


def smoothness_at(smoothness: float, hessian_lipschitz: float, rate: float, steps: int, gradient_norm: float) -> float:
    """L~(w), within which the meta-objective F curves near w.

    One inner step: 4 L + 2 rho alpha E_i |grad f_i(w)| (Fallah et al. 2020, arXiv 1908.10400), for alpha <= 1/L. More:
    equation 9 of Ji et al. (arXiv 2002.07836v1).

    Args:
        smoothness: L, which bounds the tasks' Hessians.
        hessian_lipschitz: rho, a Lipschitz constant of the tasks' Hessians.
        rate: alpha, the inner rate.
        steps: N, the number of inner steps.
        gradient_norm: The mean over tasks of |grad f_i(w)|.
    """
    if steps == 1:
        return 4 * smoothness + 2 * hessian_lipschitz * rate * gradient_norm
    return outer_smoothness(smoothness, hessian_lipschitz, rate, steps, gradient_norm)


def step_constant(outer_gradient: OuterGradient, steps: int) -> float:
    """c of beta = c / L~(w) for an outer gradient and N inner steps."""
    return FALLAH_CONSTANTS.get(type(outer_gradient), JI_CONSTANT) if steps == 1 else JI_CONSTANT
