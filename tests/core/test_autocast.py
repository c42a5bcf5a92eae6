"""Under autocast a task's own attention computes as torch's does outside of vmap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import litmaml.engine.autocast  # noqa: F401 - which mends it


class Softmaxes(TorchDispatchMode):
    """Keeps the dtypes that each softmax and its derivative got."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[set[torch.dtype]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "softmax" in str(function):
            given = (part.dtype if isinstance(part, Tensor) else part for part in args)
            self.dtypes.append({part for part in given if isinstance(part, torch.dtype)})
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmax_is_float32_mapped_and_not(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 2, 4, 5, 8, dtype=torch.float32, requires_grad=True)

    def attention(q: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, q, q).float().square().sum()

    found = []
    for run in (lambda: torch.vmap(attention)(q).sum(), lambda: torch.stack([attention(each) for each in q]).sum()):
        with Softmaxes() as seen, sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", dtype):
            value = run()
            found.append(torch.autograd.grad(value, q)[0])
        assert len(seen.dtypes) >= 2
        assert set().union(*seen.dtypes) == {torch.float32}
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 4 * torch.finfo(dtype).eps
