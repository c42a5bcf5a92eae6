"""Parts of a model that no inner step changes, which are computed once for each batch.

A part's output is the same at all theta_j where no fast weight lies before it, as the body of a network of which the
head alone is adapted. Its slow weights get their gradient through the one output that all steps use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from litmaml.engine.features import ConstantCalls, Features, OtherCalls, constant_calls, may_be_constant
from litmaml.engine.switches import is_on
from litmaml.randomness import seeded
from litmaml.tasks import Batch, Tasks, Tree, map_batches, of_each_form, ordinary, select
from litmaml.weights import Params, Weights, constants, differentiate, leaves, named_weights


class Adapting(Protocol):
    """What is asked of the inner loop."""

    model: nn.Module
    fast_names: list[str]
    rows: list[str]
    draws: bool

    def call(self, weights: Params, slow: Params | None, inputs: Tree) -> Tensor: ...

    def each(self, function: Callable[..., Any], fast: Params, inputs: Tree, *others: Tree) -> Any: ...

    def losses(self, fast: Params, slow: Params, batch: Batch) -> Tensor: ...

    def learnt_start(self, tasks: int) -> Weights: ...


class ConstantParts:
    """What is known of an inner loop's constant parts, in training and in evaluation.

    It has slots, so that a compiled program is not made again when something of the evaluation is found.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[bool, ConstantCalls | None] = {}

    def of(self, model: nn.Module) -> ConstantCalls | None:
        """The calls that were found for the model's mode, if there are any."""
        return self._found.get(model.training) if is_on("features") else None

    def drop(self, model: nn.Module) -> None:
        """Compute everything from now on."""
        self._found[model.training] = None

    def look(self, loop: Adapting, tasks: Tasks) -> None:
        """Look for constant parts by some passes of the first task, once for each mode; no stream moves on.

        It has to give the same outputs at three weights, of which the last are opposite ones, where most of what is
        chosen by a sign or the largest of some numbers is chosen otherwise. What is found has to give the same losses
        and gradients as the whole model, at two weights together, or it is not used.
        """
        if loop.model.training in self._found or loop.draws or not is_on("features"):
            return
        self.drop(loop.model)
        moving = [*loop.fast_names, *loop.rows]
        if not (free := may_be_constant(loop.model, moving)):
            return
        with torch.inference_mode(False), torch.enable_grad(), seeded(0, tasks.query.device):
            try:
                self._look(loop, ordinary(select(tasks, [0])), free)
            except Exception:  # whatever somebody's model raises: it will do so where it is told of
                self.drop(loop.model)

    def _look(self, loop: Adapting, task: Tasks, free: list[nn.Module]) -> None:
        batches = of_each_form([*task.adapting, task.query], sized=True)
        named = named_weights(loop.model)
        here = leaves({name: named[name] for name in (*loop.fast_names, *loop.rows)})
        there = {name: _moved(weight) for name, weight in here.items()}
        opposite = {name: _moved(-weight) for name, weight in here.items()}
        slow = leaves({n: w for n, w in named.items() if w.requires_grad and n not in here})

        def passes(weights: Params) -> Callable[[], Tensor]:
            return lambda: loop.each(
                lambda _, inputs: loop.call(weights, constants(slow), inputs), {}, batches[0].inputs
            )

        found = constant_calls(loop.model, free, [passes(at) for at in (here, there, opposite)])
        self._found[loop.model.training] = found
        if found is None:
            return
        # All before any is used: a model may keep something of the last pass.
        given = [self.in_place(loop, slow, batch) for batch in batches]
        parts = [batch.inputs.parts for batch in given if isinstance(batch.inputs, Features)]
        if len(parts) < len(given) or not all(map(_are_finite, parts)):
            self.drop(loop.model)
            return
        found.trained = any(part.requires_grad for some in parts for part in some)
        for whole, ours in zip(batches, given, strict=True):
            if not _agree(*(_outcome(loop, here, there, slow, batch) for batch in (whole, ours))):
                self.drop(loop.model)

    def in_place(self, loop: Adapting, slow: Params, batch: Batch) -> Batch:
        """The batch with the outputs of the constant parts, which depend on the slow weights; or as it is.

        Fast weights are not a number meanwhile, so that none of them goes in unseen.
        """
        calls = self.of(loop.model)
        if calls is None or isinstance(batch.inputs, Features):
            return batch
        named = named_weights(loop.model)
        nothing = {n: named[n].new_full((), torch.nan).expand_as(named[n]) for n in (*loop.fast_names, *loop.rows)}
        try:
            parts = loop.each(lambda _, x: calls.record(lambda: loop.call(nothing, slow, x)), {}, batch.inputs)
        except OtherCalls:
            self.drop(loop.model)
            return batch
        return batch._replace(inputs=Features(batch.inputs, parts))

    def evaluated(self, loop: Adapting, tasks: Tasks) -> Tasks:
        """The tasks for inner steps and predictions without a graph: with the outputs, if all are finite."""
        self.look(loop, tasks)
        if self.of(loop.model) is None:
            return tasks
        with torch.inference_mode(False), torch.no_grad():
            (_, slow), tasks = loop.learnt_start(1), ordinary(tasks)
            batches = {id(batch): batch for batch in (*tasks.adapting, tasks.query)}
            try:
                given = {key: self.in_place(loop, slow, batch) for key, batch in batches.items()}
            except Exception:  # perhaps of numbers that are not finite: the whole model will raise it, if it does
                return tasks
            if all(isinstance(b.inputs, Features) and _are_finite(b.inputs.parts) for b in given.values()):
                return map_batches(lambda batch: given[id(batch)], tasks)
            return tasks


def _moved(weight: Tensor) -> Tensor:
    """Another weight near by, also of zeros."""
    weight = weight.detach()
    noise = torch.randn_like(weight)
    return (weight + 0.1 * (0.1 + weight.abs().square().mean().sqrt()) * noise).requires_grad_()


def _outcome(loop: Adapting, here: Params, there: Params, slow: Params, batch: Batch) -> list[Tensor]:
    """The losses of one task at two weights, and the gradient of their sum: what both share gets it from both."""
    first, second = (loop.losses({n: w.unsqueeze(0) for n, w in at.items()}, slow, batch).sum() for at in (here, there))
    by = [*here.values(), *there.values(), *slow.values()]
    return [first.detach(), second.detach(), *differentiate([first + second], by)]


def _agree(whole: list[Tensor], ours: list[Tensor]) -> bool:
    """Whether two outcomes differ by rounding, of which a gradient that is zero has some too.

    It has most where many large terms cancel, as by a convolution's bias before batch norm: 7e-5 of the largest one.
    """
    device = whole[0].device.type
    types = {part.dtype for part in whole}
    if torch.is_autocast_enabled(device):
        types.add(torch.get_autocast_dtype(device))
    eps = max(float(torch.finfo(dtype).eps) for dtype in types)
    lengths = [float(torch.linalg.vector_norm(part)) for part in whole]
    apart = [float(torch.linalg.vector_norm(a - b)) for a, b in zip(whole, ours, strict=True)]
    share, rounding = min(1e4 * eps, 0.05), min(1e4 * eps, 0.01) * max(lengths)
    return all(a <= share * own + rounding for a, own in zip(apart, lengths, strict=True))


def _are_finite(parts: Sequence[Tensor]) -> bool:
    return all(bool(part.isfinite().all()) for part in parts)
