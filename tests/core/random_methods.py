"""Methods drawn by number: outer gradient, wrapper, outer loss, context and rows per step, over a random model."""

from __future__ import annotations

import dataclasses
import random
from collections import OrderedDict
from collections.abc import Callable

import torch
from model_parts import W
from random_models import SAMPLES, SMOOTHING, TASKS, Case, Composed, case
from torch import Tensor, nn

from cases import INNER, LOSSES, OUTER, SOLVERS, WRAPPERS
from litmaml.inner import InnerOptimizer
from litmaml.outer import FiniteDifference, Implicit, MeanLoss, OuterGradient, OuterLoss, WorstCaseLoss

EPOCH = 1
# With iterations enough for some hundred weights.
_MADE: dict[str, Callable[[], OuterGradient]] = {
    "Implicit": lambda: Implicit(80),
    "Implicit by differences": lambda: Implicit(30, FiniteDifference()),
    "Reptile": SOLVERS["Reptile"].make,
    "EvolutionStrategies": SOLVERS["EvolutionStrategies"].make,
}
FOREIGN = [*_MADE]
"""Outer gradients that do not follow the path."""
LEARNING = {name for name, row in INNER.items() if getattr(row.make(), "learn", "none") != "none"}
"""Inner optimizers whose rates are learnt."""
OWN, WORST = "MeanLoss of its own for the query", "WorstCaseLoss"


class Bent(nn.Module):
    """Another loss of the same predictions and targets."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = self.loss(predictions, targets)
        return value + 0.1 * value**2


class Contextual(nn.Module):
    """Features, shifted and scaled by what a linear layer makes of a context, which is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("context", 0.1 * torch.randn(3))
        self.shift, self.scale = nn.Linear(3, W), nn.Linear(3, W, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        last = x.dim() == 2 or (x.dim() == 3 and x.shape[-1] == W and x.shape[1] != W)
        x = x if last else x.movedim(1, -1)
        x = x * (1 + self.scale(self.context)) + self.shift(self.context)
        return x if last else x.movedim(-1, 1)


@dataclasses.dataclass
class MethodCase(Case):
    """A case under a method.

    context: The model reads a context, which is adapted beside what else is, or alone. rows: The part of the weights
    that have a row for each step.
    """

    wrapper: str = "none"
    outer_loss: str = "MeanLoss"
    context: bool = False
    alone: bool = False
    rows: float = 0.0

    def method(self) -> OuterGradient:
        return _MADE[self.outer]() if self.outer in _MADE else OUTER[self.outer].make(SAMPLES, SMOOTHING)

    def optimizer(self) -> InnerOptimizer:
        return WRAPPERS[self.wrapper].make(INNER[self.inner].make())

    def minimised(self) -> OuterLoss:
        if self.outer_loss == OWN:
            return MeanLoss(Bent(self.loss()))
        if self.outer_loss == WORST:
            worst, generator = WorstCaseLoss(TASKS + 1, 0.1), torch.Generator().manual_seed(self.number)
            worst.p.copy_(torch.rand(TASKS + 1, generator=generator))
            worst.p.div_(worst.p.sum())
            return worst
        return LOSSES[self.outer_loss]()

    def per_step(self, model: nn.Module) -> list[str]:
        """The names of the weights that have rows."""
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        some = random.Random(-self.number).sample(names, max(0, min(len(names) - 1, round(self.rows * len(names)))))
        return [name for name in names if name in some]

    def fast(self, model: nn.Module) -> list[str]:
        rows = self.per_step(model) if self.rows else []
        contexts = [name for name, _ in model.named_buffers() if name.endswith("contextual.context")]
        if self.alone and contexts:
            return contexts
        return [name for name in super().fast(model) if name not in rows] + contexts

    def refusal(self, model: nn.Module) -> str:
        """Why the method has to be refused, or nothing."""
        learns = self.inner in LEARNING or WRAPPERS[self.wrapper].learns
        tasks, weights = self.tasks(), dict(model.named_parameters())
        fast = [name for name in self.fast(model) if name in weights]
        real = self.inner in LEARNING or WRAPPERS[self.wrapper].curvature or self.outer.startswith("Implicit")
        if real and any(weights[name].is_complex() for name in fast):
            return "complex weights"
        if self.outer in FOREIGN and self.outer_loss == "MultiStepLoss" and self.outer != "EvolutionStrategies":
            return "a loss along the path"
        if self.outer in FOREIGN and self.rows and self.per_step(model):
            return "rows per step"
        if self.outer.startswith("Implicit"):
            decays = "decay" in self.inner or self.inner.startswith("AdamW")
            if not self.wrapper.startswith("Proximal") or WRAPPERS[self.wrapper].curvature or self.inner in LEARNING:
                return "no minimiser"
            if decays or len(tasks.support) > 1 or tasks.hessian is not None:
                return "another minimiser"
        if self.outer == "Reptile":
            slow = [name for name, weight in weights.items() if weight.requires_grad and name not in fast]
            if slow or learns or tasks.hessian is not None or self.outer_loss == OWN:
                return "nothing that moves it"
        if self.outer == "EvolutionStrategies" and learns:
            return "nothing that moves it"
        return ""

    def __str__(self) -> str:
        more = f"{self.wrapper}, {self.outer_loss}" + ", context" * self.context + " alone" * self.alone
        return f"{super().__str__()}; {more}{', rows' if self.rows else ''}"


def method_case(number: int) -> MethodCase:
    """The case of this number under the method of this number; most are what the method allows."""
    base, draw = case(number), random.Random(f"method {number}")
    outer, rows = draw.choice([*FOREIGN, *FOREIGN, *OUTER]), draw.choice([0.0, 0.0, 0.3])
    if base.feature == "Embedding, scaled by frequency":  # of which torch has J v where it should have J' v
        outer = "FirstOrder"
    part, tasks = base.part, base.tasks
    inners, wrappers, losses = [*INNER], [*WRAPPERS], [*LOSSES]
    if outer in FOREIGN and draw.random() < 0.85:
        inners = [name for name in inners if name not in LEARNING]
        wrappers = [name for name in wrappers if not WRAPPERS[name].learns]
        rows, tasks = 0.0, lambda: base.tasks()._replace(hessian=None)
        if outer == "Reptile":
            part, losses = None, ["MeanLoss", WORST]
        if outer.startswith("Implicit"):
            inners = [name for name in inners if "decay" not in name and not name.startswith("AdamW")]
            wrappers, losses = ["Proximal", "Proximal, learnt"], ["MeanLoss", OWN, WORST]
            tasks = lambda: base.tasks()._replace(support=base.tasks().support[:1], hessian=None)  # noqa: E731
    context, alone = draw.random() < 0.3, draw.random() < 0.5 and outer != "Reptile"

    def make(plain: bool = False) -> nn.Module:
        model = base.make(plain)
        composed = next((module for module in model.modules() if isinstance(module, Composed)), None)
        if context and composed is not None:
            torch.manual_seed(number)
            composed.stem = nn.Sequential(OrderedDict(stem=composed.stem, contextual=Contextual()))
        return model

    same = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    drawn = {"outer": outer, "inner": draw.choice(inners), "wrapper": draw.choice(wrappers), "rows": rows, "part": part}
    drawn |= {"outer_loss": draw.choice(losses), "context": context, "alone": alone, "make": make, "tasks": tasks}
    return MethodCase(**{**same, **drawn, "chunk": 1 if base.random else base.chunk})
