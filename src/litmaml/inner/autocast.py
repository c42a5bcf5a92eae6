"""What torch leaves out of autocast: attention's softmax, which ``vmap`` reaches after attention is taken apart.

By itself attention is cast as a whole, and computes its softmax in float32. Under ``vmap`` its parts are cast one by
one, and ``_safe_softmax`` is in none of autocast's lists: on CPUs it is rounded to bfloat16, on GPUs the softmax within
it is cast, so that its derivative meets two types and raises an error. Here it is cast like every other softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _ExcludeDispatchKeyGuard


@contextmanager
def no_kept_casts() -> Iterator[None]:
    """Cast weights anew at each use: a cast that is kept carries no gradient, and stays when the weight is changed.

    Autocast keeps those of leaves until its outermost context ends, also where a first use was under ``no_grad``.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _in_float32(key: DispatchKey) -> Callable[..., Tensor]:
    keys = DispatchKeySet(key)

    def safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        with _ExcludeDispatchKeyGuard(keys):
            short = x.dtype in (torch.bfloat16, torch.float16)
            result: Tensor = torch.ops.aten._safe_softmax(x.float() if short else x, dim, dtype=dtype)
            return result

    return safe_softmax


# For as long as the process lives: the registrations end with the library.
_LIBRARY = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # of torch
for _name in ("AutocastCPU", "AutocastCUDA"):
    _LIBRARY.impl("_safe_softmax", _in_float32(getattr(DispatchKey, _name)), _name)  # type: ignore[no-untyped-call]  # of torch
