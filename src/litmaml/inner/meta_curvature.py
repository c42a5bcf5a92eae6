"""Inner steps along gradients that learnt matrices transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from litmaml.inner.transform import Transform
from litmaml.weights import Params


@final
@dataclass(frozen=True, repr=False)
class MetaCurvature(Transform):
    """Multiplies the gradient G of each weight by learnt matrices, one along each dimension (Park and Oliva 2019, arXiv
    1902.03356):

        matrices (o, i):         G <- M_o G M_i
        kernels (o, i, f):       G[a, b, c] <- sum M_o[a, a'] M_i[b', b] M_f[c, c'] G[a', b', c'],  f all of a window
        vectors, such as biases: G <- m G, entry by entry

    All start as the identity, so that training starts as without them, and are not constrained. A vector in the place
    of the matrices is Meta-SGD, which is ``SGD(learn=parameter)``.

    Args:
        optimizer: Gets this gradient.

    Example:
        >>> import torch
        >>> from litmaml.inner import SGD
        >>> optimizer, theta = MetaCurvature(SGD(1.0)), {"w": torch.zeros(2, 3)}
        >>> {name: tuple(matrix.shape) for name, matrix in optimizer.learnt(theta, steps=1).items()}
        {'curvature.w.0': (2, 2), 'curvature.w.1': (3, 3)}
    """

    learns = ("curvature",)

    def own(self, fast: Params) -> Params:
        found: Params = {}
        for name, weight in fast.items():
            if weight.is_complex():
                raise ValueError(
                    f"inner_optimizer: MetaCurvature has matrices of real numbers, got the complex weight {name}; "
                    "hold it as a real parameter with torch.view_as_complex, or use SGD"
                )
            if weight.dim() < 2:
                found[f"curvature.{name}"] = torch.ones_like(weight)
                continue
            for dim, size in enumerate(_sizes(weight.shape)):
                found[f"curvature.{name}.{dim}"] = torch.eye(size, dtype=weight.dtype, device=weight.device)
        return found

    def transform(self, fast: Params, gradient: Params, first: Params, learnt: Params) -> Params:
        return {name: _transformed(name, g, learnt) for name, g in gradient.items()}


def _transformed(name: str, gradient: Tensor, learnt: Params) -> Tensor:
    if gradient.dim() < 3:  # the first dimension is the task
        return learnt[f"curvature.{name}"] * gradient
    found = gradient.reshape(len(gradient), *_sizes(gradient.shape[1:]))
    for dim in range(found.dim() - 1):
        matrix = learnt[f"curvature.{name}.{dim}"]
        if len(matrix) == 1:  # also what is shared by the classes of a head
            found = found * matrix[0, 0]
        else:
            found = torch.movedim(torch.tensordot(found, matrix, ([dim + 1], [0 if dim == 1 else 1])), -1, dim + 1)
    return found.reshape(gradient.shape)


def _sizes(shape: torch.Size) -> list[int]:
    """Rows, columns and the rest together."""
    return [*shape[:2], *([shape[2:].numel()] if len(shape) > 2 else [])]
