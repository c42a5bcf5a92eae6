"""Embeddings with a row for padding, which gets no gradient."""

from __future__ import annotations

import pytest
import torch
from oracles import relative
from torch import Tensor, nn

from cases import UNPROBED, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

WORDS, PADDING = 6, 2


class Texts(nn.Module):
    def __init__(self, padding: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 4, padding_idx=padding), nn.Linear(4, 3)
        nn.init.normal_(self.words.weight)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.words(x)).mean(1))
        return logits


class ByProducts(Texts):
    """The same, with the row of padding taken as a constant by hand."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.words.weight
        row = (torch.arange(WORDS) == PADDING)[:, None]
        one_hot = nn.functional.one_hot(x, WORDS).to(weight)
        logits: Tensor = self.head(torch.tanh(one_hot @ torch.where(row, weight.detach(), weight)).mean(1))
        return logits


@pytest.mark.parametrize("padding", [PADDING, PADDING - WORDS])
@pytest.mark.parametrize("outer_gradient", made(UNPROBED))
@pytest.mark.parametrize("chunk", [1, None])
def test_the_row_of_padding_stays(padding: int, outer_gradient: OuterGradient, chunk: int | None) -> None:
    model, by_hand = Texts(padding), ByProducts(padding)
    by_hand.load_state_dict(model.state_dict())
    words = torch.randint(WORDS, (3, 9, 5))
    assert bool((words == PADDING).any())
    batch = Batch(words, torch.randint(3, (3, 9)))
    tasks = Tasks((batch,), batch, torch.arange(3))
    found, true = (
        MetaGradientOf(InnerLoop(m, nn.CrossEntropyLoss(), SGD(0.5), ["*"], 2), outer_gradient, 2, c)(tasks).gradients
        for m, c in ((model, chunk), (by_hand, 1))
    )
    assert relative(found, true) < 1e-12
    assert float(found["model.words.weight"][PADDING].abs().max()) == 0
    *_, fast = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.5), ["*"], 2).path(tasks, 2)
    assert torch.equal(fast["words.weight"][:, PADDING], model.words.weight[PADDING].expand(3, -1))
