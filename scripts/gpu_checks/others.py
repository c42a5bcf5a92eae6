"""Float64 gradients of everything beside the plain path of SGD: other methods, inner optimizers, losses and starts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gpu_checks.parts import Case, Setting
from gpu_checks.problems import error, gradient, images, reference
from litmaml.inner import SGD, Adam, InnerOptimizer, MetaCurvature, Proximal
from litmaml.outer import (
    EvolutionStrategies,
    FiniteDifference,
    Implicit,
    MultiStepLoss,
    OuterGradient,
    OuterLoss,
    Reptile,
    SecondOrder,
)

_HEAD = ["head.*"]
_STRENGTH = 50.0
"""Above the negative curvature of these problems, or Implicit has no gradient."""


@dataclass(frozen=True)
class Kind:
    """A way to meta-train, and how far two computations of it may lie apart."""

    method: Callable[[], OuterGradient] = SecondOrder
    tolerance: float = 1e-10
    norm: str = "layer"
    optimizer: Callable[[float], InnerOptimizer] = SGD
    options: Mapping[str, Any] = field(default_factory=dict)
    outer_loss: Callable[[], OuterLoss] | None = None


def _held(rate: float) -> InnerOptimizer:
    return Proximal(SGD(rate / 10), _STRENGTH)


KINDS = {
    "Reptile": Kind(Reptile),
    "Implicit": Kind(Implicit, optimizer=_held),
    "Implicit, by differences": Kind(lambda: Implicit(product=FiniteDifference()), 1e-6, optimizer=_held),
    "EvolutionStrategies": Kind(lambda: EvolutionStrategies(2)),
    "MultiStepLoss": Kind(outer_loss=lambda: MultiStepLoss(epochs=4)),
    "Adam within": Kind(optimizer=lambda rate: Adam(rate, eps=0.1)),
    "learnt rates": Kind(optimizer=lambda rate: SGD(rate, 0.9, learn="tensor", per_step=True)),
    "MetaCurvature": Kind(optimizer=lambda rate: MetaCurvature(SGD(rate))),
    # Its body is computed once, as a constant part, and pooled right behind batch norm.
    "ANIL": Kind(norm="batch", options={"fast_weights": _HEAD}),
    "ANIL of the transformer": Kind(options={"fast_weights": _HEAD}),
    "a row for each step": Kind(norm="batch", options={"per_step_weights": ["*body.1.*"]}),
    "head from class means": Kind(norm="batch", options={"head_start": "prototypes"}),
}


def of_kinds(setting: Setting) -> Iterator[Case]:
    """Each, all tasks at once, against the CPU's, a task at a time."""
    for name, kind in KINDS.items():
        yield Case(name, kind.tolerance, functools.partial(_measure, setting, kind))


def _measure(setting: Setting, kind: Kind) -> float:
    problem = images(kind.norm, setting.small, optimizer=kind.optimizer, options=kind.options)
    losses = [None if kind.outer_loss is None else kind.outer_loss() for _ in range(2)]
    true = reference(problem, kind.method(), losses[0])
    on_device = problem.to(setting.device, torch.float64)
    return error(gradient(on_device, kind.method(), tasks_per_chunk=64, outer_loss=losses[1]), true)
