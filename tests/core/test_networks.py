"""Networks that make trouble at second order, or for which a product has to be taken with care."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hops import nothing
from oracles import Tiny, random_tasks, relative
from torch import Tensor, nn
from unrolling import unrolled
from update_rules import sgd

from cases import EXACT, OUTER, made
from litmaml.inner import SGD, HigherOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import (
    OuterGradient,
    OuterLoss,
    SecondOrder,
    ZerothOrder,
)
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, select

STEPS, RATE = 2, 0.1
LOSS = nn.MSELoss()
EVERY = made(OUTER, samples=4)


class Attention(nn.Module):
    def __init__(self, encode: nn.Module) -> None:
        super().__init__()
        self.embed, self.encode, self.head = nn.Linear(1, 4), encode, nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        mixed = self.encode(tokens, tokens, tokens)[0] if self.plain else self.encode(tokens)
        predicted: Tensor = self.head(mixed.mean(1))
        return predicted

    @property
    def plain(self) -> bool:
        return isinstance(self.encode, nn.MultiheadAttention)


class Scaled(nn.Module):
    """A weight that is a plain number, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(1, 4), nn.Tanh()), nn.Linear(4, 1)
        self.scale, self.unused = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.head(self.body(x))


def normalised(layer: nn.Module) -> nn.Module:
    """Smooth, with a normalisation whose scale and shift are no longer one and zero."""
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(1, 4), layer, nn.Tanh()))
    model.add_module("head", nn.Linear(4, 1))
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return model


def convolutional(norm: str) -> nn.Module:
    """As normalised, with convolutions instead of linear layers."""
    layer = {
        "batch": nn.BatchNorm2d(4, track_running_stats=False),
        "group": nn.GroupNorm(2, 4),
        "instance": nn.InstanceNorm2d(4, affine=True),
    }[norm]
    model = nn.Sequential()
    body = [nn.Conv2d(1, 4, 3, padding=1), layer, nn.Softplus(), nn.Conv2d(4, 4, 3, 2), nn.Flatten()]
    model.add_module("body", nn.Sequential(*body))
    model.add_module("head", nn.Linear(16, 1))
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return model


def encoder(**options: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True, **options)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: normalised(nn.BatchNorm1d(4, track_running_stats=False)), (1,)),
    "LayerNorm": (lambda: normalised(nn.LayerNorm(4)), (1,)),
    "GroupNorm": (lambda: normalised(nn.GroupNorm(2, 4)), (1,)),
    "BatchNorm2d": (lambda: convolutional("batch"), (1, 6, 6)),
    "GroupNorm of images": (lambda: convolutional("group"), (1, 6, 6)),
    "InstanceNorm2d": (lambda: convolutional("instance"), (1, 6, 6)),
    "MultiheadAttention": (
        lambda: Attention(nn.MultiheadAttention(4, 2, batch_first=True)),
        (3, 1),
    ),
    "TransformerEncoderLayer": (lambda: Attention(encoder()), (3, 1)),
    "TransformerEncoderLayer, norm first": (lambda: Attention(encoder(norm_first=True)), (3, 1)),
    "scalar and unused": (Scaled, (1,)),
}


def tasks_of(shape: tuple[int, ...], size: int = 3) -> Tasks:
    def batch() -> Batch:
        return Batch(torch.randn(size, 5, *shape), torch.randn(size, 5, 1))

    return Tasks((batch(),), batch(), torch.arange(size))


@pytest.mark.parametrize("fast", ["*", "head.*"], ids=["all", "head"])
@pytest.mark.parametrize("name", NETWORKS)
def test_second_order_is_exact_batched_and_looped(name: str, fast: str) -> None:
    make, shape = NETWORKS[name]
    model, tasks = make(), tasks_of(shape)
    adapted = [n for n, _ in model.named_parameters() if fast == "*" or n.startswith("head.")]
    true = None
    for outer, row in EXACT.items():
        loop = InnerLoop(model, LOSS, SGD(RATE), [fast], STEPS)
        if true is None:
            true = unrolled(loop, tasks, STEPS, adapted, sgd()).gradients
            assert relative(unrolled(loop, tasks, STEPS, adapted, sgd(), nothing).gradients, true) > 1e-3
        for chunk in (None, 2, 1):
            found = MetaGradientOf(loop, row.make(), STEPS, chunk or tasks.size)(tasks)
            assert relative(found.gradients, true) < row.tolerance, (outer, chunk)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_conv4_batched_and_looped(norm: str) -> None:
    """With the kinks of ReLU and max-pooling and the cross entropy of classes."""
    model = Conv4(ways=3, filters=4, size=16, norm=norm)  # type: ignore[arg-type]
    tasks = Tasks(
        (Batch(torch.rand(2, 6, 1, 16, 16), torch.arange(6).expand(2, 6) % 3),),
        Batch(torch.rand(2, 6, 1, 16, 16), torch.arange(6).expand(2, 6) % 3),
        torch.arange(2),
    )
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.4), ["*"], STEPS)
    true = unrolled(loop, tasks, STEPS, [n for n, _ in model.named_parameters()], sgd()).gradients
    for chunk in (2, 1):
        assert relative(MetaGradientOf(loop, SecondOrder(), STEPS, chunk)(tasks).gradients, true) < 1e-10


@pytest.mark.parametrize("method", EVERY)
def test_adaptation_in_eval_mode(method: OuterGradient) -> None:
    """torch would fuse an encoder layer in eval mode, which cannot be differentiated for several tasks at once."""
    torch.manual_seed(0)
    model, tasks = Attention(encoder()), tasks_of((3, 1))
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS)
    *_, trained = loop.path(tasks, STEPS)
    loop.eval()
    with torch.inference_mode():
        *_, evaluated = loop.path(tasks, STEPS)
        predictions = loop.predict(evaluated, tasks.query.inputs)
    assert predictions.shape == tasks.query.targets.shape
    for name, weight in trained.items():
        torch.testing.assert_close(evaluated[name], weight)
    assert bool(MetaGradientOf(loop, method, STEPS)(tasks).finite.all())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax"])
def test_unused_weights_have_no_gradient_and_stay(method: OuterGradient, optimizer: str) -> None:
    """Adam and its like divide by the root of a zero there."""
    model = Scaled()
    inner = SGD(RATE) if optimizer == "SGD" else HigherOptimizer(optimizer)
    loop = InnerLoop(model, LOSS, inner, ["*"], STEPS)
    found = MetaGradientOf(loop, method, STEPS)(tasks_of((1,)))
    assert bool(found.finite.all())
    if not isinstance(method, ZerothOrder):  # whose directions run along all weights
        assert not found.gradients["model.unused"].any()
    assert bool(found.gradients["model.scale"])
    *_, fast = loop.path(tasks_of((1,)), STEPS)
    assert torch.equal(fast["unused"], torch.ones(3, 2))


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("fast", ["*", "head.*"])
def test_frozen_weights_stay_frozen(method: OuterGradient, fast: str) -> None:
    model, tasks = Tiny(), tasks_of((1,))
    frozen = model.get_parameter("body.0.weight").requires_grad_(False)
    before = frozen.clone()
    loop = InnerLoop(model, LOSS, SGD(RATE), [fast], STEPS)
    found = MetaGradientOf(loop, method, STEPS)(tasks)
    assert found.gradients.keys() == {"model.body.0.bias", "model.head.weight"}
    *_, adapted = loop.path(tasks, STEPS)
    assert adapted.keys() == ({"body.0.bias", "head.weight"} if fast == "*" else {"head.weight"})
    assert torch.equal(frozen, before)
    assert frozen.grad is None
    if isinstance(method, SecondOrder):
        true = unrolled(loop, tasks, STEPS, list(adapted), sgd()).gradients
        assert relative(found.gradients, true) < 1e-10


class Tied(nn.Module):
    """The same matrix encodes and decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        decoded: Tensor = self.decode(torch.tanh(self.encode(x)))
        return decoded.sum(1, keepdim=True)


@pytest.mark.parametrize("chunk", [None, 1], ids=["batched", "looped"])
@pytest.mark.parametrize("outer", EXACT)
def test_tied_weights(outer: str, chunk: int | None) -> None:
    model, tasks, row = Tied(), tasks_of((3,)), EXACT[outer]
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS)
    found = MetaGradientOf(loop, row.make(), STEPS, chunk)(tasks).gradients
    assert found.keys() == {"model.encode.weight"}

    start = model.encode.weight.detach().clone().requires_grad_()
    total = torch.zeros(())
    for task in range(3):
        w = start
        for _ in range(STEPS):
            out = (torch.tanh(tasks.support[0].inputs[task] @ w.T) @ w.T).sum(1, keepdim=True)
            loss = (out - tasks.support[0].targets[task]).square().mean()
            w = w - RATE * torch.autograd.grad(loss, w, create_graph=True)[0]
        out = (torch.tanh(tasks.query.inputs[task] @ w.T) @ w.T).sum(1, keepdim=True)
        total = total + (out - tasks.query.targets[task]).square().mean() / 3
    (true,) = torch.autograd.grad(total, start)
    assert relative(found, {"model.encode.weight": true}) < row.tolerance


@pytest.mark.parametrize("chunk", [None, 1], ids=["batched", "looped"])
@pytest.mark.parametrize("method", EVERY)
def test_a_task_whose_outer_gradient_vanishes(method: OuterGradient, chunk: int | None) -> None:
    """v = 0 for one task among others: without biases, inputs of zero give what is asked for."""
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False))
    tasks = random_tasks(3)
    tasks.query.inputs[1] = 0.0
    tasks.query.targets[1] = 0.0
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS)
    found = MetaGradientOf(loop, method, STEPS, chunk)(tasks)
    assert bool(found.finite.all())
    assert float(found.losses[1]) == 0
    alone = MetaGradientOf(loop, method, STEPS)(select(tasks, [1]))
    assert bool(alone.finite.all())
    assert not any(gradient.any() for gradient in alone.gradients.values())


def test_fast_weights_that_fit_nothing() -> None:
    with pytest.raises(ValueError, match=r"fast_weights: 'tail.\*' fits none .* body.0.weight, body.0.bias"):
        InnerLoop(Tiny(), LOSS, SGD(), ["head.*", "tail.*"], 1)
    with pytest.raises(ValueError, match="fast_weights: names no parameter; there is nothing to adapt"):
        InnerLoop(Tiny(), LOSS, SGD(), [], 1)
    frozen = Tiny().requires_grad_(False)
    with pytest.raises(ValueError, match=r"model: none of its parameters is trainable; .*requires_grad=True"):
        InnerLoop(frozen, LOSS, SGD(), ["*"], 1)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_layers_need_a_shape() -> None:
    with pytest.raises(ValueError, match="model: weight has no shape yet; run one batch"):
        InnerLoop(nn.LazyLinear(1), LOSS, SGD(), ["*"], 1)


@pytest.mark.parametrize("which", ["support", "hessian"])
def test_batches_that_do_not_fit_the_steps(which: str) -> None:
    tasks = random_tasks(2, supports=2 if which == "support" else 1, hessians=2 if which == "hessian" else 0)
    loop = InnerLoop(Tiny(), LOSS, SGD(), ["*"], 3)
    with pytest.raises(ValueError, match="support_batches, hessian_batches: 2 per task do not fit 3 inner steps"):
        SecondOrder().solve(loop, OuterLoss(), *loop.start(tasks), tasks, 3)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_hundred_steps(recompute: bool) -> None:
    """Errors of rounding do not build up, neither unrolled nor recomputed."""
    tasks = random_tasks(2)
    loop = InnerLoop(Tiny(), LOSS, SGD(0.05), ["*"], 100)
    true = unrolled(loop, tasks, 100, ["body.0.weight", "body.0.bias", "head.weight"], sgd()).gradients
    assert relative(MetaGradientOf(loop, SecondOrder(recompute), 100)(tasks).gradients, true) < 1e-9
