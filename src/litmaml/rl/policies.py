"""Policies: models that map an observation to the parameters of a distribution of actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from litmaml.models import MLP


class _Policy(nn.Module):
    """What both have in common: a body that sees observations (n, o), however many dimensions they stand in.

    Raises:
        ValueError: A number is below 1.
    """

    def __init__(
        self,
        observations: int | None,
        actions: int | None,
        hidden: Sequence[int],
        activation: Literal["tanh", "relu", "softplus", "gelu"],
        body: nn.Module | None,
    ) -> None:
        super().__init__()
        self.observations, self.actions = _size("observations", observations), _size("actions", actions)
        self.hidden, self.activation = list(hidden), activation
        self.body = MLP(self.observations, self.actions, hidden, activation) if body is None else body

    def _of_body(self, observations: Tensor) -> Tensor:
        lead = observations.shape[:-1]
        made: Tensor = self.body(observations.reshape(-1, self.observations))
        return made.reshape(*lead, self.actions)


class GaussianPolicy(_Policy):
    """Real actions a ~ N(mu(s), diag(sigma)^2): observations (..., o) to (..., 2 a), means and log sigma.

    Args:
        observations: o, the numbers of an observation; of the tasks' environments, where it is left out in a file.
        actions: a, the numbers of an action; likewise.
        hidden: Widths of the hidden layers of the means' network.
        activation: tanh, softplus and gelu have a second derivative; relu's kinks spoil finite differences.
        std: sigma at the start; its logarithm is a weight for each number of an action, the same for all observations.
        body: A network of one's own in the place of the means', from (n, o) to (n, a).

    Raises:
        ValueError: A number is out of its range, or none is given and no file has tasks that say it.

    Example:
        >>> GaussianPolicy(observations=3, actions=2)(torch.zeros(20, 100, 3)).shape
        torch.Size([20, 100, 4])
    """

    discrete = False

    def __init__(
        self,
        observations: int | None = None,
        actions: int | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: Literal["tanh", "relu", "softplus", "gelu"] = "tanh",
        std: float = 1.0,
        body: nn.Module | None = None,
    ) -> None:
        super().__init__(observations, actions, hidden, activation, body)
        if not 0 < std < math.inf:
            raise ValueError(f"std: has to be a positive number, got {std}")
        self.std = std
        self.log_std = nn.Parameter(torch.full((self.actions,), math.log(std)))

    def forward(self, observations: Tensor) -> Tensor:
        mean = self._of_body(observations)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=-1)


class CategoricalPolicy(_Policy):
    """One of some choices, a ~ softmax(logits(s)): observations (..., o) to logits (..., actions).

    Args:
        observations: o, the numbers of an observation; of the tasks' environments, where it is left out in a file.
        actions: The number of choices; likewise.
        hidden: Widths of the hidden layers.
        activation: tanh, softplus and gelu have a second derivative; relu's kinks spoil finite differences.
        body: A network of one's own, from (n, o) to (n, actions).

    Raises:
        ValueError: A number is below 1, or none is given and no file has tasks that say it.

    Example:
        >>> CategoricalPolicy(observations=3, actions=2)(torch.zeros(20, 100, 3)).shape
        torch.Size([20, 100, 2])
    """

    discrete = True

    def __init__(
        self,
        observations: int | None = None,
        actions: int | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: Literal["tanh", "relu", "softplus", "gelu"] = "tanh",
        body: nn.Module | None = None,
    ) -> None:
        super().__init__(observations, actions, hidden, activation, body)

    def forward(self, observations: Tensor) -> Tensor:
        return self._of_body(observations)


def _size(name: str, value: int | None) -> int:
    if value is None:
        raise ValueError(f"{name}: has to be given, since there are no tasks of control beside the model to say it")
    if value < 1:
        raise ValueError(f"{name}: has to be at least 1, got {value}")
    return value
