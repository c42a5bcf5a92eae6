"""Models whose inputs or outputs are several tensors, with examples that can be learnt, and tasks of the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from litmaml import MetaLearner
from litmaml.data import Episode, TaskDistribution
from litmaml.inner import SGD
from litmaml.randomness import task_streams
from litmaml.tasks import Batch, Split, Tasks, Tree

WORDS, LENGTH = 7, 5


@dataclass
class ModelOutput:
    """What a language model returns: the scores, and what they are made of."""

    logits: Tensor
    hidden: Tensor


class Reader(nn.Module):
    """A BERT in small: attention over the tokens of a text that are no padding."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes
        self.words, self.places = nn.Embedding(WORDS, 8), nn.Embedding(LENGTH, 8)
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.classifier = nn.Linear(8, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        x = self.words(input_ids) + self.places.weight
        x = self.norm(x + self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0])
        shares = attention_mask[:, :, None] / attention_mask.sum(1, keepdim=True)[:, :, None]
        pooled = (x * shares).sum(1)
        return ModelOutput(self.classifier(pooled), pooled)


class Pair(nn.Module):
    """A function of two inputs of other widths, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 8), nn.Linear(3, 8)
        self.norm, self.head = nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(torch.tanh(self.left(x) + self.right(context))))
        return out


class Graph(nn.Module):
    """Messages between the nodes of padded graphs, read off at the nodes that are there."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes
        self.enter, self.pass_on, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, classes)

    def forward(self, graph: dict[str, Any], there: Tensor) -> Tensor:
        x = torch.relu(self.enter(graph["nodes"]))
        x = torch.relu(self.pass_on(graph["edges"][0] @ x) + graph["edges"][1] @ x)
        out: Tensor = self.head((x * there[:, :, None]).sum(1) / there.sum(1, keepdim=True))
        return out


class Recurrent(nn.Module):
    """An LSTM, which returns its outputs with the state (h, c) that it ends in."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 1, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        found: tuple[Tensor, tuple[Tensor, Tensor]] = self.lstm(x)
        return found


class Weighed(nn.Module):
    """Squared error with a weight for each example."""

    def forward(self, predictions: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return (targets["weight"] * (predictions - targets["value"]).square()).mean()


def texts(n: int, classes: int = 2) -> tuple[dict[str, Tensor], Tensor]:
    """Texts whose class is the word that they begin with."""
    labels = torch.arange(n) % classes
    ids = torch.randint(classes, WORDS, (n, LENGTH))
    ids[:, 0] = labels
    # Not in the order of the parameters, nor of the alphabet.
    mask = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (n, 1))).long()
    return {"attention_mask": mask, "input_ids": ids}, labels


def pairs(n: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    x, context = torch.randn(n, 2), torch.randn(n, 3)
    return (x, context), x[:, :1] - context[:, 1:2]


def graphs(n: int, classes: int = 2) -> tuple[dict[str, Any], Tensor]:
    labels = torch.arange(n) % classes
    nodes = torch.randn(n, 4, 3)
    nodes[:, :, 0] = labels[:, None].float()
    edges = tuple((torch.rand(n, 4, 4) < 0.5).float() for _ in range(2))
    there = (torch.arange(4) < torch.randint(1, 5, (n, 1))).bool()
    return {"there": there, "graph": {"nodes": nodes, "edges": edges}}, labels


def sequences(n: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, LENGTH, 3)
    return x, torch.tanh(x.cumsum(1)[:, :, :1])


class Case(NamedTuple):
    """A learner, examples for it, and what ONNX calls its inputs."""

    learner: Callable[[], MetaLearner]
    examples: Callable[..., tuple[Tree, Tensor]]
    names: list[str]


CASES = {
    "texts": Case(lambda: MetaLearner(Reader(), SGD(lr=0.5), output="logits"), texts, ["attention_mask", "input_ids"]),
    "pair": Case(lambda: MetaLearner(Pair(), SGD(lr=0.1), loss=nn.MSELoss()), pairs, ["inputs.0", "inputs.1"]),
    "graph": Case(
        lambda: MetaLearner(Graph(), SGD(lr=0.5)), graphs, ["there", "graph.nodes", "graph.edges.0", "graph.edges.1"]
    ),
    "lstm": Case(
        lambda: MetaLearner(Recurrent(), SGD(lr=0.1), loss=nn.MSELoss(), output=0),
        sequences,
        ["inputs"],
    ),
}


class Texts(TaskDistribution):
    """Texts as above, of which each task has other words for its classes."""

    def __init__(self) -> None:
        super().__init__(Episode(shots=4, queries=4))

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        parts = []
        for stream in task_streams(seed, split, numbers):
            first = torch.from_numpy(stream.permutation(WORDS)[:2].copy())
            batches = []
            for n in (4, 4):
                labels = torch.arange(n) % 2
                ids = torch.from_numpy(stream.integers(0, WORDS, (n, LENGTH)))
                ids[:, 0] = first[labels]
                until = torch.from_numpy(stream.integers(2, LENGTH + 1, (n, 1)))
                batches.append(({"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < until).long()}, labels))
            parts.append(batches)
        support, query = (
            Batch({name: torch.stack([p[k][0][name] for p in parts]) for name in parts[0][k][0]}, _stacked(parts, k))
            for k in range(2)
        )
        return Tasks((support,), query, torch.tensor(list(numbers)))

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {"tasks": "Texts", "split": split, "ways": 2, "shots": 2}


def _stacked(parts: Sequence[Any], k: int) -> Tensor:
    return torch.stack([part[k][1] for part in parts])
