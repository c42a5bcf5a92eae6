"""An outer optimizer that learns its own rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor


@final
class HypergradientSGD(torch.optim.Optimizer):
    """Gradient descent whose rate beta descends, too, as in Alpha-MAML (Behl, Baydin and Torr 2019, arXiv 1905.07435):

        beta <- beta + kappa <G_{k+1}, G_k>,   w <- w - beta G_{k+1}

    since the outer loss after step k changes with its rate by ``-<G_{k+1}, G_k>``. A second form is free of scale,
    beta <- beta (1 + kappa cos(G_{k+1}, G_k)). beta does not fall below 0. Inner rates are learnt by the inner
    optimizer, ``SGD(learn=one)``, with ``rates_lr``.

    Args:
        params: The weights, or groups of them, each of which has a rate of its own.
        lr: Where beta starts.
        hyper_lr: kappa.
        multiplicative: Take the second form.

    Raises:
        ValueError: A rate is out of its range.

    Example:
        Twice the gradient 1 from w = 0, by 0.1 and by 0.1 + 0.05:

        >>> w = torch.zeros(1, requires_grad=True)
        >>> optimizer = HypergradientSGD([w], lr=0.1, hyper_lr=0.05)
        >>> for _ in range(2):
        ...     w.grad = torch.ones(1)
        ...     optimizer.step()
        >>> round(w.item(), 6)
        -0.25
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        hyper_lr: float = 1e-4,
        multiplicative: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("hyper_lr", hyper_lr)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: has to be at least 0, got {value}")
        super().__init__(params, {"lr": lr, "hyper_lr": hyper_lr, "multiplicative": multiplicative})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; a weight without a gradient stays."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            before = [(w.grad, self.state[w]["before"]) for w in weights if "before" in self.state[w]]
            if before:
                along = sum(float((now * then).sum()) for now, then in before)
                if group["multiplicative"]:
                    lengths = [sum(float(pair[k].square().sum()) for pair in before) ** 0.5 for k in (0, 1)]
                    along = group["lr"] * along / max(lengths[0] * lengths[1], 1e-300)
                group["lr"] = max(group["lr"] + group["hyper_lr"] * along, 0.0)
            for weight in weights:
                weight.sub_(group["lr"] * weight.grad)
                self.state[weight]["before"] = weight.grad.clone()
        return loss
