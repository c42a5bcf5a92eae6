"""Which outer gradient to train with."""

from __future__ import annotations

from litmaml.diagnosis.findings import Choice, Findings
from litmaml.shown import listed

FIRST_ORDER_IS_CLOSE = 0.1
"""Error in one task up to which first order does. In the theory's own regime, alpha = 1 / (8 N L), it is at most 1/7 on
quadratics, and 9 to 10% in ``reproduce.py estimators``."""

PROBES_ARE_TRUE = 1e-2
"""Error up to which finite differences stand for the exact products."""


def choose_gradient(found: Findings) -> list[Choice]:
    """The outer gradient, the probe length, and whether the second order is worth its cost."""
    first, exact = found.row("FirstOrder()"), found.row("SecondOrder()")
    assert first.error is not None
    price = f"{exact.time:.2g} times the time and {exact.memory:.2g} times the memory of first order"
    apart = f"first order is {first.error:.1%} off in one task, and the cosine of the means is {first.cosine:.3f}"
    probe, true = _choose_probe(found)
    if first.error <= FIRST_ORDER_IS_CLOSE:
        worth = Choice("second order", "not worth its cost here", f"{apart}; the exact one costs {price}")
        return [Choice("outer gradient", "FirstOrder", f"{apart}, and it is the cheapest"), probe, worth]
    worth = Choice("second order", "worth its cost", f"{apart}; the exact one costs {price}")
    if true and (shares := _cheaper(found, "FiniteDifference()", time=0.9, memory=0.7)):
        reason = f"as true as the exact one here, for {shares}; {apart}"
        return [Choice("outer gradient", "FiniteDifference", reason), probe, worth]
    reason = f"exact, for {price}; {apart}" + ("" if true else "; finite differences are unreliable here")
    if slim := _cheaper(found, "SecondOrder(recompute=True)", time=0.0, memory=0.6):
        reason += f". Should memory be short: recompute=True needs {slim}"
    return [Choice("outer gradient", "SecondOrder", reason), probe, worth]


def _cheaper(found: Findings, name: str, time: float, memory: float) -> str:
    """The shares of the exact gradient's time and memory, if one is small enough and the other not too great."""
    row, exact = found.row(name), found.row("SecondOrder()")
    if row.time is None or row.memory is None:  # refused
        return ""
    assert exact.time is not None
    assert exact.memory is not None
    times, memories = row.time / exact.time, row.memory / exact.memory
    if times < time or (memories < memory and times < 1.6):
        return f"{times:.2g} of its time and {memories:.2g} of its memory"
    return ""


def _choose_probe(found: Findings) -> tuple[Choice, bool]:
    """The probe length, and whether finite differences are to be trusted."""
    scan, row = found.probes, found.row("FiniteDifference()")
    if scan is None or row.error is None:
        return Choice("probe length", "none", f"finite differences are refused: {row.refused}"), False
    measured = (
        f"error {row.error:.2g} at the default length, {scan.default:.2g}, and {scan.best_error:.2g} at the best, "
        f"{scan.best:.2g}"
    )
    causes = []
    if found.kinks:
        causes.append(
            f"the model has kinks ({listed(found.kinks, 2)}), across which a difference of gradients is biased at "
            "every length"
        )
    if found.batch_norm and max(row.error, scan.best_error) > PROBES_ARE_TRUE:
        causes.append("batch norm over few examples bends the loss within the probe")
    # One good length among bad ones is luck.
    neighbours = zip(scan.errors[:-1], scan.errors[1:], strict=True)
    if not causes and not any(max(pair) <= PROBES_ARE_TRUE for pair in neighbours):
        causes.append("no length is short enough for the truncation and long enough for the rounding")
    if causes:
        reason = (
            f"{'; '.join(causes)}. Measured: {measured}. Use SecondOrder, or FirstOrder where its distance does not "
            "matter; smooth activations and group norm would mend it"
        )
        return Choice("probe length", "none: finite differences are unreliable here", reason), False
    if row.error <= max(3 * scan.best_error, 1e-3):
        return Choice("probe length", f"the default, {scan.default:.2g} here", measured), True
    return Choice("probe length", f"radius={scan.best:.2g}", measured), True
