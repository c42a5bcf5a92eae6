"""What the tests of the mathematical core need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def double_precision() -> Iterator[None]:
    """The oracles agree to 1e-10, so everything is made in float64 unless a test says otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """A test's data does not depend on the tests before it."""
    torch.manual_seed(0)
