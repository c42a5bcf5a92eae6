"""Models of many kinds with tasks for them, as a user has them in one file beside the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.data import Episode, TaskDistribution
from litmaml.randomness import task_streams
from litmaml.tasks import Batch, Split, Tasks, tree_map

WORDS, LENGTH, SIDE = 20, 6, 8


class UNet(nn.Module):
    """One step down and up again, with the way across."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.down, self.inside = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        across = torch.tanh(self.down(x))
        deep = torch.tanh(self.inside(nn.functional.avg_pool2d(across, 2)))
        found: Tensor = self.out(torch.cat([across, self.up(deep)], 1))
        return found


class Recurrent(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0][:, -1])
        return found


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(2, 6), nn.Linear(3, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.left(x) + self.right(context)))
        return found


class Graphs(nn.Module):
    def __init__(self, ways: int = 2) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(3, 6), nn.Linear(6, ways)

    def forward(self, nodes: Tensor, edges: Tensor, there: Tensor) -> Tensor:
        x = torch.tanh(edges @ self.enter(nodes) + self.enter(nodes)) * there[:, :, None]
        found: Tensor = self.head(x.sum(1) / there.sum(1, keepdim=True))
        return found


def bert(ways: int = 2) -> nn.Module:
    """A BERT of two layers with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, num_labels=ways, **sizes)
    return BertForSequenceClassification(config)


class Drawn(TaskDistribution):
    """Tasks of one of the kinds: each has other words, slopes or colours.

    Args:
        kind: pictures, texts, sequences, pairs or graphs.
    """

    def __init__(self, kind: str = "pictures") -> None:
        super().__init__(Episode(shots=4, queries=4))
        self.kind = kind

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        tasks = []
        for stream in task_streams(seed, split, numbers):
            generator = torch.Generator().manual_seed(int(stream.integers(2**31)))
            tasks.append(
                [self._examples(generator, own) for own in [torch.randn(3, generator=generator)] for _ in "sq"]
            )
        support, query = (
            Batch(*(tree_map(lambda *parts: torch.stack(parts), *(task[k][j] for task in tasks)) for j in range(2)))
            for k in range(2)
        )
        return Tasks((support,), query, torch.tensor(list(numbers)))

    def _examples(self, generator: torch.Generator, own: Tensor) -> tuple[Any, Tensor]:
        n = 8
        labels = torch.arange(n) % 2
        x = torch.randn(n, LENGTH, 3, generator=generator)
        if self.kind == "texts":
            ids = torch.randint(2, WORDS, (n, LENGTH), generator=generator)
            ids[:, 0] = torch.tensor([2, 3])[labels ^ int(own[0] > 0)]
            until = torch.randint(2, LENGTH + 1, (n, 1), generator=generator)
            return {"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < until).long()}, labels
        if self.kind == "graphs":
            there = (torch.arange(LENGTH) < torch.randint(2, LENGTH, (n, 1), generator=generator)).float()
            nodes = x + labels[:, None, None] * own
            return {"nodes": nodes, "edges": torch.eye(LENGTH).roll(1, 0).expand(n, -1, -1), "there": there}, labels
        if self.kind == "sequences":
            return x[..., :2], (own[:2] * x[:, :, :2].mean(1)).sum(1, keepdim=True)
        if self.kind == "pairs":
            return (x[:, 0, :2], x[:, 1]), own[:1] * x[:, 0, :1] + x[:, 1, :1]
        pictures = torch.randn(n, 3, SIDE, SIDE, generator=generator)
        return pictures, ((pictures * own[:, None, None]).sum(1) > 0).long()

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {"tasks": self.kind, "split": split}
