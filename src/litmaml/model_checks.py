"""What in a model makes meta-learning wrong, found before it costs hours."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from litmaml.inner.layers import kinked_layers, random_layers, shared_statistics
from litmaml.outer import OuterGradient, SecondOrder


def check_model(model: nn.Module, outer_gradient: OuterGradient) -> None:
    """Refuse what the outer gradient cannot differentiate or the tasks cannot share; warn of kinks under probes.

    Raises:
        ValueError: Naming the layers and the remedy.
    """
    if shared := shared_statistics(model):
        raise ValueError(
            f"model: {', '.join(shared)} would share running statistics between tasks; construct the layers with "
            "track_running_stats=False (batch statistics, transductive, as in MAML) or use group norm"
        )
    if random := random_layers(model):
        check_draws(outer_gradient, ", ".join(random))
    if outer_gradient.probes:
        name = type(outer_gradient).__name__
        if kinks := kinked_layers(model):
            warnings.warn(
                f"{name} across the kinks of {', '.join(kinks[:3])} is biased by tens of per cent, with batch norm "
                "over a few images by more; use a smooth activation, SecondOrder or FirstOrder",
                stacklevel=3,
            )
        if complex_ones := [n for n, p in model.named_parameters() if p.is_complex() and p.requires_grad]:
            raise ValueError(
                f"model: {complex_ones[0]} is complex, and the probes of {name} move real weights; hold it as a real "
                "parameter with torch.view_as_complex, or use SecondOrder or FirstOrder"
            )
        half = [n for n, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]
        if half:
            raise ValueError(
                f"model: {half[0]} has {model.get_parameter(half[0]).dtype}, too coarse for the probes of {name}; "
                "keep the weights in float32 (mixed precision is fine) or use SecondOrder or FirstOrder"
            )


def check_draws(outer_gradient: OuterGradient, what: str) -> None:
    """Refuse a model in which something draws random numbers, for an outer gradient that needs the same step twice.

    Raises:
        ValueError: Naming the outer gradient and the remedy.
    """
    name = type(outer_gradient).__name__
    if isinstance(outer_gradient, SecondOrder) and outer_gradient.recompute:
        raise ValueError(
            f"model: {what} draws anew when {name} recomputes an inner step, which would be another step; set "
            "recompute to false, or dropout to 0"
        )
    if outer_gradient.probes:
        raise ValueError(
            f"model: {what} draws anew in each probe of {name}, whose difference would be noise; set dropout to 0 or "
            "use SecondOrder or FirstOrder"
        )
