"""Inner optimizers: how a fast weight moves along its gradient, differentiably and with rates that can be learnt.

In the notation of the outer gradient, an inner optimizer is the map U_j of

    theta_{j+1}, s_{j+1} = U_j(theta_j, g_j, s_j; phi)

with fast weights theta, gradient g, state s (momentum, moments) and hyperparameters phi. U_j acts element by
element, so T tasks stacked along a leading dimension are updated at once.
"""

from __future__ import annotations

import importlib
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from litmaml.types import Params

Learn = Literal["none", "one", "tensor", "parameter"]


class InnerOptimizer(nn.Module, ABC):
    """The update of the fast weights; its learnable rates are parameters that the outer loop trains.

    ``traceable``: its steps are nothing but tensor operations, so that the whole meta-gradient can be compiled.
    """

    traceable: ClassVar[bool] = True

    def bind(self, fast: Params, steps: int) -> None:
        """Make the learnable tensors for fast weights of these names and shapes (unstacked) and N = ``steps``."""

    @abstractmethod
    def start(self, fast: Params) -> Any:
        """The state s_0 for stacked fast weights."""

    @abstractmethod
    def step(self, j: int, fast: Params, gradient: Params, state: Any) -> tuple[Params, Any]:
        """Take inner step ``j`` (from 0) and return theta_{j+1} and s_{j+1}."""


class _Rates(nn.Module):
    """A positive start rate, fixed or learnt: one, one a tensor, or one a parameter; shared by the steps or not."""

    def __init__(self, lr: float, learn: Learn, per_step: bool) -> None:
        super().__init__()
        if not (lr > 0 and lr != float("inf")):
            raise ValueError(f"lr: the inner rate has to be a positive number, got {lr}")
        if learn not in ("none", "one", "tensor", "parameter"):
            raise ValueError(f"learn: got {learn!r}; one of none, one, tensor, parameter")
        if per_step and learn == "none":
            raise ValueError("per_step: only learnt rates can differ by step; set learn to one, tensor or parameter")
        self.lr, self.learn, self.per_step = lr, learn, per_step
        self.values = nn.ParameterDict()

    @staticmethod
    def _key(name: str) -> str:
        # A ParameterDict's names may hold no dot, nor be those of its methods, such as keys.
        return name.replace(".", "/") if "." in name else f"/{name}"

    def bind(self, fast: Params, steps: int) -> None:
        if self.learn != "none" and (complex_ones := [name for name, weight in fast.items() if weight.is_complex()]):
            raise ValueError(
                f"learn: a rate of the complex weight {complex_ones[0]} would be complex; set learn to none, or hold "
                "the weight as a real parameter with torch.view_as_complex"
            )
        lead = (steps,) if self.per_step else ()
        if self.learn == "one":
            anyone = next(iter(fast.values()))
            self.values["all"] = nn.Parameter(anyone.new_full(lead, self.lr))
        elif self.learn != "none":
            for name, weight in fast.items():
                shape = lead + (tuple(weight.shape) if self.learn == "parameter" else ())
                self.values[self._key(name)] = nn.Parameter(weight.new_full(shape, self.lr))

    def forward(self, name: str, j: int) -> float | Tensor:
        if self.learn == "none":
            return self.lr
        rate: Tensor = self.values["all" if self.learn == "one" else self._key(name)]
        # More steps than were trained go on with the last rate.
        return rate[min(j, len(rate) - 1)] if self.per_step else rate

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A checkpoint trained with another number of steps: cut its rates, or repeat the last one.
        if self.per_step:
            for key, here in self.values.items():
                saved = state_dict.get(f"{prefix}values.{key}")
                if saved is not None and saved.shape[1:] == here.shape[1:] and len(saved) != len(here):
                    rows = torch.arange(len(here)).clamp(max=len(saved) - 1)
                    state_dict[f"{prefix}values.{key}"] = saved[rows]
        super()._load_from_state_dict(state_dict, prefix, *args)


@final
class SGD(InnerOptimizer):
    """Gradient descent with fixed or learnt rates, momentum and weight decay.

    With rate a_j, momentum mu and weight decay wd, as in ``torch.optim.SGD``:

        g <- g + wd theta;   m_{j+1} = mu m_j + g (m_1 = g);   d = g + mu m_{j+1} if nesterov else m_{j+1}
        theta_{j+1} = theta_j - a_j d

    Learnt rates: one a parameter is Meta-SGD (Li et al. 2017, arXiv 1707.09835); one a tensor and step is LSLR of
    MAML++ (Antoniou et al. 2019, arXiv 1810.09502).

    Args:
        lr: The inner rate alpha, or where learnt rates start.
        momentum: mu, in [0, 1).
        nesterov: Look ahead along the momentum.
        weight_decay: wd, at least 0.
        learn: Which rates the outer loop trains: none, one for all, one a tensor, or one a parameter.
        per_step: Learn separate rates for each inner step; steps beyond those trained use the last.

    Raises:
        ValueError: A hyperparameter is out of its range.
    """

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        learn: Learn = "none",
        per_step: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: has to be in [0, 1), got {momentum}")
        if nesterov and momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay: has to be at least 0, got {weight_decay}")
        self.lr, self.learn, self.per_step = lr, learn, per_step
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.rates = _Rates(lr, learn, per_step)

    def bind(self, fast: Params, steps: int) -> None:
        self.rates.bind(fast, steps)

    def start(self, fast: Params) -> Params | None:
        return None

    def step(self, j: int, fast: Params, gradient: Params, state: Params | None) -> tuple[Params, Params | None]:
        if self.weight_decay:
            gradient = {name: g + self.weight_decay * fast[name] for name, g in gradient.items()}
        direction = gradient
        if self.momentum:
            state = (
                gradient if state is None else {name: self.momentum * state[name] + g for name, g in gradient.items()}
            )
            direction = state
            if self.nesterov:
                direction = {name: g + self.momentum * state[name] for name, g in gradient.items()}
        return {name: _descended(theta, direction[name], self.rates(name, j)) for name, theta in fast.items()}, state


def _descended(theta: Tensor, direction: Tensor, rate: float | Tensor) -> Tensor:
    if isinstance(rate, Tensor):
        return theta - rate * direction
    return torch.add(theta, direction, alpha=-rate)  # one operation for two, and one in its derivative


# Compared with torch and with finite differences in the tests; higher knows no AdamW, NAdam or RAdam.
_HIGHER_KNOWS = ("SGD", "Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop")
_RATE_NOT_LEARNT = ("ASGD", "Rprop")  # higher's derivative by their rate is wrong, or of the first step alone
_LINEAR = ("SGD", "ASGD")  # others take squares, magnitudes or signs, which higher has of real numbers only


@final
class HigherOptimizer(InnerOptimizer):
    """A stateful torch optimizer as the inner one, differentiated by the ``higher`` library (arXiv 1910.01727).

    ``higher`` adds Adam's eps before the bias correction, unlike torch: the first steps are shorter where
    gradients are near eps.

    Args:
        optimizer: A class of ``torch.optim``: SGD, Adam, RMSprop, Adagrad, Adadelta, Adamax, ASGD or Rprop.
        options: What it is made with, such as ``{lr: 0.01, betas: [0.9, 0.99]}``.
        learn: Whether the outer loop trains the rate (``one`` for all fast weights, or ``none``).
        per_step: Learn a separate rate for each inner step; steps beyond those trained use the last.

    Raises:
        ValueError: ``higher`` cannot differentiate the optimizer or one of its options, or would do so wrongly.
    """

    traceable = False  # higher copies the state of torch's optimizer, which is no tensor operation

    def __init__(
        self,
        optimizer: str = "torch.optim.Adam",
        options: dict[str, Any] | None = None,
        learn: Literal["none", "one"] = "none",
        per_step: bool = False,
    ) -> None:
        super().__init__()
        module, _, name = optimizer.rpartition(".")
        if module not in ("", "torch.optim") or name not in _HIGHER_KNOWS:
            raise ValueError(
                f"optimizer: higher cannot differentiate {optimizer!r}; one of "
                + ", ".join(f"torch.optim.{known}" for known in _HIGHER_KNOWS)
            )
        if learn not in ("none", "one"):
            raise ValueError(
                f"learn: got {learn!r}; of a torch optimizer only the rate can be learnt (none or one): "
                "higher's derivative by Adam's betas is wrong"
            )
        if learn != "none" and name in _RATE_NOT_LEARNT:
            raise ValueError(
                f"learn: higher's derivative by the rate of torch.optim.{name} is wrong; set learn to none"
            )
        options = dict(options or {})
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
        self.optimizer, self.options, self.learn, self.per_step = optimizer, options, learn, per_step
        self._class: type[torch.optim.Optimizer] = getattr(torch.optim, name)
        try:
            made = self._class([nn.Parameter(torch.zeros(1))], **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options: torch.optim.{name} does not take {options}: {error}") from error
        self.lr = float(made.param_groups[0]["lr"])
        self.rates = _Rates(self.lr, learn, per_step)

    def bind(self, fast: Params, steps: int) -> None:
        name = self._class.__name__
        if name not in _LINEAR and (complex_ones := [n for n, weight in fast.items() if weight.is_complex()]):
            raise ValueError(
                f"optimizer: higher's steps of torch.optim.{name} are not torch's for complex weights, got "
                f"{complex_ones[0]}; hold it as a real parameter with torch.view_as_complex, or use SGD"
            )
        self.rates.bind(fast, steps)

    def start(self, fast: Params) -> Any:
        higher_optim = importlib.import_module("higher.optim")  # not needed where SGD is the inner optimizer
        # The template only gives shapes, dtypes and the state that some optimizers make at once (Adagrad).
        template = [torch.zeros_like(theta).requires_grad_() for theta in fast.values()]
        with warnings.catch_warnings():
            # Of RMSprop where a gradient is zero, and of Rprop's derivative, which is zero: the tests check both.
            warnings.filterwarnings("ignore", "Differentiable R", UserWarning)
            return higher_optim.get_diff_optim(self._class(template, **self.options), template)

    def step(self, j: int, fast: Params, gradient: Params, state: Any) -> tuple[Params, Any]:
        override = {"lr": [self.rates("all", j)]} if self.learn != "none" else None
        # higher takes a loss and differentiates it; the callback puts our own gradient in its place.
        unused = torch.zeros((), requires_grad=True)
        moved = state.step(
            unused, params=fast.values(), override=override, grad_callback=lambda _: list(gradient.values())
        )
        return dict(zip(fast, moved, strict=True)), state
