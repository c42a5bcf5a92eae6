"""Batch normalisation by statistics that no longer change: a prediction must not depend on its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.inner.model_call import predictions_of
from litmaml.learner.trial.agreement import off, rounding_of
from litmaml.shown import first_line
from litmaml.tasks import Tree, copies, count_of, select, tensors_of

_BatchNorm = nn.modules.batchnorm._BatchNorm

_ALONE = 8
"""How many inputs are predicted alone as well."""


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


def check_batch_norms(model: nn.Module, inputs: Tree) -> None:
    """Refuse batch norms that no one mean and variance can take the place of.

    Args:
        model: In the mode in which it is adapted.
        inputs: Some inputs (n, ...).

    Raises:
        ValueError: A layer normalises several batches in one forward pass.
    """
    calls = dict.fromkeys(batch_norms(model), 0)

    def count(name: str, _: Tensor) -> None:
        calls[name] += 1

    with _seen(model, count), torch.no_grad():
        predictions_of(model, inputs)
    for name, number in calls.items():
        _refuse_repeated(name, number, 1)


def freeze_normalisation(model: nn.Module, batches: Iterable[Tree]) -> None:
    """Normalise from now on by mean and variance of these inputs, as each layer sees them.

    On one batch the frozen model then predicts just what it predicted before. Of more, each normalised by itself,
    the pooled moments are taken: m = sum n_b m_b / n, v = sum n_b (v_b + m_b^2) / n - m^2.

    Args:
        model: Is changed: its batch norms without running statistics get them, and it is put in eval mode. Each is
            called at most once in a forward pass; one that is not called normalises by mean 0 and variance 1.
        batches: Inputs (n_b, ...), the support set.

    Raises:
        ValueError: A layer is called more often.
    """
    layers = batch_norms(model)
    model.eval()
    moments: dict[str, list[Tensor]] = {name: [] for name in layers}

    def record(name: str, inputs: Tensor) -> None:
        rows = inputs.detach().double().transpose(0, 1).flatten(1)  # (channels, values)
        square = rows.square().sum(1)
        moments[name].append(torch.stack([torch.full_like(square, rows.shape[1]), rows.sum(1), square]))

    passes = 0
    with _seen(model, record), torch.no_grad():
        for batch in batches if layers else ():
            predictions_of(model, batch)
            passes += 1
    hold_statistics(model)
    for name, layer in layers.items():
        if not moments[name]:
            continue
        _refuse_repeated(name, len(moments[name]), passes)
        count, total, square = torch.stack(moments[name]).sum(0)
        mean = total / count
        layer.running_mean = mean.to(layer.running_mean)
        layer.running_var = (square / count - mean.square()).clamp(min=0).to(layer.running_var)


def _refuse_repeated(name: str, calls: int, passes: int) -> None:
    if calls > passes:
        raise ValueError(
            f"model: its batch norm {name or 'model'} is called {calls} times in {passes} forward pass"
            f"{'es' if passes > 1 else ''}, each with statistics of its own, which frozen it cannot have; meta-train "
            "with a layer for each place, or with group, instance or layer norm"
        )


@contextmanager
def _seen(model: nn.Module, note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Note the name and the inputs of each batch norm that is called."""

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(name, args[0] if args else kwargs["input"])

    hooks = [
        layer.register_forward_pre_hook(lambda _, args, kwargs, name=name: hook(name, args, kwargs), with_kwargs=True)
        for name, layer in batch_norms(model).items()
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def check_independent(model: nn.Module, inputs: Tree) -> None:
    """Refuse a model in which the images of a batch still change each other's predictions.

    Args:
        model: In eval mode; called with the inputs alone it gives a tensor.
        inputs: Some inputs (n, ...), or a tree of such. A few, from the first to the last, are predicted alone; all of
            them together, and in the reverse order without the last.

    Raises:
        ValueError: An input is not predicted as in the batch, by more than rounding.
    """
    count = count_of(inputs)
    which = torch.linspace(0, count - 1, min(count, _ALONE)).round().long().to(tensors_of(inputs)[0].device)
    with torch.no_grad():
        together = model(copies(inputs))
        try:
            alone = torch.cat([model(select(inputs, [k])) for k in which.tolist()])
        except Exception as error:  # such as of batch norm as a function, which takes no single example
            raise ValueError(
                f"model: cannot predict an input alone ({first_line(error)}): a function in it looks at the whole "
                "batch, whose statistics cannot be frozen; meta-train with nn.BatchNorm or group, instance or layer "
                "norm as layers"
            ) from error
        backwards = select(inputs, [*range(count - 1)][::-1])
        others = model(backwards).flip(0) if count > 1 else together[:-1]
    allowed = rounding_of(model, select(inputs, which))
    if apart := max(off(alone, together[which], allowed), off(others, together[:-1], allowed)):
        raise ValueError(
            f"model: predicts an input alone otherwise than among others, by {apart:.2g}: a layer looks at the whole "
            "batch and is no batch norm, whose statistics would be frozen, or takes the examples for a sequence; "
            "meta-train with group, instance or layer norm, and with batch_first=True in recurrent and attention layers"
        )
