"""Losses whose gradient is not their own."""

from __future__ import annotations

from torch import Tensor

from litmaml.weights import Params


def with_gradient(losses: Tensor, gradients: Params, weights: Params) -> Tensor:
    """The losses of the tasks (T,), whose gradient by each task's weights (T, ...) is the one given.

    Example:
        >>> import torch
        >>> w = torch.zeros(2, 1, requires_grad=True)
        >>> losses = with_gradient(torch.tensor([5.0, 7.0]), {"w": torch.tensor([[1.0], [2.0]])}, {"w": w})
        >>> losses.sum().backward()
        >>> losses.tolist(), w.grad.flatten().tolist()
        ([5.0, 7.0], [1.0, 2.0])
    """
    along = losses.new_zeros(())
    for name, gradient in gradients.items():
        products = gradient.detach().conj() * weights[name]
        along = along + (products.real if products.is_complex() else products).reshape(len(losses), -1).sum(1)
    return losses.detach() + (along - along.detach())
