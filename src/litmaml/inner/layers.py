"""What the layers of a model are: those that draw, those with kinks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def random_layers(model: nn.Module) -> list[str]:
    """Names of the layers that draw random numbers in the mode that each is in.

    Such as dropout, also in attention and recurrence, unless it is in evaluation, as in a body that is left as it was
    pretrained.
    """
    found = []
    for name, module in model.named_modules():
        rate = getattr(module, "dropout", getattr(module, "p", 0.0))
        drops = isinstance(module, nn.MultiheadAttention | nn.RNNBase | nn.modules.dropout._DropoutNd) and rate > 0
        in_training = module.training and (drops or isinstance(module, nn.RReLU))
        if in_training or isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
            found.append(f"{name or 'model'} ({type(module).__name__})")
    return found


def kinked_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose derivative jumps, across which a finite difference is biased.

    A function that a model's own ``forward`` calls is not seen here; ``litmaml.measure.kinks`` sees it in a run.
    """
    rectifiers = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.SELU, nn.Threshold)
    pieces = (nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink)
    kinks = (*rectifiers, *pieces, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
    return [
        f"{name or 'model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, kinks) or _holds_relu(module)
    ]


def _holds_relu(module: nn.Module) -> bool:
    """Whether a layer applies ReLU as a function, as transformer and recurrent layers do."""
    if isinstance(module, nn.RNN | nn.RNNCell):
        return module.nonlinearity == "relu"
    activation = getattr(module, "activation", None)
    return activation is F.relu or activation is torch.relu
