"""Linear maps of sequences by one product per task: the numbers and gradients of torch's own."""

from __future__ import annotations

import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from litmaml.engine import linear as module
from litmaml.inner import SGD
from litmaml.inner.derivatives import Derivatives
from litmaml.inner.loop import InnerLoop
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks


class Attending(nn.Module):
    """Attention over tokens, in torch's order of dimensions or with the examples first; keys of their own size."""

    def __init__(self, batch_first: bool, bias: bool, sizes: int | None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, bias=bias, batch_first=batch_first, kdim=sizes, vdim=sizes)
        self.keys = nn.Identity() if sizes is None else nn.Linear(4, sizes)
        self.batch_first, self.head = batch_first, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x if self.batch_first else x.transpose(0, 1)
        keys = self.keys(tokens)
        found, _ = self.attention(tokens, keys, keys)
        logits: Tensor = self.head(found.mean(1 if self.batch_first else 0))
        return logits


class Fields(nn.Module):
    """Rows of rows: maps without bias of what has four dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(2, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.first(x.unflatten(-1, (2, 2)))).tanh().mean((1, 2)))
        return logits


class Patches(nn.Module):
    """A convolution that cuts what is left of images into patches, as a vision transformer's first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(1, 4, (3, 2), stride=(3, 2)), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.patches(x.unsqueeze(1)).flatten(2).transpose(1, 2)).mean(1))
        return logits


def encoder() -> nn.Module:
    """Two layers as they are used, and a head on the mean token."""
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(layers, nn.Flatten(), nn.Linear(5 * 4, 3))


@pytest.mark.parametrize("shared", [False, True], ids=["own inputs", "shared inputs"])
@pytest.mark.parametrize(
    "model",
    [
        encoder(),
        Attending(True, True, None),
        Attending(False, False, None),
        Attending(False, True, 3),
        Fields(),
        Patches(),
    ],
    ids=["encoder", "examples first", "tokens first", "keys of their own", "fields", "patches"],
)
def test_tasks_at_once_are_as_one_by_one(model: nn.Module, shared: bool) -> None:
    torch.manual_seed(0)
    model = model.double()
    x = torch.randn(1 if shared else 3, 6, 5, 4, dtype=torch.float64).expand(3, -1, -1, -1)
    batch = Batch(x, torch.arange(3).repeat(2).expand(3, -1))
    tasks = Tasks((batch,), Batch(x.flip(1), batch.targets.flip(1)), torch.arange(3))
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.1), ["*"], 2)
    true = MetaGradientOf(loop, SecondOrder(), 2, tasks_per_chunk=1)(tasks)
    found = MetaGradientOf(loop, SecondOrder(), 2, tasks_per_chunk=3)(tasks)
    assert_close(found.gradients, true.gradients, rtol=1e-10, atol=1e-13)


def test_maps_that_are_called_in_other_ways() -> None:
    """By names; of no tokens; by a vector in the place of a matrix."""

    def each(x: Tensor, weight: Tensor) -> list[Tensor]:
        none = functional.linear(x[:, :0], weight)
        return [functional.linear(input=x, weight=weight), none, functional.linear(x, weight[0])]

    x, weight = torch.randn(3, 2, 5, 4), torch.randn(3, 6, 4)
    with Derivatives():
        found = vmap(each)(x, weight)
    assert [part.shape for part in found] == [(3, 2, 5, 6), (3, 2, 0, 6), (3, 2, 5)]
    for of_tasks, *of_each in zip(found, *map(each, x, weight), strict=True):
        torch.testing.assert_close(of_tasks, torch.stack(of_each))


def test_attention_leaves_torch_as_it_was() -> None:
    query = torch.randn(2, 1, 4)
    with pytest.raises(AssertionError, match="embedding dimension"):
        module.attention(
            query, query, query, 5, 1, None, None, None, None, False, 0.0, torch.ones(4, 4), None, training=False
        )
    assert functional.linear is module._linear


def test_somebody_elses_linear_map_is_called_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that quantise or count put a function of theirs in the place of torch's."""
    calls = []

    def theirs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        calls.append(x.shape)
        return module._linear(x, weight, bias)

    monkeypatch.setattr(functional, "linear", theirs)
    layer, x = nn.MultiheadAttention(4, 2), torch.randn(3, 2, 4)
    own, _ = layer(x, x, x)
    found, _ = module.attention(
        x, x, x, 4, 2, layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0, layer.out_proj.weight,
        layer.out_proj.bias,
    )  # fmt: skip
    assert_close(found, own)
    assert len(calls) == 4  # of inputs and outputs, in both
    assert functional.linear is theirs
