"""Low-rank changes of a pretrained model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from litmaml.inner.patterns import fitting


class LoRA(nn.Module):
    """A model of which linear layers learn a change of low rank only: W + (alpha / r) B A, B = 0 at the start.

    W is the pretrained weight (out, in), which stays, A (r, in) and B (out, r) with the rank r are trained (Hu et al.
    2021, arXiv 2106.09685). The rest of the model is frozen but for what ``trained`` names, so that
    ``fast_weights: ["*"]`` adapts no more than these. Their names end in ``lora_a`` and ``lora_b``.

    Args:
        model: Any model; its parts are ``model.*``. Weights are loaded before it is given.
        layers: Patterns of the names of its linear layers that are changed, such as "*.qkv" or "*query".
        rank: r.
        alpha: The length of a change, which then depends little on the rank.
        trained: Patterns of the names of other parameters that are trained in full, such as the head's.

    Raises:
        ValueError: A pattern fits no linear layer, or no parameter.

    Example:
        >>> lora = LoRA(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), layers=["0"], rank=2, trained=["1.*"])
        >>> [name for name, weight in lora.named_parameters() if weight.requires_grad]
        ['model.0.parametrizations.weight.0.lora_a', 'model.0.parametrizations.weight.0.lora_b', 'model.1.weight', \
'model.1.bias']
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] = ("*",),
        rank: int = 4,
        alpha: float = 8.0,
        trained: Sequence[str] = ("*head.*",),
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank: has to be at least 1, got {rank}")
        self.layers, self.rank, self.alpha, self.trained = list(layers), rank, alpha, list(trained)
        linear = {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        own = fitting("trained", trained, dict(model.named_parameters()), {}, "parameters")
        chosen = [
            name for name in fitting("layers", layers, linear, {}, "linear layers") if f"{name}.weight" not in own
        ]
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in own)
        for name in chosen:
            change = _LowRank(linear[name], rank, alpha / rank)
            parametrize.register_parametrization(model.get_submodule(name), "weight", change)
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


class _LowRank(nn.Module):
    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        outputs, inputs = weight.shape
        self.lora_a = nn.Parameter(weight.new_empty(rank, inputs).normal_(std=inputs**-0.5))
        self.lora_b = nn.Parameter(weight.new_zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.lora_b @ self.lora_a)
