"""What in a model makes meta-learning wrong, found before it costs hours."""

from __future__ import annotations

import itertools
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from litmaml.outer_gradient import OuterGradient, SecondOrder
from litmaml.places import in_the_same_memory


def random_layers(model: nn.Module) -> list[str]:
    """Names of the layers that draw random numbers in training, such as dropout, also in attention and recurrence."""
    return [f"{name or 'model'} ({type(module).__name__})" for name, module in model.named_modules() if _draws(module)]


def put_out_random_layers(model: nn.Module) -> None:
    """Let torch's own layers that draw in training draw no more; a class of somebody else's does what it does."""
    for module in model.modules():
        if _draws(module) and type(module).__module__.startswith("torch.nn."):
            module.training = False


def _draws(module: nn.Module) -> bool:
    rate = getattr(module, "dropout", getattr(module, "p", 0.0))
    inside = isinstance(module, nn.MultiheadAttention | nn.RNNBase)
    return isinstance(module, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d) or (
        (inside or isinstance(module, nn.modules.dropout._DropoutNd)) and rate > 0
    )


def kinked_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose derivative jumps, across which a finite difference is biased.

    A function that a model's own ``forward`` calls is not seen here; ``litmaml.diagnosis.kinks`` sees it in a run.
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


def shared_statistics(model: nn.Module) -> list[str]:
    """Names of the layers whose running statistics all tasks would read and change."""
    layers = nn.modules.batchnorm._NormBase
    return [
        f"{name or 'model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, layers) and module.track_running_stats
    ]


def normalisation_policy(model: nn.Module) -> str:
    """What predictions are normalised by: it is named beside every result, since it moves accuracies by points."""
    policies = set()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            policies.add("batch statistics (transductive)")
        elif isinstance(module, nn.modules.instancenorm._InstanceNorm):
            policies.add("instance norm")
        elif isinstance(module, nn.GroupNorm):
            policies.add("group norm")
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            policies.add("layer norm")
    return ", ".join(sorted(policies)) or "none"


def check_model(model: nn.Module, outer_gradient: OuterGradient) -> None:
    """Refuse what the outer gradient cannot differentiate or the tasks cannot share; warn of kinks under probes.

    Raises:
        ValueError: Naming the layers and the remedy.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "model: it is a ScriptModule, which cannot be called with other weights in the place of its own; give the "
            "module that it was made of (parts of it may be scripted)"
        )
    if unmade := [name for name, weight in model.named_parameters() if weight.is_meta]:
        raise ValueError(
            f"model: {unmade[0]} is on the meta device, where weights have no values; move the model by "
            "to_empty(device='cpu') and initialise it, or make it outside of torch.device('meta')"
        )
    if shared := shared_statistics(model):
        raise ValueError(
            f"model: {', '.join(shared)} would share running statistics between tasks; construct the layers with "
            "track_running_stats=False (batch statistics, transductive, as in MAML) or use group norm"
        )
    if shared_memory := in_the_same_memory(model):
        pairs = ", ".join(" and ".join(pair) for pair in shared_memory[:3])
        raise ValueError(
            f"model: {pairs} share their memory, so that an outer step would change both and an inner step only one; "
            "tie weights by the parameter itself (decoder.weight = encoder.weight), or give each a copy (.clone())"
        )
    if random := random_layers(model):
        check_draws(outer_gradient, f"model: {', '.join(random)}", "set dropout to 0")
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
        half = [f"{n} has {p.dtype}" for n, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]
        if half:
            raise ValueError(
                f"model: {half[0]}, too coarse for the probes of {name}; keep the weights in float32 (mixed "
                "precision is fine) or use SecondOrder or FirstOrder"
            )


def check_draws(outer_gradient: OuterGradient, what: str, remedy: str) -> None:
    """Refuse what draws random numbers, for an outer gradient that needs the same step twice.

    Args:
        outer_gradient: By which the learner is trained.
        what: Draws: the argument and the layers or functions.
        remedy: What else would help.

    Raises:
        ValueError: Naming the outer gradient and the remedy.
    """
    name = type(outer_gradient).__name__
    if isinstance(outer_gradient, SecondOrder) and outer_gradient.recompute:
        raise ValueError(
            f"{what} draws anew when {name} recomputes an inner step, which would be another step; set recompute to "
            f"false, or {remedy}"
        )
    if outer_gradient.probes:
        raise ValueError(
            f"{what} draws anew in each probe of {name}, whose difference would be noise; {remedy} or use SecondOrder "
            "or FirstOrder"
        )


def check_hooks(model: nn.Module) -> None:
    """Refuse hooks on parameters that change gradients: they act on the outer gradient, and on no inner step.

    Hooks that only look at a gradient, as a logger's do, return nothing and pass; each is called with a large one and
    with a small one, since a hook may cut off either.

    Raises:
        ValueError: Naming the parameter and the remedy.
    """
    for name, weight in model.named_parameters():
        found = "register_post_accumulate_grad_hook" if weight._post_accumulate_grad_hooks else ""
        for hook, size in itertools.product((weight._backward_hooks or {}).values(), (1e3, 1e-3)):
            given = size * torch.randn_like(weight)
            kept = given.clone()
            returned = hook(given)
            if not torch.equal(kept, given) or not (returned is None or torch.equal(kept, returned)):
                found = "register_hook"
        if found:
            raise ValueError(
                f"model: {name} has a hook ({found}), which changes its outer gradient and none of the inner steps; "
                "take it off, and let the forward pass do it (weight * mask), or the outer optimizer "
                "(trainer.gradient_clip_val)"
            )
