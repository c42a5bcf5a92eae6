"""Small problems whose outer gradient is compared: on other devices, in other precisions, computed in other ways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.inner import SGD, InnerOptimizer
from litmaml.inner.channels_last import to_channels_last
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    OuterGradient,
    OuterLoss,
    SecondOrder,
    ZerothOrder,
    estimators,
)
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.randomness import normal_directions
from litmaml.tasks import Batch, Tasks, select, stacks_of
from litmaml.weights import Params

METHODS: dict[str, Callable[[], OuterGradient]] = {
    "SecondOrder": SecondOrder,
    "SecondOrder, recompute": lambda: SecondOrder(recompute=True),
    "FirstOrder": FirstOrder,
    "FiniteDifference": FiniteDifference,
    "GaussianSmoothing": lambda: GaussianSmoothing(samples=2),
    "ZerothOrder": lambda: ZerothOrder(samples=2),
}
NORMS = ("batch", "group", "instance", "layer", "none")


class ViT(nn.Module):
    """A small vision transformer: patches, two encoder layers with layer norm and GELU, the mean, a linear head."""

    def __init__(self, ways: int = 5, width: int = 64, patch: int = 7, size: int = 28) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))
        self.body = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(2)
            )
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, ways)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.body(tokens)).mean(1))
        return logits


@dataclass(frozen=True)
class Problem:
    """A model, its loss, the inner rate, N inner steps, and stacked tasks.

    optimizer: Of the rate, the inner optimizer. options: Of ``InnerLoop``, beside.
    """

    model: nn.Module
    tasks: Tasks
    rate: float = 0.1
    steps: int = 2
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)
    optimizer: Callable[[float], InnerOptimizer] = SGD
    options: Mapping[str, Any] = field(default_factory=dict)

    def loop(self) -> InnerLoop:
        """The inner loop, which tasks are adapted by."""
        options: dict[str, Any] = {"fast_weights": ["*"], "steps": self.steps, **self.options}
        return InnerLoop(self.model, self.loss, self.optimizer(self.rate), **options)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Problem:
        """The same problem elsewhere, or in another precision."""
        tasks = Tasks(
            tuple(_moved(batch, device, dtype) for batch in self.tasks.support),
            _moved(self.tasks.query, device, dtype),
            self.tasks.numbers.to(device),
        )
        return replace(self, model=copy.deepcopy(self.model).to(device, dtype), tasks=tasks)


def _moved(batch: Batch, device: torch.device | str, dtype: torch.dtype) -> Batch:
    targets = batch.targets.to(device, dtype if batch.targets.is_floating_point() else None)
    return Batch(batch.inputs.to(device, dtype), targets)


def images(norm: str, small: bool = False, queries: int = 2, **more: Any) -> Problem:
    """Few-shot classification of noise by Conv4, or where the norm is that of layers by a transformer, in float64.

    ``more``: Of ``Problem``.
    """
    torch.manual_seed(0)
    filters, tasks = (4, 3) if small else (32, 8)
    model = ViT(width=16 if small else 64) if norm == "layer" else Conv4(filters=filters, norm=norm)  # type: ignore[arg-type]  # checked by Conv4

    def batch(each: int) -> Batch:
        labels = torch.arange(5).repeat(each).expand(tasks, -1)
        return Batch(torch.rand(tasks, 5 * each, 1, 28, 28, dtype=torch.float64), labels)

    return Problem(model.double(), Tasks((batch(1),), batch(queries), torch.arange(tasks)), **more)


@contextmanager
def directions_in_double() -> Iterator[None]:
    """Random directions that are the same in every precision: those of float64."""

    def draw(like: Params, *arguments: Any) -> tuple[Params, ...]:
        drawn = normal_directions({name: weight.double() for name, weight in like.items()}, *arguments)
        return tuple({name: part.to(like[name]) for name, part in step.items()} for step in drawn)

    names = vars(estimators)
    own, names["normal_directions"] = names["normal_directions"], draw
    try:
        yield
    finally:
        names["normal_directions"] = own


def gradient(problem: Problem, method: OuterGradient, autocast: torch.dtype | None = None, **options: Any) -> Params:
    """The outer gradient of the problem's tasks, as float64 on the CPU.

    Args:
        problem: On its device, in its precision.
        method: The outer gradient.
        autocast: Compute under it, as Lightning's mixed precision does.
        options: Of ``MetaGradientOf``; and ``channels_last``.
    """
    if options.pop("channels_last", False):
        to_channels_last(problem.model)
    loop = problem.loop()
    device = problem.tasks.numbers.device.type
    mixed = nullcontext() if autocast is None else torch.autocast(device, autocast, cache_enabled=False)
    with directions_in_double(), mixed:
        found = MetaGradientOf(loop, method, problem.steps, **options)(_stack(loop, problem.tasks))
    if not bool(found.finite.all()):
        raise FloatingPointError(f"{int((~found.finite).sum())} of {problem.tasks.size} tasks are not finite")
    return {name: part.double().cpu() for name, part in found.gradients.items()}


def _stack(loop: InnerLoop, tasks: Tasks) -> Tasks:
    """The tasks, which have as many classes, with what their heads start from."""
    (stack,) = stacks_of(loop.by_classes(tasks))
    return stack


def reference(problem: Problem, method: OuterGradient, outer_loss: OuterLoss | None = None) -> Params:
    """The same on the CPU in float64, a task at a time."""
    problem = problem.to("cpu", torch.float64)
    loop = problem.loop()
    total: Params = {}
    with directions_in_double():
        for k in range(problem.tasks.size):
            task = _stack(loop, select(problem.tasks, [k]))
            one = MetaGradientOf(loop, method, problem.steps, outer_loss=outer_loss)(task).gradients
            total = {name: total.get(name, 0.0) + part / problem.tasks.size for name, part in one.items()}
    return total


def error(found: Params, true: Params) -> float:
    """|found - true| / |true|, of all weights together."""
    difference = torch.cat([(found[name] - part).flatten() for name, part in true.items()])
    size = torch.cat([part.flatten() for part in true.values()])
    return float(difference.norm() / size.norm())
