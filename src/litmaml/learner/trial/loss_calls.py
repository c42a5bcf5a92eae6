"""The losses of torch that somebody's loss takes of its targets, each judged as if it were the whole one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_KINDS: dict[Any, type[nn.Module]] = {
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.nll_loss: nn.NLLLoss,
    functional.multi_margin_loss: nn.MultiMarginLoss,
    functional.binary_cross_entropy: nn.BCELoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    functional.kl_div: nn.KLDivLoss,
    functional.poisson_nll_loss: nn.PoissonNLLLoss,
    functional.soft_margin_loss: nn.SoftMarginLoss,
    functional.mse_loss: nn.MSELoss,
    functional.l1_loss: nn.L1Loss,
    functional.smooth_l1_loss: nn.SmoothL1Loss,
    functional.huber_loss: nn.HuberLoss,
}
_SETTINGS = ("ignore_index", "weight", "log_target")
"""What decides which targets fit."""


class Misfit(ValueError):
    """A loss within a loss is taken of what does not fit it."""


class LossCalls(TorchFunctionMode):
    """A context in which a loss of torch is judged before it is taken of something that lies in the targets.

    A target that was computed first, such as a float made of an integer, is none of these.

    Args:
        targets: All tensors of the targets.
        judge: Raises ValueError if a loss does not fit its predictions and targets.
    """

    def __init__(self, targets: Sequence[Tensor], judge: Callable[[nn.Module, Tensor, Tensor], None]) -> None:
        super().__init__()
        self._places = {part.untyped_storage().data_ptr() for part in targets}
        self._judge = judge

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kind := _KINDS.get(function):
            given = inspect.signature(function).bind(*args, **(kwargs or {})).arguments
            scores, wanted = given["input"], given["target"]
            if wanted.dim() and scores.dim() and wanted.untyped_storage().data_ptr() in self._places:
                settings = {name: given[name] for name in _SETTINGS if given.get(name) is not None}
                try:
                    self._judge(kind(**settings), scores.detach(), wanted.detach())
                except ValueError as error:
                    raise Misfit(*error.args) from error
        return function(*args, **(kwargs or {}))
