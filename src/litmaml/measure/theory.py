"""Rates, step sizes, batch sizes and constants as the convergence theorems state them.

Fallah, Mokhtari and Ozdaglar 2020 (arXiv 1908.10400) for one inner step; Ji, Yang and Liang 2020
(arXiv 2002.07836v1) for N. Throughout L bounds the tasks' Hessians, rho is a Lipschitz constant of them, and alpha is
the inner rate.
"""

from __future__ import annotations

import math

from litmaml.outer import FiniteDifference, FirstOrder, OuterGradient, SecondOrder

FALLAH_CONSTANTS: dict[type[OuterGradient], float] = {
    SecondOrder: 1 / 12,
    FirstOrder: 1 / 18,
    FiniteDifference: 1 / 25,
}
"""c of beta = c / L~ for one inner step (Fallah et al.), by the outer gradient."""

FALLAH_RATES: dict[type[OuterGradient], float] = {SecondOrder: 1.0, FirstOrder: 1 / 10, FiniteDifference: 1 / 6}
"""The largest alpha L of their theorems."""

JI_CONSTANT = 1 / 100
"""1 / C_beta of Ji et al. for N inner steps."""


def ji_rate(smoothness: float, steps: int) -> float:
    """(2^(1/(2N)) - 1) / L: the theorem of Ji et al. holds below it."""
    return float((2 ** (1 / (2 * steps)) - 1) / smoothness)


def ji_corollary_rate(smoothness: float, steps: int) -> float:
    """1 / (8 N L): the rate of their corollary."""
    return 1 / (8 * steps * smoothness)


def outer_smoothness(
    smoothness: float, hessian_lipschitz: float, rate: float, steps: int, gradient_norm: float
) -> float:
    """L~(w), within which the meta-objective F curves near w:

        N = 1 and alpha <= 1/L:  4 L + 2 rho alpha E_i |grad f_i(w)|                                     (Fallah et al.)
        else:  q^(2N) L + rho/L (q^(2N-1) - q^(N-1)) q^N E_i |grad f_i(w)|,  q = 1 + alpha L    (Ji et al., equation 9)

    The two meet at N = 1, alpha = 1/L. Infinite where the power overflows.

    Args:
        smoothness: L.
        hessian_lipschitz: rho.
        rate: alpha.
        steps: N, the number of inner steps.
        gradient_norm: The mean over tasks of |grad f_i(w)|.
    """
    if steps == 1 and rate * smoothness <= 1:
        return 4 * smoothness + 2 * hessian_lipschitz * rate * gradient_norm
    q, n = 1 + rate * smoothness, steps
    try:
        bend = hessian_lipschitz / smoothness * (q ** (2 * n - 1) - q ** (n - 1)) * q**n
        return q ** (2 * n) * smoothness + bend * gradient_norm
    except OverflowError:
        return math.inf


def step_constant(outer_gradient: OuterGradient, steps: int) -> float:
    """c of beta = c / L~(w) for an outer gradient and N inner steps."""
    return FALLAH_CONSTANTS.get(type(outer_gradient), JI_CONSTANT) if steps == 1 else JI_CONSTANT


def printed_probe_length(hessian_lipschitz: float, rate: float) -> float:
    """1 / (6 rho alpha), the probe length of HF-MAML as Fallah et al. print it. It leaves a floor (docs/theory.md)."""
    return 1 / (6 * hessian_lipschitz * rate)


def step_batches(
    rate: float, smoothness: float, hessian_lipschitz: float, spread: float, sample_noise: float
) -> tuple[int, int]:
    """B' and D_beta, the tasks and samples that beta_k's own gradients need (Fallah et al.):
    B' >= (rho alpha sigma / L)^2 / 2 and D_beta >= (2 rho alpha sigma~ / L)^2."""
    share = hessian_lipschitz * rate / smoothness
    return math.ceil(max((share * spread) ** 2 / 2, 1)), math.ceil(max((2 * share * sample_noise) ** 2, 1))


def hessian_batch(rate: float, sample_hessian_noise: float) -> int:
    """D_h >= 2 alpha^2 sigma_H^2 (Fallah et al., MAML), sigma_H of one sample."""
    return math.ceil(max(2 * (rate * sample_hessian_noise) ** 2, 1))
