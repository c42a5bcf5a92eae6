"""A vector of weights and nothing else: the model of problems in w alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Vector(nn.Module):
    """w itself, whatever the inputs: (n, ...) to (n, size). The loss makes a problem of it, such as RankOneLoss.

    Args:
        size: d, the number of weights.
        std: Of the normal distribution that they are drawn from.

    Raises:
        ValueError: size is below 1.
    """

    def __init__(self, size: int = 10, std: float = 1.0) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size: has to be at least 1, got {size}")
        self.size, self.std = size, std
        self.weight = nn.Parameter(std * torch.randn(size))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight.expand(len(inputs), self.size)
