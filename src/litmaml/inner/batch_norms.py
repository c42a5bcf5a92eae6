"""What a model's batch norms normalise by: a policy, since tasks must not share running statistics.

The layers are changed where they stand, so that names, shared layers and hooks stay, and pretrained weights load.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from litmaml.shown import listed

Policy = Literal["batch", "frozen", "group"]
POLICIES = ("batch", "frozen", "group")


def settle(model: nn.Module, policy: Policy | None) -> Policy | None:
    """Let a model's batch norms follow a policy, and give the one that they follow.

    batch: the statistics of the batch that a layer is given. frozen: its running statistics, which nothing changes any
    more, whatever mode the model is put into. group: group norm in its place, with the same scale and shift, in at most
    32 groups of at least four channels (Wu and He 2018, arXiv 1803.08494). None: as they are, but layers that are in
    evaluation, if no other has running statistics, are frozen. Instance norms that track statistics are frozen by
    frozen, and else stop to track.

    Args:
        model: Is changed.
        policy: One of these.

    Raises:
        ValueError: A layer has no running statistics to freeze, or group norm cannot take its place.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _NormBase)]
    if policy is None:
        if not any(layer.track_running_stats for _, layer in layers) or shared_statistics(model):
            return None
        policy = "frozen"
    if policy not in POLICIES:
        raise ValueError(f"batch_norm: got {policy!r}; one of {', '.join(POLICIES)}, or null: as the model has it")
    for name, layer in layers:
        if policy == "frozen":
            _freeze(name, layer)
        elif policy == "group" and isinstance(layer, _BatchNorm):
            _group(name, layer)
        else:
            _forget(name, layer)
    return policy


def shared_statistics(model: nn.Module) -> list[str]:
    """Names of the layers whose running statistics all tasks would read and change, or processes take together."""
    return [
        _named(name, module)
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        and (module.track_running_stats or isinstance(module, nn.SyncBatchNorm))
        and module.training
    ]


def check_statistics(model: nn.Module) -> None:
    """Refuse a model whose tasks would share running statistics.

    Raises:
        ValueError: Naming the layers and the remedy.
    """
    if shared := shared_statistics(model):
        raise ValueError(
            f"model: {listed(shared, 3)} would share running statistics between tasks; set batch_norm to batch (the "
            "statistics of each batch, transductive, as in MAML), to frozen (their running statistics as constants, of "
            "a pretrained model) or to group (group norm in their place)"
        )


def has_new_statistics(model: nn.Module) -> bool:
    """Whether the running statistics that a model's layers normalise by are all those of new ones, mean 0, variance 1.

    Of such a model nothing is normalised.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    return bool(layers) and all(
        not layer.running_mean.any() and bool((layer.running_var == 1).all())  # type: ignore[union-attr]
        for layer in layers
    )


def normalisation_policy(model: nn.Module) -> str:
    """What predictions are normalised by: it is named beside every result, since it moves accuracies by points."""
    policies = set()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            frozen = module.track_running_stats
            policies.add("frozen statistics (inductive)" if frozen else "batch statistics (transductive)")
        elif type(module).__name__.startswith("FrozenBatchNorm"):  # of torchvision and timm
            policies.add("frozen statistics (inductive)")
        elif isinstance(module, nn.modules.instancenorm._InstanceNorm):
            policies.add("instance norm")
        elif isinstance(module, nn.GroupNorm):
            policies.add("group norm")
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            policies.add("layer norm")
    return ", ".join(sorted(policies)) or "none"


class _Frozen:
    """In evaluation for ever. Not only by ``train``: whoever keeps the modes of parts sets them one by one."""

    training = property(lambda self: False, lambda self, mode: None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _new, (type(self).__bases__[1],), self.__dict__


@functools.cache
def _frozen(kind: Any) -> type:
    return type(kind.__name__, (_Frozen, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _new(kind: type) -> Any:
    """A frozen layer without content, for copies and pickles."""
    return object.__new__(_frozen(kind))


def _freeze(name: str, layer: _NormBase) -> None:
    if layer.running_mean is None:
        if isinstance(layer, _BatchNorm):
            raise ValueError(
                f"batch_norm: frozen needs running statistics, and {_named(name, layer)} has none; take batch or "
                "group, or a model with track_running_stats=True whose weights are loaded"
            )
    elif not isinstance(layer, _Frozen):
        layer.eval()
        kind: Any = type(layer)
        layer.__class__ = _frozen(kind)


class _OfAnyInput(_BatchNorm):
    """Batch norm of inputs of any number of dimensions, as SyncBatchNorm is."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")


def _forget(name: str, layer: _NormBase) -> None:
    """Let a layer normalise by what it is given, in evaluation too."""
    if isinstance(layer, nn.SyncBatchNorm | _Frozen):
        layer.__class__ = _plain(name, layer)
    layer.track_running_stats = False
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _plain(name: str, layer: _NormBase) -> type:
    """The class of a layer that is not frozen, nor synchronised over processes."""
    kind = type(layer).__bases__[1] if isinstance(layer, _Frozen) else type(layer)
    if kind is nn.SyncBatchNorm:
        return _OfAnyInput
    if issubclass(kind, nn.SyncBatchNorm):
        raise ValueError(
            f"batch_norm: {_named(name, layer)} takes the statistics of several processes; make the model with the "
            "layer that it is made of, or set batch_norm to frozen or group"
        )
    return kind


class _OneChannel(nn.GroupNorm):
    """Group norm of a single channel, which has several numbers to normalise only where inputs have places."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[1:].numel() == 1:
            raise ValueError(
                f"batch_norm: group norm of one channel is given one number of each example, {tuple(input.shape)}, so "
                "that it gives its bias whatever it is given; set batch_norm to batch or frozen, or leave it out"
            )
        return super().forward(input)


class _GroupNormAct(nn.GroupNorm):
    """Group norm with what came after batch norm in the same layer, as in timm's BatchNormAct2d."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


_NORM_ALONE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, _OfAnyInput)
_NORM_AND_ACT = ("BatchNormAct2d", "SyncBatchNormAct")


def _group(name: str, layer: Any) -> None:
    kind = type(layer).__bases__[1] if isinstance(layer, _Frozen) else type(layer)
    if kind not in _NORM_ALONE and not (kind.__name__ in _NORM_AND_ACT and kind.__module__.startswith("timm.")):
        raise ValueError(
            f"batch_norm: {_named(name, layer)} is of a class of its own, which does more than group norm could in its "
            "place; set batch_norm to batch or frozen, or make the model with group norm"
        )
    for statistic in ("running_mean", "running_var", "num_batches_tracked"):
        layer._buffers.pop(statistic, None)
    channels = layer.num_features
    alone = nn.GroupNorm if channels > 1 else _OneChannel
    layer.__class__ = alone if kind in _NORM_ALONE else _GroupNormAct
    layer.num_channels = channels
    layer.num_groups = next(g for g in (32, 16, 8, 4, 2, 1) if (channels % g == 0 and channels >= 4 * g) or g == 1)


def _named(name: str, layer: nn.Module) -> str:
    return f"{name or 'model'} ({type(layer).__name__})"
