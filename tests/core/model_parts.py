"""The parts that random models are made of, one by one ordinary.

A part keeps the shape of what it is given: of vectors (n, W), sequences (n, t, W) or grids (n, W, ...) of one to three
dimensions. Stems make such features of a model's inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

W = 4
"""The number of features."""
WORDS = 6

Make = Callable[[], nn.Module]
Parts = dict[str, Make]


class Apply(nn.Module):
    """A function of its layers and what it is given: ``Apply(lambda m, x: m.a(x) + m.b(x), a=..., b=...)``."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def linear(*after: nn.Module) -> nn.Module:
    """Layers after a linear one."""
    return nn.Sequential(nn.Linear(W, W), *after)


def weight(*shape: int) -> nn.Parameter:
    """A parameter of small numbers."""
    return nn.Parameter(0.5 * torch.randn(*shape))


SMOOTH: Parts = {
    name: getattr(nn, name)
    for name in ("Tanh", "Sigmoid", "GELU", "SiLU", "Mish", "Softplus", "LogSigmoid", "Tanhshrink", "Softsign")
}
KINKED: Parts = {
    name: getattr(nn, name)
    for name in ("ReLU", "LeakyReLU", "ELU", "CELU", "SELU", "ReLU6", "PReLU", "Hardswish", "Hardtanh", "Softshrink")
}
IN_PLACE: Parts = {
    f"{name} in place": lambda name=name: getattr(nn, name)(inplace=True)  # type: ignore[misc]
    for name in ("ReLU", "LeakyReLU", "ELU", "SiLU", "Hardtanh")
}


def activated(make: Make) -> Make:
    return lambda: linear(make(), nn.Linear(W, W))


def normalised(make: Make) -> Make:
    return lambda: linear(make(), nn.Tanh())


VECTOR: Parts = {
    "Linear": lambda: linear(nn.Tanh()),
    "Linear without bias": lambda: nn.Sequential(nn.Linear(W, W, bias=False), nn.Tanh()),
    "Bilinear": lambda: Apply(lambda m, x: m.layer(x, torch.tanh(x)), layer=nn.Bilinear(W, W, W)),
    **{name: activated(make) for name, make in (SMOOTH | KINKED | IN_PLACE).items()},
    "GLU": lambda: nn.Sequential(nn.Linear(W, 2 * W), nn.GLU()),
    "Softmax": lambda: linear(nn.Softmax(-1)),
    "BatchNorm1d": normalised(lambda: nn.BatchNorm1d(W, track_running_stats=False)),
    "BatchNorm1d without affine": normalised(lambda: nn.BatchNorm1d(W, affine=False, track_running_stats=False)),
    "LayerNorm": normalised(lambda: nn.LayerNorm(W)),
    "LayerNorm without affine": normalised(lambda: nn.LayerNorm(W, elementwise_affine=False)),
    "LayerNorm without bias": normalised(lambda: nn.LayerNorm(W, bias=False)),
    "RMSNorm": normalised(lambda: nn.RMSNorm(W)),
    "RMSNorm without affine": normalised(lambda: nn.RMSNorm(W, elementwise_affine=False)),
    "GroupNorm": normalised(lambda: nn.GroupNorm(2, W)),
    "GroupNorm without affine": normalised(lambda: nn.GroupNorm(2, W, affine=False)),
    "F.normalize": lambda: Apply(lambda m, x: F.normalize(m.layer(x), dim=-1), layer=nn.Linear(W, W)),
    "CosineSimilarity": lambda: Apply(
        lambda m, x: F.cosine_similarity(x.unsqueeze(1), m.prototypes, dim=-1), prototypes=weight(W, W)
    ),
    "cdist": lambda: Apply(lambda m, x: -(x.unsqueeze(1) - m.prototypes).square().sum(-1), prototypes=weight(W, W)),
    "RNNCell": lambda: Apply(lambda m, x: m.cell(x, x), cell=nn.RNNCell(W, W)),
    "GRUCell": lambda: Apply(lambda m, x: m.cell(x, x), cell=nn.GRUCell(W, W)),
    "LSTMCell": lambda: Apply(lambda m, x: m.cell(x, (x, x))[0], cell=nn.LSTMCell(W, W)),
    "highway": lambda: Apply(
        lambda m, x: torch.sigmoid(m.gate(x)) * torch.tanh(m.body(x)) + (1 - torch.sigmoid(m.gate(x))) * x,
        gate=nn.Linear(W, W),
        body=nn.Linear(W, W),
    ),
    "residual": lambda: Apply(lambda m, x: x + m.body(x), body=linear(nn.Tanh())),
    "mixture of experts": lambda: Apply(
        lambda m, x: torch.einsum("ne,neo->no", m.gate(x).softmax(-1), torch.stack([e(x) for e in m.experts], 1)),
        gate=nn.Linear(W, 2),
        experts=nn.ModuleList([linear(nn.Tanh()), linear(nn.Tanh())]),
    ),
    "ModuleDict": lambda: Apply(
        lambda m, x: m.by_name["two"](torch.tanh(m.by_name["one"](x))),
        by_name=nn.ModuleDict({"one": nn.Linear(W, W), "two": nn.Linear(W, W)}),
    ),
    "ParameterDict": lambda: Apply(
        lambda m, x: torch.tanh(x * m.by_name["scale"] + m.by_name["shift"]),
        by_name=nn.ParameterDict({"scale": weight(W), "shift": weight(W)}),
    ),
    "ParameterList": lambda: Apply(
        lambda m, x: torch.tanh(torch.tanh(x @ m.matrices[0]) @ m.matrices[1]),
        matrices=nn.ParameterList([weight(W, W), weight(W, W)]),
    ),
    "nested containers": lambda: nn.Sequential(
        nn.Sequential(nn.ModuleList([nn.Sequential(nn.Linear(W, W), nn.Tanh())])[0]), nn.Sequential()
    ),
    "scalar weight": lambda: Apply(lambda m, x: m.scale * torch.tanh(x), scale=nn.Parameter(torch.tensor(1.5))),
    "unused weight": lambda: Apply(lambda m, x: torch.tanh(m.body(x)), body=nn.Linear(W, W), unused=weight(2)),
    "read-only buffer": lambda: Apply(
        lambda m, x: torch.tanh(m.body(x * m.mask)), body=nn.Linear(W, W), mask=torch.tensor([1.0, 0.5, 2.0, 0.0])
    ),
    "Fourier features": lambda: Apply(
        lambda m, x: torch.cat([(x @ m.b).sin(), (x @ m.b).cos()], -1), b=torch.randn(W, W // 2)
    ),
    "complex values": lambda: Apply(
        lambda m, x: torch.fft.irfft(torch.fft.rfft(m.body(x)) * torch.view_as_complex(m.filter), n=W),
        body=nn.Linear(W, W),
        filter=weight(W // 2 + 1, 2),
    ),
    "matrix inverse": lambda: Apply(
        lambda m, x: torch.linalg.solve(m.a @ m.a.T + torch.eye(W), x.unsqueeze(-1)).squeeze(-1), a=weight(W, W)
    ),
}


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)[0]
        return result


class Attends(nn.Module):
    """Multi-head attention under a mask of the given kind."""

    def __init__(self, mask: str = "", **options: bool) -> None:
        super().__init__()
        self.mask, self.layer = mask, nn.MultiheadAttention(W, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        masks = {
            "": {},
            "causal": {"attn_mask": later},
            "of numbers": {"attn_mask": torch.where(later, -2.0, 0.0).to(x.dtype)},
            "padding": {"key_padding_mask": x[..., 0] > x[..., 0].amin(1, keepdim=True) + 3.0},
        }
        result: Tensor = self.layer(x, x, x, **masks[self.mask])[0]
        return result


def encoder(**options: object) -> nn.TransformerEncoderLayer:
    settings = {"dropout": 0.0, "activation": "gelu", "batch_first": True} | options
    return nn.TransformerEncoderLayer(W, 2, 6, **settings)  # type: ignore[arg-type]


def attention(m: Any, x: Tensor, **options: object) -> Tensor:
    q, k, v = m.project(x).unflatten(-1, (3, 2, W // 2)).movedim(-3, 0).transpose(2, 3)
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(-2)  # type: ignore[arg-type]


SEQUENCE: Parts = {
    **{
        f"{kind}{text}": lambda kind=kind, options=options: Recurrent(getattr(nn, kind)(W, **options))  # type: ignore[misc]
        for kind in ("RNN", "GRU", "LSTM")
        for text, options in {
            "": {"hidden_size": W, "batch_first": True},
            ", two layers both ways": {
                "hidden_size": W // 2,
                "num_layers": 2,
                "bidirectional": True,
                "batch_first": True,
            },
        }.items()
    },
    "LSTM with projection": lambda: Recurrent(nn.LSTM(W, W + 1, proj_size=W, batch_first=True)),
    "MultiheadAttention": lambda: Attends(),
    "MultiheadAttention, causal mask": lambda: Attends("causal"),
    "MultiheadAttention, mask of numbers": lambda: Attends("of numbers"),
    "MultiheadAttention, padding mask": lambda: Attends("padding"),
    "MultiheadAttention, bias_k, zero_attn": lambda: Attends(add_bias_kv=True, add_zero_attn=True),
    "scaled_dot_product_attention": lambda: Apply(attention, project=nn.Linear(W, 3 * W)),
    "scaled_dot_product_attention, causal": lambda: Apply(
        lambda m, x: attention(m, x, is_causal=True), project=nn.Linear(W, 3 * W)
    ),
    "TransformerEncoderLayer": lambda: encoder(),
    "TransformerEncoderLayer, norm first": lambda: encoder(norm_first=True),
    "TransformerEncoderLayer, causal": lambda: Apply(
        lambda m, x: m.layer(x, nn.Transformer.generate_square_subsequent_mask(x.shape[1]), is_causal=True),
        layer=encoder(),
    ),
    "TransformerEncoder": lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False),
    "TransformerDecoderLayer": lambda: Apply(
        lambda m, x: m.layer(x, x.flip(1)),
        layer=nn.TransformerDecoderLayer(W, 2, 6, dropout=0.0, activation="gelu", batch_first=True),
    ),
    "LayerNorm of sequences": normalised(lambda: nn.LayerNorm(W)),
    "positions": lambda: Apply(lambda m, x: torch.tanh(x + m.table[: x.shape[1]]), table=weight(8, W)),
    "convolution in time": lambda: Apply(
        lambda m, x: torch.tanh(m.layer(x.transpose(1, 2)).transpose(1, 2)), layer=nn.Conv1d(W, W, 3, padding=1)
    ),
}


EMBEDDING: Parts = {
    "Embedding": lambda: nn.Embedding(WORDS, W),
    "Embedding, padding": lambda: nn.Embedding(WORDS, W, padding_idx=0),
    "Embedding in groups": lambda: Apply(
        lambda m, x: m.table(x.reshape(-1, 1)).reshape(*x.shape, W), table=nn.EmbeddingBag(WORDS, W, mode="sum")
    ),
    "one-hot codes": lambda: Apply(
        lambda m, x: F.one_hot(x, WORDS).to(m.table.dtype) @ m.table, table=weight(WORDS, W)
    ),
}
