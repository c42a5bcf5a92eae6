"""Torch's stateful optimizers as inner ones, differentiated by the higher library."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from litmaml.inner.optimizer import InnerOptimizer
from litmaml.inner.rates import check_rate, learnt_rates, rate
from litmaml.weights import Params

# Compared with torch and with finite differences in the tests; higher knows no AdamW, NAdam or RAdam.
_KNOWN = ("SGD", "Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop")
_RATE_NOT_LEARNT = ("ASGD", "Rprop")  # higher's derivative by their rate is wrong, or of the first step alone

_LINEAR = ("SGD", "ASGD")  # others take squares, magnitudes or signs, which higher has of real numbers only


@final
@dataclass(frozen=True, repr=False)
class HigherOptimizer(InnerOptimizer):
    """A stateful torch optimizer as the inner one, differentiated by the ``higher`` library (arXiv 1910.01727).

    ``higher`` adds Adam's eps before the bias correction, unlike torch: the first steps are shorter where gradients
    are near eps. ``Adam`` and ``AdamW`` of this package are exact and can be compiled.

    Args:
        optimizer: A class of ``torch.optim``: SGD, Adam, RMSprop, Adagrad, Adadelta, Adamax, ASGD or Rprop.
        options: What it is made with, such as ``{lr: 0.01, betas: [0.9, 0.99]}``.
        learn: Whether the outer loop trains the rate (``one`` for all fast weights, or ``none``).
        per_step: Learn a separate rate for each inner step; steps beyond those trained use the last.

    Raises:
        ValueError: ``higher`` cannot differentiate the optimizer or one of its options, or would do so wrongly.

    Example:
        One step of Adam is as long as its rate:

        >>> import torch
        >>> theta, gradient = {"w": torch.ones(1, 1).double()}, {"w": torch.full((1, 1), 7.0).double()}
        >>> optimizer = HigherOptimizer("torch.optim.Adam", {"lr": 0.1})
        >>> moved, _ = optimizer.step(0, theta, gradient, optimizer.start(theta), {})
        >>> round(moved["w"].item(), 6)
        0.9
    """

    traceable = False  # higher copies the state of torch's optimizer, which is no tensor operation

    optimizer: str = "torch.optim.Adam"
    options: dict[str, Any] | None = field(default=None)
    learn: Literal["none", "one"] = "none"
    per_step: bool = False

    def __post_init__(self) -> None:
        module, _, name = self.optimizer.rpartition(".")
        if module not in ("", "torch.optim") or name not in _KNOWN:
            raise ValueError(
                f"optimizer: higher cannot differentiate {self.optimizer!r}; one of "
                + ", ".join(f"torch.optim.{known}" for known in _KNOWN)
            )
        if self.learn not in ("none", "one"):
            raise ValueError(
                f"learn: got {self.learn!r}; of a torch optimizer only the rate can be learnt (none or one): "
                "higher's derivative by Adam's betas is wrong"
            )
        if self.learn != "none" and name in _RATE_NOT_LEARNT:
            raise ValueError(
                f"learn: higher's derivative by the rate of torch.optim.{name} is wrong; set learn to none"
            )
        options = dict(self.options or {})
        if options.get("centered"):
            raise ValueError(
                "options: higher's derivative of centered is not finite where a gradient is zero; leave it out"
            )
        for option in ("maximize", "decoupled_weight_decay"):
            if options.get(option):
                raise ValueError(f"options: higher silently ignores {option}; leave it out")
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        for key, value in options.items():
            if any(isinstance(part, Tensor) for part in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"options: {key} has to be a plain number; use learn=one for a learnt rate")
        object.__setattr__(self, "options", options)
        try:
            start = self.lr
        except (TypeError, ValueError) as error:
            raise ValueError(f"options: torch.optim.{name} does not take {options}: {error}") from error
        check_rate(start, self.learn, self.per_step)

    @cached_property
    def lr(self) -> float:
        """The rate that the optimizer is made with, or by itself has."""
        return float(self._made([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"])

    def _made(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        kind: type[torch.optim.Optimizer] = getattr(torch.optim, self.optimizer.rpartition(".")[2])
        return kind(weights, **(self.options or {}))

    def learnt(self, fast: Params, steps: int) -> Params:
        name = self.optimizer.rpartition(".")[2]
        if name not in _LINEAR and (complex_ones := [n for n, weight in fast.items() if weight.is_complex()]):
            raise ValueError(
                f"optimizer: higher's steps of torch.optim.{name} are not torch's for complex weights, got "
                f"{complex_ones[0]}; hold it as a real parameter with torch.view_as_complex, or use SGD"
            )
        return learnt_rates(self.lr, self.learn, self.per_step, fast, steps)

    def start(self, fast: Params) -> Any:
        higher_optim = importlib.import_module("higher.optim")  # not needed where another is the inner optimizer
        # The template only gives shapes, dtypes and the state that some optimizers make at once (Adagrad).
        template = [torch.zeros_like(theta).requires_grad_() for theta in fast.values()]
        with warnings.catch_warnings():
            # Of RMSprop where a gradient is zero, and of Rprop's derivative, which is zero: the tests check both.
            warnings.filterwarnings("ignore", "Differentiable R", UserWarning)
            return higher_optim.get_diff_optim(self._made(template), template)

    def step(self, j: int, fast: Params, gradient: Params, state: Any, learnt: Params) -> tuple[Params, Any]:
        override = None
        if self.learn != "none":
            override = {"lr": [rate(self.lr, self.learn, self.per_step, learnt, "", j)]}
        # higher takes a loss and differentiates it; the callback puts our own gradient in its place.
        unused = torch.zeros((), requires_grad=True)
        moved = state.step(
            unused, params=fast.values(), override=override, grad_callback=lambda _: list(gradient.values())
        )
        return dict(zip(fast, moved, strict=True)), state
