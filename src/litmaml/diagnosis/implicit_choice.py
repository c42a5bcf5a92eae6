"""Whether the implicit gradient is to be trusted."""

from __future__ import annotations

from litmaml.diagnosis.findings import Choice, Findings

AT_A_MINIMISER = 0.2
"""|grad l + lambda (theta - w)| as a share of |lambda (theta - w)| up to which theta passes for the minimiser; on
sinusoids the cosine with the gradient through the steps is .97 there (scripts/implicit_cosines.py)."""
SOLVED = 0.1
"""What conjugate gradients may leave of the right-hand side."""


def choose_implicit(found: Findings) -> list[Choice]:
    """What the residuals of ``Implicit`` say; nothing for other outer gradients."""
    if not found.residuals:
        return []
    stationarity, solve = found.residuals["stationarity"], found.residuals["solve"]
    bad = int(solve.isnan().sum())
    share, left = float(stationarity.mean()), float(solve.nanmean())
    reason = (
        f"after {found.steps} inner steps |grad l + lambda (theta - w)| is {share:.2g} of |lambda (theta - w)|, and "
        f"conjugate gradients leave {left:.2g} of the query's gradient; the cosine with the gradient through the steps "
        f"is {found.own_cosine:.3f}"
    )
    if bad:
        many = f"{bad} of {len(solve)} tasks have"
        reason = f"{many} a curvature below -lambda, where the outer gradient is not finite; {reason}"
        return [Choice("implicit gradient", "raise inner_optimizer.strength", reason)]
    if share > AT_A_MINIMISER:
        return [Choice("implicit gradient", "take more inner steps, or raise inner_optimizer.strength", reason)]
    if left > SOLVED:
        return [Choice("implicit gradient", "take more iterations of conjugate gradients", reason)]
    return [Choice("implicit gradient", "to be trusted here", reason)]
