"""Losses of the theory's test problems; any other ``nn.Module`` serves as well."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class HalfSquaredLoss(nn.Module):
    """1/2 mean (prediction - target)^2: the quadratics (w - c)' A (w - c) / 2 on ``LinearRegression`` tasks."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (predictions - targets).square().mean()


class LogCoshLoss(nn.Module):
    """mean log cosh(prediction - target): smooth, with slope at most 1 and curvature at most 1.

    Its third derivative is at most 4 / (3 sqrt 3), so that L and rho of a linear model's loss are known globally.
    """

    THIRD = 4 / (3 * math.sqrt(3))

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        error = predictions - targets
        # softplus is taken as linear only where the difference is below rounding.
        return (error + functional.softplus(-2 * error, threshold=40) - math.log(2)).mean()


class RankOneLoss(nn.Module):
    """mean ``1/4 |w w' - M|^2 + <b, w>``: factorise M by one vector, with a linear term for noise in the gradient.

    Predictions are the vector w of ``Vector`` (n, d), targets M and b side by side (n, d, d + 1), as ``RankOne``
    gives them.
    """

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        matrices, linear = targets[..., :-1], targets[..., -1]
        products = predictions.unsqueeze(-1) * predictions.unsqueeze(-2)
        fit = (products - matrices).square().sum((-2, -1)) / 4
        return torch.mean(fit + (linear * predictions).sum(-1))
