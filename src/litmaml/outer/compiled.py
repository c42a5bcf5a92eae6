"""The gradient of a chunk compiled: a program for every form of tasks and every setting that it depends on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from litmaml.engine.float32 import float32_flags
from litmaml.engine.program import Program
from litmaml.outer.chunk_gradient import ChunkGradient, Part
from litmaml.tasks import Tasks, flattened, tree_map
from litmaml.weights import Params

logger = logging.getLogger(__name__)

MOST_FORMS = 32
"""Forms of tasks that are compiled for: so many programs take minutes, and memory."""


class TooManyForms(ValueError):
    """Tasks of ever new shapes, each of which would be compiled for."""


class CompiledChunkGradient:
    """Computes what a ``ChunkGradient`` does by programs of it, made where there is none yet.

    Attributes:
        programs: Those made by now.
    """

    def __init__(self, computed: ChunkGradient) -> None:
        self._computed = computed
        self._modules = list(computed.inner_loop.modules())
        self.programs: dict[Any, Program] = {}
        self._forms: set[Any] = set()

    def __call__(self, weights: Params, tasks: Tasks) -> Part:
        """The part at these weights, by the names of the inner loop.

        Raises:
            TooManyForms: The tasks come in ever new shapes.
        """
        parts, rest = flattened(tasks)
        tensors = [*(weight.detach() for weight in weights.values()), *map(_with_places, parts)]
        shapes = (*map(_form, tensors[len(weights) :]), rest)
        device = tasks.query.device.type
        key = (
            *map(_form, tensors[: len(weights)]),
            shapes,
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            tuple(weights),
            self._computed.outer_gradient,
            tuple(module.training for module in self._modules),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            float32_flags(),
            tuple(self._computed.outer_loss.step_weights(self._computed.steps, self._computed.epoch) or ()),
        )
        with torch.no_grad():
            program = self.programs.get(key)
            outdated = program.outdated() if program else ""
            if program and not outdated:
                return _part_of(program(*tensors))
            self._count(shapes)
            began = time.perf_counter()
            function = as_function(self._computed, list(weights), tasks)
            self.programs[key] = program = Program(function, tensors, self._read(), self._computed.inner_loop.draws)
            result = _part_of(program(*tensors))
        logger.info("compiled the meta-gradient of %d tasks in %.1f s", tasks.size, time.perf_counter() - began)
        if outdated:
            logger.warning("compile: the program is made again, since %s has changed", outdated)
        return result

    def _read(self) -> dict[str, Any]:
        """What a program reads beside its arguments, by the names under which it is told of."""
        computed = self._computed
        return {
            "": computed.inner_loop,
            "outer_gradient": computed.outer_gradient,
            "outer_loss": computed.outer_loss,
        }

    def _count(self, shapes: Any) -> None:
        """Refuse to compile for ever new forms of tasks."""
        self._forms.add(shapes)
        if len(self._forms) > MOST_FORMS:
            raise TooManyForms(
                f"compile: the tasks come in more than {MOST_FORMS} forms (how many of a size there are at once, with "
                "their shapes), each of which takes a program of its own; round the tasks' sizes to a few, set "
                "tasks_per_chunk to 1, or compile to false"
            )


def as_function(computed: ChunkGradient, names: list[str], tasks: Tasks) -> Callable[..., tuple[Tensor, ...]]:
    """The gradient of a chunk of this form, as a function of the tensors of weights (by these names) and tasks."""
    template = tree_map(lambda part: part.new_empty(0), tasks)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        given = {name: next(left) for name in names}
        losses, predictions, finite, gradient = computed(given, tree_map(lambda _: next(left), template))
        return losses, predictions, finite, *gradient

    return function


def _with_places(tensor: Tensor) -> Tensor:
    """What is expanded to all tasks has one place in memory for many numbers: a program's own places cannot."""
    return tensor.contiguous() if 0 in tensor.stride() else tensor


def _form(tensor: Tensor) -> Any:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _part_of(results: tuple[Tensor, ...]) -> Part:
    losses, predictions, finite, *gradient = results
    return Part(losses, predictions, finite, tuple(gradient))
