"""A fully connected network that a task adapts by a few of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from litmaml.models.mlp import MLP


class ContextMLP(MLP):
    """An ``MLP`` whose inputs have a context beside them, the same for all examples of a task: the model of CAVIA
    (Zintgraf et al. 2019, arXiv 1810.03642).

    The context is the buffer ``context``, zero at the start. With ``fast_weights: [context]`` it is all that a task
    adapts, and the network is trained by the outer loop. (A trained start of it would be the first layer's bias again.)

    Args:
        inputs: Features of an example, without the context; inputs of more dimensions are flattened.
        outputs: Values or logits.
        hidden: Width of each hidden layer.
        context_size: k, the entries of the context: 2 to 5 for sinusoids.
        activation: See ``MLP``.
        init: Likewise.

    Raises:
        ValueError: context_size is below 1, or activation or init is unknown.
    """

    context: Tensor

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        hidden: Sequence[int] = (40, 40),
        context_size: int = 5,
        activation: Literal["tanh", "relu", "softplus", "gelu"] = "tanh",
        init: Literal["torch", "fan_in"] = "torch",
    ) -> None:
        if context_size < 1:
            raise ValueError(f"context_size: has to be at least 1, got {context_size}")
        super().__init__(inputs + context_size, outputs, hidden, activation, init)
        self.inputs, self.context_size = inputs, context_size
        self.register_buffer("context", torch.zeros(context_size))

    def forward(self, inputs: Tensor) -> Tensor:
        given = inputs.flatten(1)
        return super().forward(torch.cat([given, self.context.expand(len(given), -1)], 1))
