"""Betty 0.1.1, the version that pip finds for Python 3.11 and later; 0.2.1 asks for an older Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peer_claims.claim import Figures, Peer

BETTY = Peer("betty-ml", "0.1.1", "betty", "pip install betty-ml==0.1.1")


class _Offset(nn.Module):
    """One number."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([at]))

    def forward(self) -> Tensor:
        return self.at


def _lower(lr: float, iterations: int, **engine: Any) -> tuple[float, float]:
    """The lower weight before and after: its loss is (w - u)^2, and the upper one's w^2."""
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    class Lower(ImplicitProblem):  # type: ignore[misc]  # betty has no types
        def training_step(self, batch: Any) -> Tensor:
            return (self.module() - self.upper()).square().sum()

    class Upper(ImplicitProblem):  # type: ignore[misc]  # as above
        def training_step(self, batch: Any) -> Tensor:
            return self.lower().square().sum()

    def problem(kind: Any, name: str, at: float, lr: float) -> Any:
        module = _Offset(at)
        data = [(torch.zeros(1),)]
        return kind(
            name=name,
            config=Config(type="darts", unroll_steps=1),
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=lr),
            train_data_loader=data,
        )

    lower, upper = problem(Lower, "lower", 1.0, lr), problem(Upper, "upper", 3.0, 0.0)
    before = float(lower.module.at.detach())
    made = Engine(
        problems=[lower, upper],
        config=EngineConfig(train_iters=iterations, valid_step=10**6, **engine),
        dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    made.run()
    return before, float(lower.module.at.detach())


@BETTY.claim(lambda f: f["lower weight after 50, of rate 0"] - f["before"] < -0.4)
def betty_lower_weights_move() -> Figures:
    """Each hypergradient of the default kind, "darts", leaves the lower weights moved by 0.01 of its direction.

    The lower problem has learning rate 0, so that its weight has to stay where it is.
    """
    before, after = _lower(0.0, 50)
    return {"before": before, "lower weight after 50, of rate 0": after}


@BETTY.claim(lambda f: abs(f["with roll_back"] - f["two steps"]) < 0.03 < f["with roll_back"] - f["one step"])
def betty_roll_back() -> Figures:
    """``roll_back=True`` puts nothing back: the states that it keeps are the weights themselves.

    The lower weight after one iteration with rate 0.1, where the step is to be done again from before it.
    """
    before, after = _lower(0.1, 1, roll_back=True)
    steps = [before]
    for _ in range(2):
        steps.append(steps[-1] - 0.2 * (steps[-1] - 3.0))
    return {"with roll_back": after, "one step": steps[1], "two steps": steps[2]}
