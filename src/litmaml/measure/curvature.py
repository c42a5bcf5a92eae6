"""How curved the tasks' losses are where the inner loop goes: L and rho."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litmaml.inner.loop import InnerLoop
from litmaml.measure.estimate import Estimate, mean_estimate
from litmaml.measure.hessians import Extreme, Hessians, flatten, largest_eigenvalues, unflatten
from litmaml.measure.kinks import kinks
from litmaml.randomness import seeded
from litmaml.shown import listed
from litmaml.tasks import Batch, Tasks, chunks
from litmaml.weights import Params

_SCALES = (1.0, 1 / 8, 1 / 64)
"""The shares of an inner step over which the change of the Hessian is measured."""


@dataclass(frozen=True)
class Curvature:
    """Of the support loss along the inner path theta_0, ..., theta_N.

    smoothness: L, the largest |eigenvalue| of a task's Hessian at the points looked at.
    points: The inner steps after which was looked.
    by_point: The mean over tasks of the largest |eigenvalue| at each point.
    hessian_lipschitz: rho, the largest |H(x) - H(y)| / |x - y| found near the path.
    """

    smoothness: Estimate
    points: list[int]
    by_point: list[Estimate]
    hessian_lipschitz: Estimate


def curvature(inner_loop: InnerLoop, tasks: Tasks, steps: int) -> Curvature:
    """L and rho of T tasks along their inner paths.

    L = max_i |H_i(theta_j)|, H_i the Hessian of task i's support loss, by Lanczos' method on Hessian-vector products,
    after 0, N/2 and N inner steps. rho = max |H_i(x) - H_i(y)| / |x - y| between points x, y on either side of the
    middle of the path's first and last segment, in the direction in which the Hessian changes most (the power method
    for the tensor of third derivatives), over shorter and shorter distances: where the quotient does not settle, the
    Hessian is not Lipschitz. Assumptions 2 and 3 of Fallah et al. 2020, arXiv 1908.10400.

    Raises:
        ValueError: The model has no second derivative, or a loss is not finite.
    """
    points = sorted({0, steps // 2, steps})
    kinked = kinks(inner_loop, tasks)
    values: list[Tensor] = []
    errors: list[Tensor] = []
    changes: list[Tensor] = []
    for chunk in chunks(tasks, inner_loop.default_chunk(tasks)):
        path = finite_path(inner_loop, chunk, steps)
        extremes = [_extreme(inner_loop, path[j], _support(chunk, j), chunk) for j in points]
        values.append(torch.stack([extreme.values for extreme in extremes], 1))
        errors.append(torch.stack([extreme.errors for extreme in extremes], 1))
        if not kinked:
            changes.append(_changes(inner_loop, path, chunk))
    at_points, numeric = torch.cat(values).abs(), torch.cat(errors)
    return Curvature(
        smoothness=_smoothness(at_points, numeric),
        points=points,
        by_point=[mean_estimate(column) for column in at_points.unbind(1)],
        hessian_lipschitz=_no_lipschitz(kinked)
        if kinked
        else _lipschitz(torch.cat(changes), float(at_points.max()), flatten(path[0]).dtype),
    )


def finite_path(inner_loop: InnerLoop, tasks: Tasks, steps: int) -> list[Params]:
    """theta_0, ..., theta_N of each task.

    Raises:
        ValueError: Naming the task whose support loss is not finite, and after how many steps.
    """
    path: list[Params] = []
    for j, fast in enumerate(inner_loop.path(tasks, steps)):
        with torch.no_grad():
            losses = inner_loop.loss_of(inner_loop.predict(fast, _support(tasks, j).inputs), _support(tasks, j).targets)
        if not bool(losses.isfinite().all()):
            bad = int((~losses.isfinite()).nonzero()[0])
            named = f"the support loss of task {int(tasks.numbers[bad])} is {float(losses[bad])}"
            if j == 0:
                raise ValueError(f"{named} before the first inner step: look at its data and at the loss")
            sharpest = float(_extreme(inner_loop, path[0], _support(tasks, 0), tasks).values.abs().max())
            raise ValueError(
                f"{named} after inner step {j}: lower the inner rate; at the initial weights L = {sharpest:.3g}, and "
                f"steps are stable below 2/L = {2 / max(sharpest, 1e-300):.3g}"
            )
        path.append(fast)
    return path


def _support(tasks: Tasks, j: int) -> Batch:
    return tasks.support[j % len(tasks.support)]


def _random(tasks: Tasks, like: Tensor) -> Tensor:
    with seeded(int(tasks.numbers[0]), like.device):
        return torch.randn_like(like)


def _extreme(inner_loop: InnerLoop, fast: Params, batch: Batch, tasks: Tasks) -> Extreme:
    hessians = Hessians(inner_loop, fast, batch)
    return largest_eigenvalues(hessians, _random(tasks, hessians.gradient))


def _changes(inner_loop: InnerLoop, path: list[Params], tasks: Tasks) -> Tensor:
    """For each task the largest quotient at each of the scales, and the length of the step there (T, scales + 1)."""
    found = []
    for j in sorted({0, len(path) - 2}):
        first, last = flatten(path[j]), flatten(path[j + 1])
        centre, length = (first + last) / 2, (last - first).norm(dim=1)

        def quotient(
            direction: Tensor, scale: float, centre: Tensor = centre, length: Tensor = length, j: int = j
        ) -> tuple[Tensor, Tensor]:
            change = _change(inner_loop, centre, direction, scale * length / 2, path[j], _support(tasks, j), tasks)
            return change.values.abs().to(centre), change.vectors

        # The power method ends in a local maximum: it begins along the path, and twice anywhere.
        with seeded(int(tasks.numbers[0]), centre.device):
            starts = [last - first, torch.randn_like(centre), torch.randn_like(centre)]
        best, towards = torch.zeros_like(length), starts[0]
        for start in starts:
            direction = start / start.norm(dim=1, keepdim=True).clamp(min=1e-30)
            for _ in range(2):
                size, following = quotient(direction, 1.0)
                towards = torch.where((size > best)[:, None], direction, towards)
                best, direction = torch.maximum(best, size), following
        shorter = [quotient(towards, scale)[0] for scale in _SCALES[1:]]
        found.append(torch.stack([best, *shorter, length], 1).double().cpu())
    return torch.cat(found)


def _change(
    inner_loop: InnerLoop,
    centre: Tensor,
    direction: Tensor,
    half: Tensor,
    like: Params,
    batch: Batch,
    tasks: Tasks,
) -> Extreme:
    """Of the operator [H(centre + half direction) - H(centre - half direction)] / (2 half)."""
    ahead = Hessians(inner_loop, unflatten(centre + half[:, None] * direction, like), batch)
    behind = Hessians(inner_loop, unflatten(centre - half[:, None] * direction, like), batch)
    scale = torch.where(half > 0, 0.5 / half, 0.0)[:, None]
    return largest_eigenvalues(
        lambda v: scale * (ahead(v) - behind(v)), _random(tasks, centre), iterations=10, tolerance=1e-2
    )


def _smoothness(values: Tensor, errors: Tensor) -> Estimate:
    """The largest of (T, points), with the numerical error as its interval."""
    tasks = len(values)
    place = int(values.argmax())
    value, error = float(values.flatten()[place]), float(errors.flatten()[place])
    covered = 100 * 0.05 ** (1 / tasks)  # P(all of n draws lie below the q-quantile) = q^n
    return Estimate(
        value,
        value - error,
        value + error,
        f"the largest of {tasks} tasks on their inner paths; with 95% confidence at least {covered:.0f}% of all "
        "tasks lie below it. The interval is that of the computation; off the paths L cannot be told",
    )


def _no_lipschitz(kinked: list[str]) -> Estimate:
    return Estimate(None, note=f"the Hessian jumps at the kinks of {listed(kinked, 2)}: it has no Lipschitz constant")


def _lipschitz(changes: Tensor, smoothness: float, dtype: torch.dtype) -> Estimate:
    """rho from the quotients at each scale and the steps' lengths (T, scales + 1)."""
    quotients, lengths = changes[:, :-1], changes[:, -1]
    if float(lengths.max()) == 0:
        return Estimate(None, note="the inner steps do not move the weights")
    # Two Hessians, each known to rounding, over the distance between them.
    eps = torch.finfo(dtype).eps
    shares = torch.tensor(_SCALES, dtype=torch.float64)
    rounding = 30 * eps * smoothness / (lengths[:, None].clamp(min=1e-30) * shares)
    told = quotients > rounding
    if not bool(told[:, 0].any()):
        bound = float(rounding[:, 0].max())
        return Estimate(0.0, 0.0, bound, f"none found: below the rounding of the arithmetic, {bound:.2g}")
    at_full = torch.where(told[:, 0], quotients[:, 0], 0.0)
    worst = int(at_full.argmax())
    settled = [float(q) for q, t in zip(quotients[worst], told[worst], strict=True) if t]
    if len(settled) == len(_SCALES) and settled[-1] > 2 * settled[-2] and settled[-2] > 2 * settled[0]:
        return Estimate(
            None,
            note="the change of the Hessian over a distance does not shrink with it: it has no Lipschitz constant "
            f"here (quotient {settled[0]:.3g} over an inner step, {settled[-1]:.3g} over a 64th of it)",
        )
    value = float(torch.where(told, quotients, 0.0).max())
    return Estimate(
        value,
        value,
        None,
        "the largest found near the inner paths: a lower bound of rho elsewhere",
    )
