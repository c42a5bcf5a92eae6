"""Hessians of stacked tasks as products with vectors, and their largest eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from litmaml.inner.gradient_rule import plain
from litmaml.inner.loop import InnerLoop
from litmaml.tasks import Batch, StepTasks
from litmaml.weights import Params


def flatten(weights: Params) -> Tensor:
    """The stacked weights of T tasks as one vector a task (T, d)."""
    return torch.cat([weight.flatten(1) for weight in weights.values()], dim=1)


def unflatten(vectors: Tensor, like: Params) -> Params:
    """One vector a task (T, d) as stacked weights."""
    parts = torch.split(vectors, [weight[0].numel() for weight in like.values()], dim=1)
    return {name: part.reshape(weight.shape) for (name, weight), part in zip(like.items(), parts, strict=True)}


def gradient_norms(inner_loop: InnerLoop, batch: Batch) -> Tensor:
    """|grad f_i(w)| of each of T tasks at the initial weights (T,)."""
    fast, slow = inner_loop.shared_start(batch.tasks)
    gradients = plain(inner_loop.losses, fast, inner_loop.at_step(slow, 0), StepTasks(batch))
    norms: Tensor = flatten(gradients).detach().norm(dim=1)
    return norms


class Hessians:
    """grad l and H of T tasks at stacked fast weights: ``gradient`` is (T, d), a call gives H_t v_t for (T, d).

    Raises:
        ValueError: The model or the loss has no second derivative.
    """

    def __init__(self, inner_loop: InnerLoop, fast: Params, batch: Batch) -> None:
        _, slow = inner_loop.shared_start(1)
        slow = {name: weight.detach() for name, weight in inner_loop.at_step(slow, 0).items()}
        self._leaves = {name: weight.detach().clone().requires_grad_() for name, weight in fast.items()}
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self.losses = inner_loop.losses(self._leaves, slow, batch, twice=True)
            if not self.losses.requires_grad:
                raise ValueError("model: its loss has no derivative by the fast weights; nothing can adapt")
            try:
                self._gradients = torch.autograd.grad(
                    self.losses.sum(), list(self._leaves.values()), create_graph=True, materialize_grads=True
                )
            except RuntimeError as error:
                raise _no_second_derivative(error) from error
        self.losses = self.losses.detach()
        self.gradient = flatten(dict(zip(self._leaves, self._gradients, strict=True))).detach()

    def __call__(self, vectors: Tensor) -> Tensor:
        parts = unflatten(vectors, self._leaves).values()
        curved = [(g, v) for g, v in zip(self._gradients, parts, strict=True) if g.requires_grad]
        if not curved:  # the loss is linear in the fast weights
            return torch.zeros_like(vectors)
        try:
            products = torch.autograd.grad(
                [g for g, _ in curved],
                list(self._leaves.values()),
                [v for _, v in curved],
                retain_graph=True,
                materialize_grads=True,
            )
        except RuntimeError as error:
            raise _no_second_derivative(error) from error
        return flatten(dict(zip(self._leaves, products, strict=True))).detach()


def _no_second_derivative(error: RuntimeError) -> ValueError:
    return ValueError(
        f"model: no second derivative exists, so there is no curvature to diagnose ({error}); train it with "
        "FirstOrder, FiniteDifference or ZerothOrder, or replace the operation that is named"
    )


class Extreme(NamedTuple):
    """Of each of T symmetric matrices the eigenvalue of largest magnitude (T,), a bound on the distance to a true
    eigenvalue (T,), and its vector (T, d)."""

    values: Tensor
    errors: Tensor
    vectors: Tensor


def largest_eigenvalues(
    product: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 40, tolerance: float = 1e-3
) -> Extreme:
    """Lanczos with full reorthogonalisation, for T matrices at once.

    Args:
        product: (T, d) vectors to their products (T, d).
        start: (T, d), not zero; a random direction.
        iterations: At most so many products.
        tolerance: Stop where |A x - lambda x| is at most this share of |lambda| for all T.
    """
    tasks, size = start.shape
    basis = [start / start.norm(dim=1, keepdim=True)]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(min(iterations, size)):
        image = product(basis[-1])
        diagonal.append((image * basis[-1]).sum(1))
        for _ in range(2):  # twice is enough (Parlett)
            for known in basis:
                image = image - (image * known).sum(1, keepdim=True) * known
        length = image.norm(dim=1)
        small = torch.zeros(tasks, len(diagonal), len(diagonal), dtype=torch.float64)
        for k, value in enumerate(diagonal):
            small[:, k, k] = value.double()
        for k, value in enumerate(beside):
            small[:, k, k + 1] = small[:, k + 1, k] = value.double()
        eigenvalues, eigenvectors = torch.linalg.eigh(small)
        most = eigenvalues.abs().argmax(1)
        values = eigenvalues[torch.arange(tasks), most]
        combination = eigenvectors[torch.arange(tasks), :, most]
        errors = length.double().cpu() * combination[:, -1].abs()
        if bool((errors <= tolerance * values.abs()).all()):
            break
        # An exhausted space gives a zero vector, which adds eigenvalues of zero only.
        gone = length <= 10 * torch.finfo(start.dtype).eps * torch.stack(diagonal).abs().amax(0)
        beside.append(torch.where(gone, 0.0, length))
        basis.append(torch.where(gone, 0.0, 1 / length)[:, None] * image)
    shares = combination.to(start)
    vectors = sum(
        (shares[:, k, None] * known for k, known in enumerate(basis[: shares.shape[1]])),
        torch.zeros_like(start),
    )
    return Extreme(values, errors, vectors / vectors.norm(dim=1, keepdim=True))
