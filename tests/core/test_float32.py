"""One function for torch's two flags on float32, whose interfaces raise where they are mixed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from litmaml.engine.float32 import Float32Precision, convolutions_round, float32_flags, set_float32_precision


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    yield
    set_float32_precision("highest")


@pytest.mark.parametrize(("precision", "rounds"), [("highest", False), ("high", True), ("medium", True)])
def test_convolutions_follow_matrix_products(precision: Float32Precision, rounds: bool) -> None:
    for before in (True, False):
        torch.backends.cudnn.allow_tf32 = before
        set_float32_precision(precision)
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cuda.matmul.allow_tf32 is rounds
        assert torch.backends.cudnn.allow_tf32 is rounds
        assert not convolutions_round()


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the one interface only")
def test_flags_that_somebody_mixed_are_mended() -> None:
    set_float32_precision("high")
    cudnn: Any = torch.backends.cudnn  # whose types leave the newer interface out
    cudnn.conv.fp32_precision = "ieee"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        bool(torch.backends.cudnn.allow_tf32)
    assert not convolutions_round()
    assert "ieee" in float32_flags()
    set_float32_precision("highest")
    assert not torch.backends.cudnn.allow_tf32
    assert cudnn.conv.fp32_precision != "tf32"
    assert cudnn.rnn.fp32_precision != "tf32"


def test_what_torch_does_untold() -> None:
    """In a fresh process convolutions may round, which is why they have to be told."""
    program = "from litmaml.engine.float32 import convolutions_round; print(convolutions_round())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
