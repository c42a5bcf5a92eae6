"""The diagnosis of a model on its tasks: what holds here of the theory, and what to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from litmaml.diagnosis.advice import Advice, advise
from litmaml.diagnosis.findings import Findings
from litmaml.engine.batch_norm import has_batch_norm
from litmaml.inner import SGD
from litmaml.inner.layers import random_layers
from litmaml.inner.loop import InnerLoop
from litmaml.inner.rates import is_rate
from litmaml.inner.transform import innermost
from litmaml.learner.checks import check_labels
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.modes import modes_kept, put
from litmaml.measure.curvature import Curvature, curvature, finite_path
from litmaml.measure.estimator_errors import (
    EstimatorError,
    ProbeScan,
    candidates,
    estimator_errors,
    name_of,
    scan_probes,
    task_gradients,
)
from litmaml.measure.kinks import kinks
from litmaml.measure.noise import Noise, noise
from litmaml.measure.stability import Stability, stability
from litmaml.outer import Reptile, SecondOrder
from litmaml.tasks import MetaBatch, Tasks, chunks, select, stacks_of


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` found. ``setting`` names the model, the inner loop and the number of tasks; ``remarks`` what
    limits the numbers."""

    setting: dict[str, Any]
    curvature: Curvature
    noise: Noise
    stability: Stability
    estimators: list[EstimatorError]
    probes: ProbeScan | None
    advice: Advice
    remarks: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``diagnosis.json``."""
        return asdict(self)


def commonest(tasks: MetaBatch) -> tuple[Tasks, list[str]]:
    """The tasks of the commonest size, and what is to be said of the others."""
    stacks = stacks_of(tasks)
    said = f"the tasks have {len(stacks)} sizes; those of the commonest are looked at"
    return max(stacks, key=lambda stack: stack.size), [said] if len(stacks) > 1 else []


def diagnose(
    learner: MetaLearner, tasks: MetaBatch, meta_batch: int = 16, probed_tasks: int | None = None
) -> Diagnosis:
    """Measures curvature, noise and every outer gradient on the tasks, and says what the theory makes of them.

    At the learner's weights, with its inner loop, loss and N = ``inner_steps``; nothing of the learner is changed.

    Args:
        learner: A ``MetaLearner``, trained or not.
        tasks: T tasks, at least 2, as the learner is trained with. Of stacks of unequal ones the largest is looked at.
        meta_batch: The number of tasks of one outer step in training.
        probed_tasks: The first so many tasks are used for what costs most: curvature and the errors of the outer
            gradients. By default all; 8 where not all can be computed at once (convolutions on a CPU).

    Raises:
        ValueError: There are fewer than two tasks, the model cannot take them, they have more classes than it, a loss
            is not finite, or the model has no second derivative.
    """
    tasks, said = commonest(tasks)
    if tasks.size < 2:
        raise ValueError(
            f"tasks: got {tasks.size}{' of one size' if said else ''}; how tasks differ can only be told from at "
            "least 2"
        )
    inner_loop, steps = learner.inner_loop, learner.inner_steps
    with modes_kept(inner_loop):
        put(inner_loop, learner.evaluated)
        random = random_layers(inner_loop.model)
        inner_loop.eval()  # without dropout; batch statistics are those of the batch either way
        remarks = try_first_batch(inner_loop, tasks, learner.outer_gradient)
        check_labels(inner_loop, tasks)
        found = _diagnose(learner, inner_loop, tasks, steps, meta_batch, probed_tasks, random)
        return replace(found, remarks=[*said, *remarks, *found.remarks])


def _diagnose(
    learner: MetaLearner,
    inner_loop: InnerLoop,
    tasks: Tasks,
    steps: int,
    meta_batch: int,
    probed_tasks: int | None,
    random: Sequence[str],
) -> Diagnosis:
    chunk = inner_loop.default_chunk(tasks)
    if probed_tasks is None:
        probed_tasks = 8 if chunk < tasks.size else tasks.size
    if probed_tasks < 2:
        raise ValueError(f"probed_tasks: has to be at least 2, got {probed_tasks}")
    for part in chunks(tasks, chunk):
        finite_path(inner_loop, part, steps)
    probed = select(tasks, slice(0, min(probed_tasks, tasks.size)))
    curved = curvature(inner_loop, probed, steps)
    noises = noise(inner_loop, tasks, probed.size)
    all_exact = task_gradients(inner_loop, SecondOrder(), tasks, steps)
    exact = all_exact[: probed.size]
    if not bool(all_exact.isfinite().all()):
        raise ValueError("the exact outer gradient is not finite: lower the inner rate or the number of inner steps")
    if float(exact.norm()) == 0:
        raise ValueError("model: its loss does not change with the weights that are trained")
    errors = estimator_errors(inner_loop, probed, steps, exact, candidates(learner.outer_gradient), random)
    refused = {row.name for row in errors if row.refused}
    probes = None if "FiniteDifference()" in refused else scan_probes(inner_loop, probed, steps, exact)
    held = stability(inner_loop, probed, steps)
    rate, rate_remark = _rate(inner_loop)
    optimizer = innermost(inner_loop.optimizer)
    plain = isinstance(optimizer, SGD) and not (optimizer.momentum or optimizer.weight_decay)
    batch_norm = has_batch_norm(inner_loop.model)
    advice = advise(
        Findings(
            curvature=curved,
            noise=noises,
            stability=held,
            estimators=errors,
            probes=probes,
            exact=all_exact,
            steps=steps,
            rate=rate,
            plain_descent=plain and optimizer is inner_loop.optimizer,
            meta_batch=meta_batch,
            kinks=kinks(inner_loop, probed),
            batch_norm=batch_norm,
            residuals=learner.meta_gradient.residuals(probed),
            own_cosine=next((row.cosine or 0.0 for row in errors if row.name == name_of(learner.outer_gradient)), 0.0),
        )
    )
    remarks = [rate_remark] if rate_remark else []
    if isinstance(learner.outer_gradient, Reptile):
        remarks.append(
            "Reptile trains by the way that a task has gone, which is no gradient to compare with the others"
        )
    if optimizer is not inner_loop.optimizer:
        remarks.append(
            f"the inner rate is that within {type(inner_loop.optimizer).__name__}, which transforms the gradient first"
        )
    if random:
        remarks.append(f"random layers ({', '.join(random[:2])}) are switched off in the diagnosis")
    if batch_norm:
        remarks.append("with batch norm an example's gradient depends on its batch: sigma~ is that of a batch, scaled")
    return Diagnosis(
        setting={
            "model": type(inner_loop.model).__name__,
            "normalisation": learner.normalisation,
            "inner_steps": steps,
            "inner_rate": rate,
            "outer_gradient": type(learner.outer_gradient).__name__,
            "fast_weights": sum(weight.numel() for weight in inner_loop.shared_start(1).fast.values()),
            "tasks": tasks.size,
            "tasks_per_chunk": min(meta_batch, learner.meta_gradient.chunk_size(tasks)),
            "probed_tasks": probed.size,
            "precision": str(next(inner_loop.parameters()).dtype).removeprefix("torch."),
        },
        curvature=curved,
        noise=noises,
        stability=held,
        estimators=errors,
        probes=probes,
        advice=advice,
        remarks=remarks,
    )


def _rate(inner_loop: InnerLoop) -> tuple[float, str]:
    """The inner rate, and a word where it is learnt."""
    optimizer: Any = innermost(inner_loop.optimizer)
    learnt = [rate.detach().flatten() for name, rate in inner_loop.learnt.values().items() if is_rate(name)]
    if not learnt:
        return float(optimizer.lr), ""
    rates = torch.cat(learnt)
    low, high = float(rates.min()), float(rates.max())
    return float(rates.mean()), f"inner rates are learnt, from {low:.3g} to {high:.3g}: their mean is used"
