"""What is computed: a model, its loss and inner rate, and a stack of tasks, all from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litmaml.engine.float32 import set_float32_precision
from litmaml.models import MLP, Conv4
from litmaml.tasks import Batch, Tasks


@dataclass(frozen=True)
class Workload:
    """Name, model, and the sizes of one outer gradient.

    Args:
        model: Which of MODELS.
        steps: N, inner steps.
        tasks: T, tasks of one outer gradient.
        shots: Support examples a class (or of the curve).
        queries: Query examples a class (or of the curve).
    """

    name: str
    model: str
    steps: int
    tasks: int
    shots: int
    queries: int


@dataclass(frozen=True)
class Problem:
    """A workload made: what every contender gets."""

    model: nn.Module
    loss: nn.Module
    lr: float
    steps: int
    tasks: Tasks


WORKLOADS = [
    Workload("sinusoid-1", "mlp", steps=1, tasks=25, shots=10, queries=10),
    Workload("sinusoid-5", "mlp", steps=5, tasks=25, shots=10, queries=10),
    Workload("omniglot-1", "conv4", steps=1, tasks=16, shots=1, queries=15),
    Workload("omniglot-5", "conv4", steps=5, tasks=16, shots=1, queries=5),
    Workload("mini-imagenet-5", "conv4-84", steps=5, tasks=4, shots=1, queries=5),
    Workload("transformer-5", "vit", steps=5, tasks=8, shots=1, queries=5),
]

WAYS = 5


class VisionTransformer(nn.Module):
    """Images 28 x 28 in 16 patches, two pre-norm blocks of width 64 and four heads, the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, kernel_size=7, stride=7)
        self.position = nn.Parameter(0.02 * torch.randn(16, 64))
        block = nn.TransformerEncoderLayer(
            64, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, WAYS)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.blocks(tokens).mean(1))
        return logits


@dataclass(frozen=True)
class _Kind:
    make: Callable[[], nn.Module]
    lr: float
    image: tuple[int, int, int] | None  # None: curves


MODELS = {
    "mlp": _Kind(lambda: MLP(hidden=[40, 40], activation="tanh", init="fan_in"), 0.01, None),
    "conv4": _Kind(lambda: Conv4(WAYS, filters=64), 0.1, (1, 28, 28)),
    "conv4-84": _Kind(lambda: Conv4(WAYS, filters=32, channels=3, size=84), 0.01, (3, 84, 84)),
    "vit": _Kind(VisionTransformer, 0.05, (1, 28, 28)),
}


def make(workload: Workload, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Problem:
    """The problem of a workload; the same numbers whatever the device and, up to rounding, the precision."""
    kind = MODELS[workload.model]
    set_float32_precision("highest")  # torch itself lets the convolutions of every contender round
    torch.manual_seed(0)
    model = kind.make().to(device=device, dtype=dtype)
    support, query = (
        _curves(workload, n) if kind.image is None else _images(workload, kind.image, n)
        for n in (workload.shots, workload.queries)
    )
    tasks = Tasks(
        support=(_cast(support, device, dtype),),
        query=_cast(query, device, dtype),
        numbers=torch.arange(workload.tasks),
    )
    loss = nn.MSELoss() if kind.image is None else nn.CrossEntropyLoss()
    return Problem(model, loss, kind.lr, workload.steps, tasks)


def _curves(workload: Workload, points: int) -> Batch:
    amplitude = 0.1 + 4.9 * torch.rand(workload.tasks, 1, 1, dtype=torch.float64)
    x = 10 * torch.rand(workload.tasks, points, 1, dtype=torch.float64) - 5
    return Batch(x, amplitude * torch.sin(x))


def _images(workload: Workload, image: tuple[int, int, int], each: int) -> Batch:
    targets = torch.arange(WAYS).repeat_interleave(each).expand(workload.tasks, -1).contiguous()
    return Batch(torch.rand(workload.tasks, WAYS * each, *image, dtype=torch.float64), targets)


def _cast(batch: Batch, device: str, dtype: torch.dtype) -> Batch:
    targets = batch.targets if batch.targets.dtype == torch.int64 else batch.targets.to(dtype)
    return Batch(batch.inputs.to(device, dtype), targets.to(device))
