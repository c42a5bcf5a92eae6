"""Batch normalisation by statistics that no longer change: a prediction must not depend on its neighbours."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers, by name, that normalise by the statistics of the batch they are given."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not layer.track_running_stats
    }


def hold_statistics(model: nn.Module) -> None:
    """Let every such layer normalise, in eval mode, by buffers of its own: of mean 0 and variance 1 until filled."""
    for layer in batch_norms(model).values():
        like = next(model.parameters())
        layer.running_mean = torch.zeros(layer.num_features, dtype=like.dtype, device=like.device)
        layer.running_var = torch.ones_like(layer.running_mean)
        layer.num_batches_tracked = torch.zeros((), dtype=torch.long, device=like.device)
        layer.track_running_stats = True


def freeze_normalisation(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Normalise from now on by mean and variance of these inputs, as each layer sees them.

    On one batch the frozen model then predicts just what it predicted before. Of more, each normalised by itself,
    the pooled moments are taken: m = sum n_b m_b / n, v = sum n_b (v_b + m_b^2) / n - m^2.

    Args:
        model: Is changed: its batch norms without running statistics get them, and it is put in eval mode.
        batches: Inputs (n_b, ...), the support set.
    """
    layers = batch_norms(model)
    model.eval()
    moments: dict[str, list[Tensor]] = {name: [] for name in layers}

    def record(name: str, inputs: Tensor) -> None:
        rows = inputs.detach().double().transpose(0, 1).flatten(1)  # (channels, values)
        square = rows.square().sum(1)
        moments[name].append(torch.stack([torch.full_like(square, rows.shape[1]), rows.sum(1), square]))

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: record(name, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for batch in batches if layers else ():
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    hold_statistics(model)
    for name, layer in layers.items():
        count, total, square = torch.stack(moments[name]).sum(0)
        mean = total / count
        layer.running_mean = mean.to(layer.running_mean)
        layer.running_var = (square / count - mean.square()).clamp(min=0).to(layer.running_var)


def check_independent(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model in which the images of a batch still change each other's predictions.

    Args:
        model: In eval mode.
        inputs: Some inputs (n, ...).

    Raises:
        ValueError: An input alone is not predicted as in the batch.
    """
    with torch.no_grad():
        together, alone = model(inputs), model(inputs[:1])
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-3):
        raise ValueError(
            "model: predicts an input alone otherwise than among others, by "
            f"{float((together[:1] - alone).abs().max()):.2g}: a layer looks at the whole batch and is no batch norm, "
            "whose statistics would be frozen; meta-train with group, instance or layer norm"
        )
