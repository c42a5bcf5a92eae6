"""Rates, batch sizes and constants as the convergence theorems state them."""

from __future__ import annotations

import math

META_STEP = 1 / 12
"""c of beta = c / L~ for one inner step and exact outer gradients (Fallah et al. 2020, arXiv 1908.10400)."""


def ji_rate(smoothness: float, steps: int) -> float:
    """(2^(1/(2N)) - 1) / L: the theorem of Ji et al. 2020 (arXiv 2002.07836) holds below it."""
    return float((2 ** (1 / (2 * steps)) - 1) / smoothness)


def ji_corollary_rate(smoothness: float, steps: int) -> float:
    """1 / (8 N L): the rate of their corollary."""
    return 1 / (8 * steps * smoothness)


def outer_smoothness(
    smoothness: float, hessian_lipschitz: float, rate: float, steps: int, gradient_norm: float
) -> float:
    """A smoothness constant of the meta-objective at weights w (Ji et al., equation 9),

        L_w = q^(2N) L + (rho / L) (q^(2N-1) - q^(N-1)) q^N E_i |grad f_i(w)|,    q = 1 + alpha L,

    which for N = 1 is bounded by the 4 L + 2 rho alpha E_i |grad f_i(w)| of Fallah et al. where alpha <= 1 / L.
    """
    q, n = 1 + rate * smoothness, steps
    try:
        bend = hessian_lipschitz / smoothness * (q ** (2 * n - 1) - q ** (n - 1)) * q**n
        return q ** (2 * n) * smoothness + bend * gradient_norm
    except OverflowError:
        return math.inf


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
