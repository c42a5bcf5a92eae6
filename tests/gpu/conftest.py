"""What runs on a GPU only; scripts/gpu_check.py runs these tests with its own comparisons."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from litmaml.engine.float32 import set_float32_precision

_ROOT = Path(__file__).parents[2]
# The problems of the check, and the pictures of the tests of fine-tuning and of data.
sys.path[:0] = [str(_ROOT / "scripts"), str(_ROOT / "tests" / "finetune"), str(_ROOT / "tests" / "data")]


@pytest.fixture
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch sees")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    set_float32_precision("highest")
    yield
    set_float32_precision("highest")
