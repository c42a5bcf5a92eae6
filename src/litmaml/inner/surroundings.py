"""What holds around a forward pass whose gradient is differentiated again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

NO_HOOKS = (
    "model: recomputes activations or keeps them elsewhere (torch.utils.checkpoint, save_on_cpu), after the inner loop "
    "has put other weights into it; switch that off (gradient_checkpointing_disable() of a transformers model) and "
    "save memory by SecondOrder(recompute=True) or tasks_per_chunk"
)


def no_hooks() -> AbstractContextManager[None]:
    """Refuse a model that hooks what autograd saves, but let pass hooks from outside, which do not run it again."""
    # Before torch 2.8 nobody tells, and hooks from outside are refused with the model's.
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
    outside = top(False) is not None
    return nullcontext() if outside else disable_saved_tensors_hooks(NO_HOOKS)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Fused attention has no second derivative, and fused encoder layers (torch's in eval mode) none under vmap."""
    fused_layers = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_layers)
