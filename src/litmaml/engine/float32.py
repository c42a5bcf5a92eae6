"""What float32 means on a GPU, which multiplies it several times as fast where it may round the factors first."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch

Float32Precision = Literal["highest", "high", "medium"]


def set_float32_precision(precision: Float32Precision) -> None:
    """Set how exact matrix products *and* convolutions of float32 are, in the whole process.

    Torch keeps a flag for each, and lets convolutions round to TF32 (a precision of 5e-4) unless it is told not to:
    an outer gradient of convolutions would be off by as much while matrix products are called ``highest``.

    Args:
        precision: highest is float32 itself; high takes TF32 on GPUs that have it; medium may take bfloat16 for matrix
            products, and TF32 for convolutions.
    """
    with warnings.catch_warnings():
        # Torch 2.9 announces another interface. Whoever sets the two flags by the older one keeps both in step, and
        # mends what somebody mixed before; whoever mixes makes torch raise wherever a flag is read.
        warnings.filterwarnings("ignore", "Please use the new API settings", UserWarning)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def convolutions_round() -> bool:
    """Whether convolutions may round to TF32 though matrix products may not, as torch has it until it is told."""
    try:
        return bool(torch.backends.cudnn.allow_tf32) and torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by both of torch's interfaces: somebody chose
        return False


def rounds() -> bool:
    """Whether matrix products of float32 may round on a GPU."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # as above
        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def float32_flags() -> tuple[object, object]:
    """What matrix products and convolutions of float32 are set to, to be compared with what it was."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # as above
        cudnn: Any = torch.backends.cudnn  # whose types leave the newer interface out
        return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision
