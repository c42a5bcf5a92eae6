"""How much tasks differ, and how much is noise of a support set of the user's size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.loss_kinds import is_elementwise
from litmaml.measure.estimate import Estimate, difference_estimate, mean_estimate
from litmaml.measure.hessians import Hessians, largest_eigenvalues
from litmaml.randomness import seeded
from litmaml.tasks import Batch, Tasks, tree_map


@dataclass(frozen=True)
class Noise:
    """At the initial weights w, with f_i the loss of task i and D a support batch of the user's size.

    samples: D_in, the examples in a support batch.
    batches: Support batches a task that the numbers rest on.
    gradient_norm: sqrt(E_i |grad f_i(w)|^2).
    task_spread: sigma, sigma^2 = E_i |grad f_i(w) - grad f(w)|^2.
    support_noise: sigma~ / sqrt(D_in), with square E |grad f_i(w, D) - grad f_i(w)|^2.
    sample_noise: sigma~, of a single example.
    hessian_noise: sigma_H / sqrt(D_in), with square E |H_i(w, D) - H_i(w)|^2 in the spectral norm.
    """

    samples: int
    batches: int
    gradient_norm: Estimate
    task_spread: Estimate
    support_noise: Estimate
    sample_noise: Estimate
    hessian_noise: Estimate


def noise(inner_loop: InnerLoop, tasks: Tasks, hessian_tasks: int | None = None) -> Noise:
    """The spread of task gradients and the noise of gradients and Hessians (A4, A5 of Fallah et al. 2020).

    Every task gives several support batches: its own, and as many of the same composition as its query holds. Their
    differences within a task are noise; what the tasks' means differ by beyond that is spread (analysis of
    variance).

    Args:
        inner_loop: The model, at whose weights is looked.
        tasks: T tasks, at least 2.
        hessian_tasks: The first so many tasks give the noise of the Hessian, which costs most; by default all.
    """
    replicas = support_replicas(tasks, not is_elementwise(inner_loop.loss))
    count, samples = len(replicas), replicas[0].examples
    gradients = _gradients(inner_loop, tasks, replicas)  # (T, m, d)
    if count < 2:
        untold = Estimate(
            None,
            note="the query holds no second batch of the support's composition; set queries to at least shots",
        )
        norm = mean_estimate(gradients[:, 0].norm(dim=1))
        return Noise(samples, count, norm, untold, untold, untold, untold)
    means = gradients.mean(1)
    within = mean_estimate((gradients - means[:, None]).square().sum((1, 2)) / (count - 1))
    centred = (means - means.mean(0)).square().sum(1) * len(means) / (len(means) - 1)
    spread = difference_estimate(mean_estimate(centred), within.scaled(1 / count))
    of_tasks = f"{tasks.size} tasks, {count} support batches each"
    spread_note = of_tasks
    if spread.low is not None and spread.low <= 0:
        spread_note += "; not told apart from zero"
    length = mean_estimate(means.square().sum(1))
    return Noise(
        samples=samples,
        batches=count,
        gradient_norm=difference_estimate(length, within.scaled(1 / count)).map_sqrt(of_tasks),
        task_spread=spread.map_sqrt(spread_note),
        support_noise=within.map_sqrt(of_tasks),
        sample_noise=within.scaled(samples).map_sqrt(f"{of_tasks}; sqrt(D_in) times the support batch's"),
        hessian_noise=_hessian_noise(inner_loop, tasks, replicas, hessian_tasks or tasks.size),
    )


def support_replicas(tasks: Tasks, labelled: bool) -> list[Batch]:
    """The support batches of the tasks, and as many more of the same composition as the query holds.

    A replica has as many examples of each class as the first support batch.

    Args:
        tasks: Whose support and query are dealt out.
        labelled: Whether whole numbers, one for each example, are classes (one that the loss ignores among them).
    """
    support, query = tasks.support[0], tasks.query
    size, held, targets = support.examples, query.examples, support.targets
    if not labelled or not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dim() != 2:
        rows = [torch.arange(k, k + size).expand(tasks.size, -1) for k in range(0, held - size + 1, size)]
    else:
        # The k-th example of a class in the query goes to replica k // shots, in the order of classes.
        labels = torch.cat([targets, query.targets], 1).unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
        needed, available = (_counts(part, int(labels.max()) + 1) for part in labels.split([size, held], 1))
        ranked = labels[:, size:].sort(dim=1, stable=True)
        wanted = needed > 0
        fits = int((available[wanted] // needed[wanted]).min()) if bool(wanted.any()) else 0
        starts = available.cumsum(1) - available
        rows = []
        for k in range(fits):
            per_task = [
                torch.cat([torch.arange(int(n)) + int(s) + k * int(n) for s, n in zip(first, need, strict=True)])
                for first, need in zip(starts, needed, strict=True)
            ]
            rows.append(ranked.indices.gather(1, torch.stack(per_task).to(ranked.indices)))
    task = torch.arange(tasks.size)[:, None]
    made = [tree_map(lambda part, row=row: part[task, row], query) for row in rows]
    return [*tasks.support, *made]


def _counts(labels: Tensor, classes: int) -> Tensor:
    """How many of each class each task has (T, classes)."""
    return torch.nn.functional.one_hot(labels, classes).sum(1).cpu()


def _gradients(inner_loop: InnerLoop, tasks: Tasks, replicas: list[Batch]) -> Tensor:
    """grad l at the initial weights on every replica (T, m, d)."""
    chunk = inner_loop.default_chunk(tasks)
    columns = []
    for batch in replicas:
        rows = []
        for first in range(0, tasks.size, chunk):
            part = batch.rows(slice(first, first + chunk))
            fast, _ = inner_loop.shared_start(part.tasks)
            rows.append(Hessians(inner_loop, fast, part).gradient)
        columns.append(torch.cat(rows))
    return torch.stack(columns, 1)


def _hessian_noise(inner_loop: InnerLoop, tasks: Tasks, replicas: list[Batch], most: int) -> Estimate:
    """From |H_b - mean H|^2 m / (m - 1) over the m replicas b; only the support batch's where not all tasks fit."""
    count, used = len(replicas), min(most, tasks.size)
    chunk = inner_loop.default_chunk(tasks, count)
    squares = []
    for first in range(0, used, chunk):
        rows = slice(first, min(first + chunk, used))
        numbers = tasks.numbers[rows]
        fast, _ = inner_loop.shared_start(len(numbers))
        hessians = [Hessians(inner_loop, fast, b.rows(rows)) for b in replicas]
        with seeded(int(numbers[0]), hessians[0].gradient.device):
            start = torch.randn_like(hessians[0].gradient)
        norms = [
            largest_eigenvalues(_deviation(hessians, b), start, iterations=12, tolerance=3e-2).values
            for b in range(count if chunk >= tasks.size else 1)
        ]
        squares.append(torch.stack(norms).square().mean(0) * count / (count - 1))
    return mean_estimate(torch.cat(squares)).map_sqrt(f"{used} tasks, {count} support batches each")


def _deviation(hessians: list[Hessians], b: int) -> Callable[[Tensor], Tensor]:
    """H_b - mean H as a product."""

    def product(vectors: Tensor) -> Tensor:
        images = [hessian(vectors) for hessian in hessians]
        return images[b] - sum(images[1:], images[0]) / len(images)

    return product
