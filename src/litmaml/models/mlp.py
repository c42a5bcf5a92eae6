"""A fully connected network, for regression and small inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}


class MLP(nn.Module):
    """Linear layers with an activation between them: (n, inputs) to (n, outputs). The last is ``head.*``.

    Args:
        inputs: Features of an example; inputs of more dimensions are flattened.
        outputs: Values or logits.
        hidden: Width of each hidden layer.
        activation: tanh, softplus and gelu have a second derivative; relu's kinks spoil finite differences.
        init: torch leaves torch's own initialisation; fan_in draws weights from N(0, 1/fan_in) with zero biases.

    Raises:
        ValueError: activation or init is unknown.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        hidden: Sequence[int] = (40, 40),
        activation: Literal["tanh", "relu", "softplus", "gelu"] = "tanh",
        init: Literal["torch", "fan_in"] = "torch",
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation: got {activation!r}; one of {', '.join(_ACTIVATIONS)}")
        if init not in ("torch", "fan_in"):
            raise ValueError(f"init: got {init!r}; one of torch, fan_in")
        self.inputs, self.outputs, self.hidden = inputs, outputs, list(hidden)
        self.activation, self.init = activation, init
        layers: list[nn.Module] = [nn.Flatten()]
        width = inputs
        for units in hidden:
            layers += [nn.Linear(width, units), _ACTIVATIONS[activation]()]
            width = units
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs)
        if init == "fan_in":
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=module.in_features**-0.5)
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(inputs))
        return outputs
