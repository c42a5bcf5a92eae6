"""What stands at the ends of models and is hard to adapt rightly: inputs, embeddings, outputs, losses and targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from model_parts import EMBEDDING, WORDS, Apply, W, weight
from torch import Tensor, nn
from trouble import Must, Trouble
from written_parts import Result

from litmaml.problems import HalfSquaredLoss, LogCoshLoss


def changed(function: Callable[[Tensor], object], must: Must = "either") -> Trouble:
    """The input changed in place before it is used."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        function(x)
        return x

    return Trouble(lambda: Apply(forward), must)


INPUTS: dict[str, Trouble] = {
    "input changed: mul_": changed(lambda x: x.mul_(0.5)),
    "input changed: one column": changed(lambda x: x[:, 0].fill_(0.3)),
    "input changed: ReLU in place": Trouble(lambda: nn.ReLU(inplace=True)),
    "input changed: normalised": changed(lambda x: x.sub_(x.mean()).div_(x.std() + 1)),
    "input to float32 and back": Trouble(lambda: Apply(lambda m, x: x.float().double())),
    "input of batch size told": Trouble(lambda: Apply(lambda m, x: x * len(x) / x.shape[0])),
    "input's mean over the batch": Trouble(lambda: Apply(lambda m, x: x - x.mean(0)), "equal"),
    "input by numpy": Trouble(lambda: Apply(lambda m, x: torch.from_numpy(x.numpy() * 2))),
    "input as a list": Trouble(lambda: Apply(lambda m, x: torch.tensor(x.tolist()))),
}

EMBEDDINGS: dict[str, Trouble] = {
    **{name: Trouble(make, "equal" if name == "Embedding" else "either") for name, make in EMBEDDING.items()},
    "Embedding with max_norm": Trouble(lambda: nn.Embedding(WORDS, W, max_norm=0.5)),
    "Embedding, sparse": Trouble(lambda: nn.Embedding(WORDS, W, sparse=True)),
    "Embedding, scaled by frequency": Trouble(lambda: nn.Embedding(WORDS, W, scale_grad_by_freq=True)),
    "Embedding, frozen": Trouble(lambda: nn.Embedding.from_pretrained(torch.randn(WORDS, W))),
}


class TiedLanguageModel(nn.Module):
    """Of words to words, by one matrix."""

    def __init__(self, as_module: bool) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(WORDS, W), nn.Sequential(nn.Linear(W, W), nn.Tanh())
        if as_module:
            self.head = nn.Linear(W, WORDS)
            self.head.weight = self.embed.weight
        self.as_module = as_module

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(self.embed(x)).mean(1)
        return self.head(hidden) if self.as_module else hidden @ self.embed.weight.T


WHOLE: dict[str, Trouble] = {
    "tied embedding": Trouble(lambda: TiedLanguageModel(False), "equal"),
    "tied embedding, as a layer": Trouble(lambda: TiedLanguageModel(True), "equal"),
    "no parameters used": Trouble(lambda: Apply(lambda m, x: F.one_hot(x[:, 0], WORDS).double(), unused=weight(2))),
    "lazy layer": Trouble(lambda: nn.Sequential(nn.Embedding(WORDS, W), nn.Flatten(), nn.LazyLinear(WORDS)), "refused"),
    "frozen model": Trouble(lambda: TiedLanguageModel(False).requires_grad_(False), "refused"),
}


def output(function: Callable[[Tensor], object], must: Must = "refused", single: bool = False) -> Trouble:
    return Trouble(lambda: Apply(lambda m, x: function(x)), must, single=single)  # type: ignore[arg-type, return-value]


OUTPUTS: dict[str, Trouble] = {
    "output: a tuple": output(lambda y: (y, y)),
    "output: a list": output(lambda y: [y, y]),
    "output: a dict": output(lambda y: {"logits": y}),
    "output: a dataclass": output(Result),
    "output: None": output(lambda y: None),
    "output: one of many": output(lambda y: y.mean(0, keepdim=True)),
    "output: a number": output(lambda y: y.mean()),
    "output: detached": output(lambda y: y.detach()),
    "output: float32": output(lambda y: y.float(), "either", single=True),
    "output: complex": output(lambda y: torch.complex(y, y), "either"),
    "output: transposed strides": output(lambda y: y.T.contiguous().T, "equal"),
    "output: the input's dtype": output(lambda y: y.to(torch.float64), "equal"),
}


class Problem(NamedTuple):
    """A loss, how many outputs it needs, what is put after the model, and targets for n examples."""

    loss: Callable[[], nn.Module]
    outputs: int
    targets: Callable[[int], Tensor]
    must: Must = "equal"
    after: Callable[[], nn.Module] | None = None


def labels(n: int) -> Tensor:
    return torch.randint(3, (n,))


def values(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape)


def places(n: int) -> Tensor:
    """A class for each of two places, the first void in one example."""
    targets = torch.randint(3, (n, 2))
    targets[0, 0] = 255
    return targets


def void(n: int) -> Tensor:
    return torch.cat([torch.tensor([-100]), torch.randint(3, (n - 1,))])


PROBLEMS: dict[str, Problem] = {
    "MSELoss": Problem(nn.MSELoss, 2, values(2)),
    "MSELoss of one output": Problem(nn.MSELoss, 1, values(1)),
    "MSELoss, summed": Problem(lambda: nn.MSELoss(reduction="sum"), 1, values(1)),
    "MSELoss of flat outputs": Problem(nn.MSELoss, 1, values(), after=lambda: nn.Flatten(0)),
    "L1Loss": Problem(nn.L1Loss, 2, values(2)),
    "SmoothL1Loss": Problem(nn.SmoothL1Loss, 2, values(2)),
    "HuberLoss": Problem(nn.HuberLoss, 2, values(2)),
    "HalfSquaredLoss": Problem(HalfSquaredLoss, 2, values(2)),
    "LogCoshLoss": Problem(LogCoshLoss, 2, values(2)),
    "PoissonNLLLoss": Problem(nn.PoissonNLLLoss, 1, lambda n: torch.randint(4, (n, 1)).double()),
    "BCEWithLogitsLoss": Problem(nn.BCEWithLogitsLoss, 2, lambda n: torch.randint(2, (n, 2)).double()),
    "CrossEntropyLoss": Problem(nn.CrossEntropyLoss, 3, labels),
    "CrossEntropyLoss, smoothed": Problem(lambda: nn.CrossEntropyLoss(label_smoothing=0.1), 3, labels),
    "CrossEntropyLoss, weighted": Problem(lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), 3, labels),
    "CrossEntropyLoss, void labels": Problem(nn.CrossEntropyLoss, 3, void),
    "CrossEntropyLoss, soft labels": Problem(nn.CrossEntropyLoss, 3, lambda n: torch.rand(n, 3).softmax(1)),
    "CrossEntropyLoss of places": Problem(
        nn.CrossEntropyLoss, 6, lambda n: torch.randint(3, (n, 2)), after=lambda: nn.Unflatten(1, (3, 2))
    ),
    "CrossEntropyLoss of places, some void": Problem(
        lambda: nn.CrossEntropyLoss(ignore_index=255), 6, places, after=lambda: nn.Unflatten(1, (3, 2))
    ),
    "NLLLoss": Problem(nn.NLLLoss, 3, labels, after=lambda: nn.LogSoftmax(1)),
    "MSELoss of (n, 1) to (n,)": Problem(nn.MSELoss, 1, values(), "refused"),
    "MSELoss of (n, 2) to (n, 1)": Problem(nn.MSELoss, 2, values(1), "refused"),
    "MSELoss of (n,) to (n, 1)": Problem(nn.MSELoss, 1, values(1), "refused", lambda: nn.Flatten(0)),
    "MSELoss of (n, 1) to (n, 1, 1)": Problem(nn.MSELoss, 1, values(1, 1), "refused"),
    "MSELoss of whole numbers": Problem(nn.MSELoss, 1, lambda n: torch.randint(3, (n, 1)), "either"),
    "MSELoss, not reduced": Problem(lambda: nn.MSELoss(reduction="none"), 1, values(1), "refused"),
    "CrossEntropyLoss, not reduced": Problem(lambda: nn.CrossEntropyLoss(reduction="none"), 3, labels, "refused"),
    "CrossEntropyLoss of float labels": Problem(nn.CrossEntropyLoss, 3, lambda n: labels(n).double(), "refused"),
    "CrossEntropyLoss of a class too many": Problem(nn.CrossEntropyLoss, 2, lambda n: torch.arange(n) % 3, "refused"),
    "CrossEntropyLoss of labels (n, 1)": Problem(nn.CrossEntropyLoss, 3, lambda n: labels(n)[:, None], "refused"),
    "BCEWithLogitsLoss of (n, 1) to (n,)": Problem(
        nn.BCEWithLogitsLoss, 1, lambda n: torch.randint(2, (n,)).double(), "refused"
    ),
    "L1Loss of (n, 1) to (n,)": Problem(nn.L1Loss, 1, values(), "refused"),
}
