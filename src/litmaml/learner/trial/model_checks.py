"""What in a model makes meta-learning wrong, found before it costs hours."""

from __future__ import annotations

import itertools
import warnings

import torch
from torch import nn

from litmaml.inner.batch_norms import check_statistics
from litmaml.inner.layers import kinked_layers, random_layers
from litmaml.inner.places import in_the_same_memory
from litmaml.outer import OuterGradient
from litmaml.outer.draws import check_draws


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
    check_statistics(model)
    if shared_memory := in_the_same_memory(model):
        pairs = ", ".join(" and ".join(pair) for pair in shared_memory[:3])
        raise ValueError(
            f"model: {pairs} share their memory, so that an outer step would change both and an inner step only one; "
            "tie weights by the parameter itself (decoder.weight = encoder.weight), or give each a copy (.clone())"
        )
    if random := random_layers(model):
        check_draws(outer_gradient, f"model: {', '.join(random)}", "set dropout to 0")
    name = type(outer_gradient).__name__
    half = [f"{n} has {p.dtype}" for n, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    if half and outer_gradient.differences:
        raise ValueError(
            f"model: {half[0]}, too coarse for the probes of {name}; keep the weights in float32 (mixed "
            "precision is fine) or use SecondOrder or FirstOrder"
        )
    if outer_gradient.probes:
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
