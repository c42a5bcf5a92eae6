"""Ordinary models of sequences, small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Recurrence(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, kind: str, **options: object) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(3, 4, batch_first=True, **options)
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class LSTMTagger(nn.Module):
    """A class for each word (n, classes, t)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(7, 4), nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x))[0]).mT


class Transformer(nn.Module):
    """BERT: words, positions, a padding mask of the word 0, the first token's state."""

    numbers: Tensor

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(7, 8, padding_idx=0), nn.Embedding(16, 8)
        self.norm, self.dropout = nn.LayerNorm(8), nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
        self.register_buffer("numbers", torch.arange(16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = x == 0
        padding = padding & (torch.arange(x.shape[1], device=x.device) > 0)  # the first is never left out
        tokens = self.dropout(self.norm(self.words(x) + self.positions(self.numbers[: x.shape[1]])))
        return self.head(self.encoder(tokens, src_key_padding_mask=padding)[:, 0])


class CausalAttention(nn.Module):
    """With a mask in a buffer; rotary positions from tables that are made when they are first needed."""

    mask: Tensor

    def __init__(self, rotary: bool) -> None:
        super().__init__()
        self.project, self.out, self.rotary = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False), rotary
        self.register_buffer("mask", torch.ones(16, 16, dtype=torch.bool).tril())
        self.tables: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.project(x).chunk(3, -1))
        if self.rotary:
            if self.tables is None or len(self.tables[0]) != t or self.tables[0].dtype != x.dtype:
                rates = torch.tensor([1.0, 0.1], dtype=x.dtype, device=x.device)
                angles = torch.outer(torch.arange(t, dtype=x.dtype, device=x.device), rates).repeat(1, 2)
                self.tables = angles.cos(), angles.sin()
            q, k = self._turned(q), self._turned(k)
        scores = q @ k.mT / 2
        weights = scores.masked_fill(~self.mask[:t, :t], float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))

    def _turned(self, x: Tensor) -> Tensor:
        assert self.tables is not None
        first, second = x.chunk(2, -1)
        return x * self.tables[0] + torch.cat([-second, first], -1) * self.tables[1]


class Block(nn.Module):
    def __init__(self, rotary: bool) -> None:
        super().__init__()
        self.before, self.attention, self.between = nn.RMSNorm(8), CausalAttention(rotary), nn.RMSNorm(8)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class GPT(nn.Module):
    """The next word; its classes are the words. (n, 7 words, t)"""

    def __init__(self, tied: bool = True, rotary: bool = False) -> None:
        super().__init__()
        self.words, self.blocks = nn.Embedding(7, 8), nn.ModuleList([Block(rotary), Block(rotary)])
        self.positions = None if rotary else nn.Parameter(0.1 * torch.randn(16, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 7, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.words(x)
        if self.positions is not None:
            tokens = tokens + self.positions[: x.shape[1]]
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)).mT


class WaveNet(nn.Module):
    """Gated, dilated, causal convolutions with skips; a class at each time."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, 4, 1)
        self.gated = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=2**k) for k in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.start(x), 0
        for k, (gated, skip) in enumerate(zip(self.gated, self.skips, strict=True)):
            a, b = gated(F.pad(x, (2**k, 0))).chunk(2, 1)
            out = skip(torch.tanh(a) * torch.sigmoid(b))
            x, total = x + out, total + out
        return self.head(total)


class TemporalConvolutions(nn.Module):
    """TCN: weight-normalised, dilated, causal."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(norm(nn.Conv1d(3 if k == 0 else 4, 4, 3, dilation=2**k)) for k in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for k, layer in enumerate(self.layers):
            x = F.relu(layer(F.pad(x, (2 * 2**k, 0))))
        return self.head(x[..., -1])


class StateSpace(nn.Module):
    """A diagonal linear recurrence of complex numbers, as a scan."""

    def __init__(self) -> None:
        super().__init__()
        self.log_decay, self.phase = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.linspace(0, 2, 4))
        self.inwards, self.outwards, self.head = nn.Linear(3, 4), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        given = self.inwards(x)
        pole = torch.polar((-self.log_decay.exp() * 0.2).exp(), self.phase)
        state = torch.zeros_like(given[:, 0]) * pole
        for t in range(x.shape[1]):
            state = pole * state + given[:, t]
        return self.head(F.gelu(self.outwards(torch.view_as_real(state).flatten(1))))
