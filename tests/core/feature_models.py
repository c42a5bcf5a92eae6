"""Models of which some parts lie before all fast weights, and others that only look so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from litmaml.models import Conv4
from litmaml.tasks import Batch, Tasks, Tree


class Case(NamedTuple):
    """make: The model. fast: What is adapted. once: The module whose calls are counted, by name.

    calls: Of it in one forward pass. form: The shape of one input, or of each by name.
    """

    make: Callable[[], nn.Module]
    fast: Sequence[str] = ("head.*",)
    once: str = "body"
    calls: int = 1
    form: Any = (3,)


class Headed(nn.Module):
    """A body, a function of what it gives, and a head."""

    def __init__(self, between: Callable[[Any, Tensor], Any] | None = None, **parts: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Any:
        found = self.body(x)
        return self.head(found if self.between is None else self.between(self, found))


class Tokens(nn.Module):
    """As vision transformers are: patches, parameters of the model itself, blocks, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 4, 4)
        self.cls, self.position = (nn.Parameter(torch.randn(1, size, 4)) for size in (1, 5))
        block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.norm, self.head, self.scale = nn.LayerNorm(4), nn.Linear(4, 3), nn.Parameter(torch.ones(4))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], 1) + self.position
        out: Tensor = self.head(self.scale * self.norm(self.blocks(tokens))[:, 0])
        return out


class LowRank(nn.Module):
    """A linear map with a low-rank change of it, which begins at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.whole = nn.Linear(width, width)
        self.lora_a, self.lora_b = nn.Linear(width, 1, bias=False), nn.Linear(1, width, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.whole(x) + self.lora_b(self.lora_a(x))
        return out


class Pair(nn.Module):
    """Two inputs, each with a body of its own; that of the second is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.body, self.head = nn.Linear(2, 4), nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.left(x) * self.body(context)) + self.body(context.square()))
        return out


class Returning(nn.Module):
    """Gives more than a tensor, as bodies of language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = 2 * torch.tanh(self.inner(x))
        return {"last": hidden, "all": (x, hidden), "cache": None, "mask": hidden > 0}


class Skipping(nn.Module):
    """Uses what its body returns in several places, and writes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Returning(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        hidden = found["last"] * found["mask"]
        out: Tensor = self.head(found["last"].mul_(2.0) + hidden)
        return out


def _normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 4))


def _straight() -> nn.Module:
    model: Any = Headed(lambda m, x: m.top(x + (m.gate - m.gate.detach())), top=nn.Linear(4, 4))
    model.gate = nn.Parameter(torch.ones(4))
    return model


def _frozen() -> nn.Module:
    model: Any = Headed()
    model.body.requires_grad_(False)
    return model


def _with_context() -> nn.Module:
    model: Any = Headed(lambda m, x: x + m.context)
    model.register_buffer("context", torch.zeros(4))
    return model


class Clipped(torch.autograd.Function):
    """Backward it is not linear: that of a sum is another than the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.sign()


class Remembering(nn.Module):
    """Hands its head a feature in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = torch.tanh(self.inner(x))
        return self.kept.square()


class Branching(nn.Module):
    """For inputs with a large first number it calls its parts otherwise, or lets a fast weight in."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.body, self.side, self.top, self.head = *(nn.Linear(3, 3) for _ in range(3)), nn.Linear(3, 3)
        self.gate = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        other = self.how if float(x[0, 0]) > 100 else ""
        first, second = (self.side, self.body) if other == "swapped" else (self.body, self.side)
        found = second(torch.tanh(first(x)))
        if other == "one more":
            found = self.body(torch.tanh(found))
        if other == "fast":
            found = found * self.gate.detach()
        out: Tensor = self.head(found if other == "one less" else self.top(found))
        return out


class Looking(Headed):
    """Its body sees the head through ``detach``: no gradient, but another number."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x * self.head.weight.detach().sum()))


def _hooked() -> nn.Module:
    model: Any = Headed()
    model.body = nn.Linear(3, 4)
    model.body.register_forward_hook(lambda module, args, output: 2 * output)
    return model


def _scripted() -> nn.Module:
    model: Any = Headed()
    model.body = torch.jit.script(model.body)
    return model


class Around(nn.Module):
    """One module before and after a fast weight, perhaps after another."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.around, self.head, self.out = body, nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.around(torch.tanh(self.head(self.around(self.body(x))))))
        return out


def _handing() -> nn.Module:
    model: Any = Headed(lambda m, x: x + m.body.kept)
    model.body = Remembering()
    return model


class _Clipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        clipped: Tensor = Clipped.apply(self.inner(x))
        return clipped


def _clipping() -> nn.Module:
    model: Any = Headed()
    model.body = _Clipping()
    return model


CASES: dict[str, Case] = {
    "Conv4": Case(lambda: Conv4(3, filters=4, size=16), form=(1, 16, 16)),
    "tokens": Case(Tokens, once="blocks", form=(1, 8, 8)),
    "shared": Case(
        lambda: Headed(lambda m, x: m.twice(x) + m.twice(x.square()), twice=nn.Linear(4, 4)), once="twice", calls=2
    ),
    "two inputs": Case(Pair, calls=2, form={"x": (2,), "context": (3,)}),
    "batch norm": Case(lambda: nn.Sequential(_normed(), nn.Linear(4, 3)), ["1.*"], once="0"),
    "frozen": Case(_frozen),
    "low rank": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), LowRank(4), nn.Tanh(), nn.Linear(4, 3)), ["*lora_*"], once="0"
    ),
    "buffer": Case(_with_context, ["context"]),
    "behind it a sign": Case(lambda: Headed(lambda m, x: m.top(x * (m.head.weight > 0).sum()), top=nn.Linear(4, 4))),
    "several outputs": Case(Skipping),
    "in place": Case(lambda: Headed(lambda m, x: torch.relu_(x))),
    "in place in between": Case(lambda: Headed(lambda m, x: m.top(x.mul_(2.0)) + x, top=nn.Linear(4, 4))),
    "before and after": Case(lambda: Around(nn.Linear(3, 3))),
    "inside and outside": Case(lambda: Headed(lambda m, x: x + torch.tanh(m.body[2](x)))),
    "straight through": Case(_straight, ["head.*", "gate"]),
    "by numbers alone": Case(
        lambda: Headed(lambda m, x: m.top(x * m.head.weight.detach().sum()), top=nn.Linear(4, 4)), ["head.*"]
    ),
    "rows": Case(lambda: Headed(lambda m, x: m.norm(x), norm=nn.LayerNorm(4))),
}
"""Models whose constant parts are found."""


class Gated(nn.Module):
    """Its top gets nothing until the gate's bias, which is slightly negative, has become positive."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.head, self.gate = nn.Linear(3, 4), nn.Linear(4, 3), nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.top(x * (self.gate > 0))) * self.gate


class Routing(nn.Module):
    """Each example goes to the expert that is likeliest for it, at the start always the first."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(3, 2), nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(3, 4) for _ in range(2))
        nn.init.zeros_(self.router.weight)
        self.router.bias = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Any:
        p = self.router(x).softmax(-1)
        likeliest = functional.one_hot(p.argmax(-1), 2)
        own = [expert(x * of.unsqueeze(-1)) for expert, of in zip(self.experts, likeliest.unbind(-1), strict=True)]
        return self.head((torch.stack(own, -1) * (p * likeliest).unsqueeze(-2)).sum(-1))


WITHOUT: dict[str, Case] = {
    "all weights": Case(Headed, ["*"]),
    "the first layer": Case(Headed, ["body.0.*"]),
    "through detach": Case(Looking, ["head.*"]),
    "by a closed gate": Case(Gated, ["head.*", "gate"]),
    "by the likeliest": Case(Routing, ["head.*", "router.*"]),
    "dropout": Case(lambda: Headed(lambda m, x: m.drop(x), drop=nn.Dropout(0.5))),
    "a hook": Case(_hooked),
    "scripted": Case(_scripted),
    "by an attribute": Case(_handing),
    "before and after": Case(lambda: Around(nn.Identity())),
    "not linear backwards": Case(_clipping),
}
"""Models that are computed as a whole."""


def tasks_of(
    case: Case, size: int = 4, support: int = 6, query: int = 9, supports: int = 1, hessians: int = 0, first: int = 0
) -> Tasks:
    """Classification tasks of noise."""

    def inputs(n: int) -> Tree:
        if isinstance(case.form, dict):
            return {name: torch.randn(size, n, *shape) for name, shape in case.form.items()}
        return torch.randn(size, n, *case.form)

    def batch(n: int) -> Batch:
        return Batch(inputs(n), torch.arange(3).repeat(n // 3).expand(size, -1))

    return Tasks(
        tuple(batch(support) for _ in range(supports)),
        batch(query),
        torch.arange(first, first + size),
        tuple(batch(support) for _ in range(hessians)) or None,
    )
