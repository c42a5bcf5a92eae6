"""Which precisions leave the outer gradient right: others are refused, or warned of with what was measured.

The figures are those of docs/precision.md, errors against float64 of an outer gradient of Conv4 and of a small ViT.
"""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from litmaml.engine.float32 import convolutions_round, rounds
from litmaml.outer import OuterGradient

_EXACT = ("32-true", "64-true")
_REMEDY = "use 32-true (with --float32_matmul_precision=high for speed)"


def check_precision(trainer: Trainer, model: nn.Module, outer: OuterGradient, stage: str) -> None:
    """Refuse a trainer's precision under which gradients vanish or drown, and warn of one that rounds them.

    Raises:
        ValueError: With the figure and the remedy.
    """
    precision = str(trainer.precision)
    name = type(outer).__name__
    if precision in ("16-mixed", "16-true"):
        raise ValueError(
            f"precision: under {precision} inner gradients vanish as the loss falls, for only what leaves the outer "
            "loop is scaled: the outer gradient is off by 25 to 68% where the loss is a 4000th of that at the start "
            f"(docs/precision.md); {_REMEDY} or bf16-mixed"
        )
    if precision not in (*_EXACT, "bf16-mixed", "bf16-true"):
        raise ValueError(
            f"precision: {precision} replaces layers by others that have no second derivative and take no weights of "
            f"each task's own; {_REMEDY} or bf16-mixed"
        )
    if precision == "bf16-true" and outer.differences:
        raise ValueError(
            f"precision: bf16-true is too coarse for the probes of {name}, whose outer gradient is off by 4 to 54%; "
            "use 32-true, or bf16-mixed, under which the probes run in float32"
        )
    if stage != "fit":
        return
    if precision == "bf16-true":
        rank_zero_warn(
            "precision: under bf16-true the outer gradient is off by up to 30% (Conv4, 5-way 1-shot) or 2% (a small "
            "transformer; docs/precision.md), and steps below 0.4% of a weight are lost; bf16-mixed keeps weights in "
            "float32"
        )
    if precision == "bf16-mixed":
        conv4, transformer = ("100%", "3%") if outer.probes else ("40%", "3%")
        rank_zero_warn(
            f"precision: under bf16-mixed the outer gradient of {name} is off by up to {conv4} (Conv4, 5-way 1-shot) "
            f"or {transformer} (a small transformer; docs/precision.md); where that matters {_REMEDY}"
        )
    on_gpu = trainer.strategy.root_device.type == "cuda"
    if on_gpu and precision == "32-true" and rounds():
        # Measured by scripts/gpu_check.py on an H100.
        transformer = {"FirstOrder": "0.08%", "GaussianSmoothing": "28%", "ZerothOrder": "1.5%"}.get(name, "0.6%")
        rank_zero_warn(
            f"float32_matmul_precision: under TF32 the outer gradient of {name} is off by up to {transformer} (a small "
            "transformer), that of Conv4 by 3% after one inner step and 50% after five (docs/precision.md); where that "
            "matters use highest"
        )
    convolutional = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    if convolutional and on_gpu and convolutions_round():
        rank_zero_warn(
            "float32_matmul_precision: torch rounds float32 convolutions to TF32 here, though not matrix products; "
            "call litmaml.engine.float32.set_float32_precision('highest'), or 'high' if that is wanted"
        )
