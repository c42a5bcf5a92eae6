"""What a model's forward pass depends on and changes beside its weights and inputs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from litmaml.learner.trial.model_copy import kept_values, values_of
from litmaml.randomness import generator_states, seeded


class Snapshot:
    """The values of a model's parameters, buffers and plain attributes at one moment, and which tensors they are."""

    def __init__(self, model: nn.Module) -> None:
        self.places = [(name, id(part)) for name, part in model.named_modules(remove_duplicate=False)]
        self.places += [(name, id(weight)) for name, weight in model.named_parameters(remove_duplicate=False)]
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        self.buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        self.attributes = attributes(model)


def attributes(model: nn.Module) -> dict[str, Any]:
    """The values of plain attributes at this moment, by name."""
    kept = kept_values(model)
    return {name: values_of(value) if isinstance(value, Tensor) else value for name, value in kept.items()}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names that stand in both with other values."""
    return [name for name, value in before.items() if name in after and not _same(value, after[name])]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        alike = first.shape == second.shape and first.dtype == second.dtype and first.layout == second.layout
        parts, others = (dense_parts(tensor) if alike else [] for tensor in (first, second))
        return alike and all(a.shape == b.shape and equal(a, b) for a, b in zip(parts, others, strict=True))
    return type(first) is type(second) and (first == second or first != first)


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """The tensor, or the indices and values of a sparse one."""
    if tensor.layout == torch.strided:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def equal(first: Tensor, second: Tensor, tolerance: float = 0.0) -> bool:
    """Whether two tensors of one shape differ by no more than a share of the largest number; NaN equals NaN."""
    if not (first.is_floating_point() or first.is_complex()):
        return torch.equal(first, second)
    scale = tolerance * float(first.detach().abs().nan_to_num(0, 0, 0).max()) if first.numel() else 0.0
    return torch.allclose(first, second, rtol=0, atol=scale, equal_nan=True)


@contextmanager
def own_streams(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from streams of their own: torch's (see ``seeded``), numpy's and Python's global generators."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - what a model may use is put back
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        with seeded(seed, device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002


class Drawn:
    """A context that tells which global generators were drawn from in it.

    by_torch: whether torch's were. by_others: the names of the others that were.
    """

    by_torch = False
    by_others: tuple[str, ...] = ()

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> None:
        self._before = self._states()

    def __exit__(self, *exception: object) -> None:
        (torch_before, *before), (torch_after, *after) = self._before, self._states()
        self.by_torch = not all(map(torch.equal, torch_before, torch_after))
        names = ("Python's random", "numpy.random")
        self.by_others = tuple(name for name, a, b in zip(names, before, after, strict=True) if a != b)

    def _states(self) -> tuple[list[Tensor], Any, Any]:
        _, words, *rest = cast(Any, np.random.get_state())  # noqa: NPY002
        return generator_states(self._device), random.getstate(), (words.tobytes(), *rest)
