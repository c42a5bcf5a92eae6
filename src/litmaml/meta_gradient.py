"""The meta-gradient of stacked tasks: their mean outer loss and its gradient, chunk by chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from litmaml.inner_loop import InnerLoop
from litmaml.model_checks import random_layers
from litmaml.outer_gradient import seeded
from litmaml.types import Params, Tasks, chunks

logger = logging.getLogger(__name__)


class MetaGradient(NamedTuple):
    """Of T tasks after adaptation.

    losses: (T,) outer losses l(theta_N; query). predictions: (T, n, ...) on the query.
    gradients: of the mean loss over the finite tasks, by the name of the trained parameter of the inner loop.
    finite: (T,) whether a task's loss and gradient are; the others are in no mean.
    """

    losses: Tensor
    predictions: Tensor
    gradients: Params
    finite: Tensor

    @property
    def loss(self) -> Tensor:
        """The mean over the finite tasks; zero where there is none."""
        kept = self.losses[self.finite]
        return kept.mean() if len(kept) else torch.zeros_like(self.losses[0])


class _Sum(NamedTuple):
    """Of a chunk: its tasks' losses and predictions, and the gradient of the sum of the losses."""

    losses: Tensor
    predictions: Tensor
    gradient: Params


class MetaGradientOf:
    """Computes meta-gradients of one inner loop.

    Args:
        inner_loop: The model with its inner optimizer and outer gradient.
        steps: N, the number of inner steps.
        tasks_per_chunk: Tasks that are held in memory and computed at once; None: see ``default_chunk``.
        compile: Trace the whole meta-gradient of a chunk and compile it: once for every new shape, which takes from
            seconds to minutes (more with more inner steps), then runs several times as fast on small models.
        seed: Start of the streams that random directions and random layers draw from, together with the number
            of a chunk's first task.

    Raises:
        ValueError: tasks_per_chunk is below 1, or the inner optimizer cannot be compiled.
    """

    def __init__(
        self,
        inner_loop: InnerLoop,
        steps: int,
        tasks_per_chunk: int | None = None,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        if tasks_per_chunk is not None and tasks_per_chunk < 1:
            raise ValueError(f"tasks_per_chunk: has to be at least 1, got {tasks_per_chunk}")
        if compile and not inner_loop.optimizer.traceable:
            raise ValueError(
                f"compile: {type(inner_loop.optimizer).__name__} cannot be compiled; set compile to false or use SGD "
                "as the inner optimizer"
            )
        self.inner_loop, self.steps, self.seed = inner_loop, steps, seed
        self.tasks_per_chunk, self.compile = tasks_per_chunk, compile
        self._random = inner_loop.outer_gradient.sampled or bool(random_layers(inner_loop.model))
        self._compiled: dict[Any, Callable[..., _Sum]] = {}

    def __call__(self, tasks: Tasks) -> MetaGradient:
        """The meta-gradient of the tasks; a task whose loss or gradient is not finite is left out and marked."""
        size = self.tasks_per_chunk or default_chunk(self.inner_loop.model, tasks)
        parts = [self._chunk(chunk, self._run) for chunk in chunks(tasks, size)]
        fine = [True] * len(parts)
        if not bool(torch.stack([_finite(part) for part in parts]).all()):
            # One bad task spoils the sum of its chunk: take them one by one.
            parts = [self._chunk(chunk, self._sum) for chunk in chunks(tasks, 1)]
            fine = [bool(_finite(part)) for part in parts]
        kept = [part for part, good in zip(parts, fine, strict=True) if good]
        count = max(sum(len(part.losses) for part in kept), 1)
        weights = {name: weight for name, weight in self.inner_loop.named_parameters() if weight.requires_grad}
        gradients = {
            name: sum((p.gradient[name] for p in kept), torch.zeros_like(w)) / count for name, w in weights.items()
        }
        return MetaGradient(
            losses=torch.cat([part.losses for part in parts]),
            predictions=torch.cat([part.predictions for part in parts]),
            gradients=gradients,
            finite=torch.cat(
                [torch.full_like(p.losses, good, dtype=torch.bool) for p, good in zip(parts, fine, strict=True)]
            ),
        )

    def _chunk(self, chunk: Tasks, run: Callable[[Params, Tasks], _Sum]) -> _Sum:
        weights: Params = {n: p for n, p in self.inner_loop.named_parameters() if p.requires_grad}
        key = (self.seed * 1_000_003 + int(chunk.numbers[0])) % 2**63 if self._random else 0
        stream = seeded(key, chunk.query.inputs.device) if self._random else nullcontext()
        with stream:
            return run(weights, chunk)

    def _sum(self, weights: Params, tasks: Tasks) -> _Sum:
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        with torch.enable_grad():
            losses, predictions = functional_call(self.inner_loop, leaves, (tasks, self.steps))
            gradient = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        return _Sum(losses.detach(), predictions.detach(), dict(zip(leaves, gradient, strict=True)))

    def _run(self, weights: Params, tasks: Tasks) -> _Sum:
        if not self.compile:
            return self._sum(weights, tasks)
        weights = {name: weight.detach() for name, weight in weights.items()}
        flat = pytree.tree_leaves((weights, tasks))
        device = tasks.query.inputs.device.type
        key = (
            tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in flat if isinstance(leaf, Tensor)),
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            self.inner_loop.training,
        )
        if key not in self._compiled:
            began = time.perf_counter()
            with seeded(0, tasks.query.inputs.device):  # tracing draws too, but not from the tasks' own stream
                graph = make_fx(lambda weights, tasks: self._sum(weights, tasks))(weights, tasks)
            self._compiled[key] = torch.compile(graph, fullgraph=True, dynamic=False)
            with torch.no_grad():
                result = self._compiled[key](weights, tasks)
            logger.info("compiled the meta-gradient of %d tasks in %.1f s", tasks.size, time.perf_counter() - began)
            return result
        with torch.no_grad():
            return self._compiled[key](weights, tasks)


def default_chunk(model: torch.nn.Module, tasks: Tasks) -> int:
    """How many tasks to compute at once: all, but one by one for convolutions on a CPU.

    Under ``vmap`` each task's own kernels make a grouped convolution, which CPUs run slower than a loop over tasks.
    """
    convolves = any(isinstance(module, torch.nn.modules.conv._ConvNd) for module in model.modules())
    return 1 if convolves and tasks.query.inputs.device.type == "cpu" else tasks.size


def hand_over(loss: Tensor, gradients: Params, weights: Params) -> Tensor:
    """The loss as a node of the graph whose gradient by the weights is the one given.

    So ``backward`` by Lightning accumulates, scales, clips and reduces over processes as for any other loss.
    """
    handed: Tensor = _HandOver.apply(loss, tuple(gradients[name] for name in weights), *weights.values())  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return handed


class _HandOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor, ...], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(scale * gradient for gradient in ctx.gradients)


def _finite(part: _Sum) -> Tensor:
    return torch.stack([value.isfinite().all() for value in (part.losses, *part.gradient.values())]).all()
