"""Layers that a task does not adapt, behind those that it does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from litmaml.inner.patterns import fitting


class Warped(nn.Module):
    """A model of which layers have a linear one behind them, that starts as the identity: T-Net (Lee and Choi 2018,
    arXiv 1801.05558) and Warp-MAML (Flennerhag et al. 2020, arXiv 1909.00025).

    Of a layer ``L`` its own weights become ``L.task.*``, and those behind it ``L.warp.*``. With
    ``fast_weights: ["*.task.*"]`` tasks adapt the first, and the outer loop trains both. For y = T W x a step in W is a
    step of T W along the gradient times T T'. So what is behind preconditions.

    Args:
        model: Any model; its parts are ``model.*``.
        layers: Patterns of the names of the linear layers and convolutions that get one.

    Raises:
        ValueError: A pattern fits none.

    Example:
        >>> warped = Warped(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), layers=["0"])
        >>> [name for name, _ in warped.named_parameters()]
        ['model.0.task.weight', 'model.0.task.bias', 'model.0.warp.weight', 'model.2.weight', 'model.2.bias']
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] = ("body.*",)) -> None:
        super().__init__()
        self.layers = list(layers)
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        found = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
        weights: dict[str, Tensor] = {name: layer.weight for name, layer in found.items()}
        for name in fitting("layers", layers, weights, {}, "linear layers and convolutions"):
            parent, _, own = name.rpartition(".")
            pair = OrderedDict(task=found[name], warp=_identity(found[name]))
            setattr(model.get_submodule(parent), own, nn.Sequential(pair))
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def _identity(layer: nn.Module) -> nn.Module:
    """A linear map of the layer's outputs to themselves."""
    if isinstance(layer, nn.Linear):
        behind: Any = nn.Linear(layer.out_features, layer.out_features, bias=False)
        nn.init.eye_(behind.weight)
    else:
        channels: Any = layer.out_channels
        behind = type(layer)(channels, channels, 1, bias=False)
        nn.init.dirac_(behind.weight)
    moved: nn.Module = behind.to(layer.weight)
    return moved
