"""Models with a context or with layers that tasks do not adapt: CAVIA and T-Net, against what they are equal to."""

from __future__ import annotations

import pytest
import torch
from oracles import Tiny, random_tasks, relative
from torch import Tensor, nn
from torch.func import functional_call

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP, ContextMLP, Conv4, Warped
from litmaml.outer import FirstOrder, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

LOSS, RATE, STEPS = nn.MSELoss(), 0.1, 3


def gradients(loop: InnerLoop, tasks: Tasks, steps: int = STEPS) -> Params:
    return MetaGradientOf(loop, SecondOrder(), steps)(tasks).gradients


class Shifted(nn.Module):
    """Every weight of the other model with a context added."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inside = model
        for name, weight in model.named_parameters():
            self.register_buffer(name.replace(".", "_"), torch.zeros_like(weight))

    def forward(self, x: Tensor) -> Tensor:
        shifted = {n: w + self.get_buffer(n.replace(".", "_")) for n, w in self.inside.named_parameters()}
        found: Tensor = functional_call(self.inside, shifted, (x,))
        return found


def test_a_context_for_each_weight_is_maml() -> None:
    model, tasks = Tiny(), random_tasks()
    shifted = Shifted(model)
    contexts = [name for name, _ in shifted.named_buffers()]
    found = gradients(InnerLoop(shifted, LOSS, SGD(RATE), contexts, STEPS), tasks)
    true = gradients(InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS), tasks)
    assert relative({name.replace("inside.", ""): g for name, g in found.items()}, true) < 1e-12


def test_only_the_context_is_adapted_and_only_the_rest_is_trained() -> None:
    torch.manual_seed(0)
    model = ContextMLP(hidden=[4], context_size=3)
    loop, tasks = InnerLoop(model, LOSS, SGD(1.0), ["context"], STEPS), random_tasks()
    found = gradients(loop, tasks)
    assert found.keys() == {f"model.{name}" for name, _ in model.named_parameters()}
    # By hand; without what comes through the context's steps it is another one.
    weights = dict(model.named_parameters())
    total = torch.zeros(())
    for i in range(tasks.size):
        phi = torch.zeros(3, requires_grad=True)
        for _ in range(STEPS):
            out = functional_call(model, {**weights, "context": phi}, (tasks.support[0].inputs[i],))
            phi = phi - torch.autograd.grad(LOSS(out, tasks.support[0].targets[i]), phi, create_graph=True)[0]
        out = functional_call(model, {**weights, "context": phi}, (tasks.query.inputs[i],))
        total = total + LOSS(out, tasks.query.targets[i]) / tasks.size
    true = {f"model.{n}": g for n, g in zip(weights, torch.autograd.grad(total, [*weights.values()]), strict=True)}
    assert relative(found, true) < 1e-12
    detached = MetaGradientOf(loop, FirstOrder(), STEPS)(tasks).gradients
    assert relative(detached, true) > 1e-2


def test_a_context_that_nothing_reads_is_never_trained() -> None:
    """With weights of 0 behind it both gradients are 0, for ever."""
    model = ContextMLP(hidden=[4], context_size=2)
    first = model.body[1]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight[:, 1:] = 0
    loop, tasks = InnerLoop(model, LOSS, SGD(1.0), ["context"], STEPS), random_tasks()
    assert not gradients(loop, tasks)["model.body.1.weight"][:, 1:].any()
    *_, end = loop.path(tasks, STEPS)
    assert not end["context"].any()


def test_a_context_of_zero_is_the_network_without() -> None:
    torch.manual_seed(0)
    plain = MLP(2, 3, [4])
    with_context = ContextMLP(2, 3, [4], context_size=2)
    state = plain.state_dict()
    first = torch.cat([state["body.1.weight"], torch.randn(4, 2)], 1)
    with_context.load_state_dict({**state, "body.1.weight": first, "context": torch.zeros(2)})
    x = torch.randn(5, 2)
    torch.testing.assert_close(with_context(x), plain(x))
    images = torch.randn(6, 1, 16, 16)
    conv = Conv4(3, 4, size=16, context_size=2)
    without = Conv4(3, 4, size=16)
    without.load_state_dict({n: w for n, w in conv.state_dict().items() if n not in ("context", "film.weight")})
    torch.testing.assert_close(conv(images), without(images))
    conv.context.fill_(0.5)
    assert not torch.allclose(conv(images), without(images))


@pytest.mark.parametrize("chunk", [None, 1])
def test_images_with_a_context(chunk: int | None) -> None:
    """The scale and shift of the channels behind the third normalisation, and nothing else of a task's own."""
    torch.manual_seed(0)
    conv = Conv4(2, 2, size=16, norm="group", context_size=3)
    batch = Batch(torch.randn(2, 4, 1, 16, 16), torch.tensor([[0, 1, 0, 1]] * 2))
    tasks, loss = Tasks((batch,), batch, torch.arange(2)), nn.CrossEntropyLoss()
    loop = InnerLoop(conv, loss, SGD(1.0), ["context"], 1)
    found = MetaGradientOf(loop, SecondOrder(), 1, chunk)(tasks).gradients
    weights: Params = dict(conv.named_parameters())
    total = torch.zeros(())
    for i in range(2):
        phi = torch.zeros(3, requires_grad=True)
        for last in (False, True):
            x = batch.inputs[i]
            for k in range(16):
                x = functional_call(conv.body[k], _own(weights, k), (x,))
                if k == 9:
                    scale, shift = (weights["film.weight"] @ phi).reshape(2, 2, 1, 1)
                    x = x * (1 + scale) + shift
            out = x.flatten(1) @ weights["head.weight"].T + weights["head.bias"]
            value = loss(out, batch.targets[i])
            if last:
                total = total + value / 2
            else:
                phi = phi - torch.autograd.grad(value, phi, create_graph=True)[0]
    true = {f"model.{n}": g for n, g in zip(weights, torch.autograd.grad(total, [*weights.values()]), strict=True)}
    assert relative(found, true) < 1e-12


def _own(weights: Params, k: int) -> Params:
    return {n.removeprefix(f"body.{k}."): w for n, w in weights.items() if n.startswith(f"body.{k}.")}


def test_a_layer_behind_preconditions() -> None:
    """A step of W in T W is one of T W along the gradient times T T'."""
    torch.manual_seed(0)
    model = Warped(nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 1)), layers=["0"])
    t = model.model.get_submodule("0.warp").get_parameter("weight")
    w = model.model.get_submodule("0.task").get_parameter("weight")
    assert torch.equal(t, torch.eye(4))
    with torch.no_grad():
        t.add_(torch.randn(4, 4))
    tasks = random_tasks(1, inputs=3)
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*.task.*"], 1)
    assert loop.fast_names == ["model.0.task.weight"]
    *_, end = loop.path(tasks, 1)
    both = (t @ w).detach().requires_grad_()
    second = model.model.get_submodule("2")
    out = second(torch.tanh(tasks.support[0].inputs[0] @ both.T))
    (g,) = torch.autograd.grad(LOSS(out, tasks.support[0].targets[0]), both)
    torch.testing.assert_close(t @ end["model.0.task.weight"][0], both - RATE * t @ t.T @ g)


def test_warped_layers_start_as_the_identity() -> None:
    torch.manual_seed(0)
    conv, images = Conv4(3, 4, size=16), torch.randn(5, 1, 16, 16)
    before = conv(images)
    torch.testing.assert_close(Warped(conv)(images), before)
    mlp, x = MLP(2, 3, [4]), torch.randn(5, 2)
    before = mlp(x)
    warped = Warped(mlp)
    torch.testing.assert_close(warped(x), before)
    assert not any("head" in name and "warp" in name for name, _ in warped.named_parameters())


def test_refusals() -> None:
    with pytest.raises(ValueError, match="context_size: has to be at least 1, got 0"):
        ContextMLP(context_size=0)
    with pytest.raises(ValueError, match="context_size: has to be at least 0, got -1"):
        Conv4(context_size=-1)
    with pytest.raises(ValueError, match=r"layers: 'x\.\*' fits none of the model's linear layers"):
        Warped(MLP(), layers=["x.*"])
