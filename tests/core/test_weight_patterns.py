"""Which tensors take part: rows per step, frozen weights, and buffers that are adapted, against a plain loop."""

from __future__ import annotations

import pytest
import torch
from hops import nothing
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.func import functional_call

from cases import SAMPLED, UNSAMPLED, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import FiniteDifference, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks
from litmaml.weights import Params

STEPS, RATE, LOSS = 3, 0.1, nn.MSELoss()


class Normed(nn.Module):
    """With a normalisation, and a context (a buffer) behind it: before it, what is added to all examples is lost."""

    context: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(6, 1)
        self.register_buffer("context", torch.zeros(2))
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.tanh(self.norm(self.body(x))), self.context.expand(len(x), -1)], 1)
        predicted: Tensor = self.head(x)
        return predicted


def by_hand(
    model: nn.Module, tasks: Tasks, fast: list[str], slow: Params, rows: Params, steps: int, first_order: bool = False
) -> tuple[Tensor, list[Params]]:
    """The outer loss on the graph of all that is given, and each task's adapted weights."""
    start = {**dict(model.named_parameters()), **dict(model.named_buffers()), **slow}
    losses, ends = [], []
    for i in range(tasks.size):
        theta = {name: start[name] for name in fast}

        def predicted(j: int, inputs: Tensor, theta: Params) -> Tensor:
            at = {name: row[min(j, STEPS - 1)] for name, row in rows.items()}
            output: Tensor = functional_call(model, {**start, **at, **theta}, (inputs,))
            return output

        for j in range(steps):
            loss = LOSS(predicted(j, tasks.support[0].inputs[i], theta), tasks.support[0].targets[i])
            slope = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            theta = {
                n: w - RATE * (g.detach() if first_order else g) for (n, w), g in zip(theta.items(), slope, strict=True)
            }
        losses.append(LOSS(predicted(max(steps - 1, 0), tasks.query.inputs[i], theta), tasks.query.targets[i]))
        ends.append(theta)
    return torch.stack(losses).mean(), ends


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("outer", UNSAMPLED)
def test_each_step_has_its_row(outer: str, chunk: int | None) -> None:
    """Which is trained: row j by step j, the last one by the query too; the others are adapted."""
    model, tasks = Normed(), random_tasks(3)
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS, per_step_weights=["norm.*"])
    assert loop.fast_names == ["body.weight", "body.bias", "head.weight", "head.bias"]
    assert loop.rows == ["norm.weight", "norm.bias"]
    rows = {name: loop.learnt["weights." + name] for name in loop.rows}
    for name, row in rows.items():
        assert torch.equal(row, model.get_parameter(name).expand(STEPS, -1))
        with torch.no_grad():
            row.add_(0.3 * torch.randn_like(row))
    leaves = {name: model.get_parameter(name) for name in loop.fast_names}
    value, _ = by_hand(model, tasks, loop.fast_names, {}, rows, STEPS, UNSAMPLED[outer].hop is nothing)
    parts = torch.autograd.grad(value, [*leaves.values(), *rows.values()], materialize_grads=True)
    names = [f"model.{n}" for n in leaves] + ["learnt.weights/" + n.replace(".", "/") for n in rows]
    true = dict(zip(names, parts, strict=True))
    found = MetaGradientOf(loop, UNSAMPLED[outer].make(), STEPS, chunk)(tasks)
    assert found.gradients.keys() == true.keys()
    for of in ("model.", "learnt."):
        some = ({n: g for n, g in gradients.items() if n.startswith(of)} for gradients in (found.gradients, true))
        assert relative(*some) < UNSAMPLED[outer].rounding
    torch.testing.assert_close(found.loss, value.detach())
    if UNSAMPLED[outer].hop is not nothing:
        assert bool((found.gradients["learnt.weights/norm/weight"].abs().sum(1) > 0).all())


@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 2])
def test_evaluation_takes_the_same_rows(steps: int) -> None:
    """And goes on with the last one."""
    model, tasks = Normed(), random_tasks(3)
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS, per_step_weights=["norm.*"])
    rows = {name: loop.learnt["weights." + name] for name in loop.rows}
    for row in rows.values():
        with torch.no_grad():
            row.add_(0.3 * torch.randn_like(row))
    *_, end = loop.path(tasks, steps)
    value, ends = by_hand(model, tasks, loop.fast_names, {}, rows, steps)
    for i, theta in enumerate(ends):
        for name, weight in theta.items():
            torch.testing.assert_close(end[name][i], weight.detach())
    losses = loop.loss_of(loop.predict(end, tasks.query.inputs), tasks.query.targets)
    torch.testing.assert_close(losses.mean(), value.detach())


@pytest.mark.parametrize("method", made(SAMPLED, samples=3))
def test_rows_of_sampled_gradients(method: OuterGradient) -> None:
    """Their loss is the same, and only rows that are taken get a gradient."""
    model, tasks = Normed(), random_tasks(3)
    loop = InnerLoop(model, LOSS, SGD(RATE), ["*"], STEPS, per_step_weights=["norm.*"])
    found, exact = (MetaGradientOf(loop, m, 1)(tasks) for m in (method, SecondOrder()))
    torch.testing.assert_close(found.loss, exact.loss)
    for gradients in (found.gradients, exact.gradients):
        assert not gradients["learnt.weights/norm/weight"][1:].any()
        assert gradients["learnt.weights/norm/weight"][0].all()


def test_rows_of_a_checkpoint_of_another_number_of_steps() -> None:
    loops = [InnerLoop(Normed(), LOSS, SGD(RATE), ["*"], n, per_step_weights=["norm.weight"]) for n in (2, 4, 1)]
    with torch.no_grad():
        loops[0].learnt["weights.norm.weight"].normal_()
    for loop, rows in zip(loops[1:], ([0, 1, 1, 1], [0]), strict=True):
        loop.load_state_dict(loops[0].state_dict())
        assert torch.equal(loop.learnt["weights.norm.weight"], loops[0].learnt["weights.norm.weight"][rows])


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("outer", UNSAMPLED)
def test_a_context_is_adapted_from_its_fixed_value(outer: str, chunk: int | None) -> None:
    """CAVIA: the buffer alone is fast, every parameter is slow, and the buffer stays what it is."""
    model, tasks = Normed(), random_tasks(3)
    loop = InnerLoop(model, LOSS, SGD(RATE), ["context"], STEPS)
    assert loop.fast_names == ["context"]
    slow = {name: model.get_parameter(name) for name in loop.slow_names}
    assert slow.keys() == dict(model.named_parameters()).keys()
    start = {"context": torch.zeros(2, requires_grad=True)}
    value, ends = by_hand(model, tasks, ["context"], {**slow, **start}, {}, STEPS, UNSAMPLED[outer].hop is nothing)
    parts = torch.autograd.grad(value, list(slow.values()), materialize_grads=True)
    found = MetaGradientOf(loop, UNSAMPLED[outer].make(), STEPS, chunk)(tasks)
    true = {f"model.{n}": g for n, g in zip(slow, parts, strict=True)}
    assert relative(found.gradients, true) < UNSAMPLED[outer].rounding
    assert not model.context.any()
    *_, end = loop.path(tasks, STEPS)
    torch.testing.assert_close(end["context"], torch.stack([theta["context"].detach() for theta in ends]))
    assert end["context"].all()


@pytest.mark.parametrize("outer_gradient", [SecondOrder(), FiniteDifference()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("fast", [["context"], ["context", "head.*"]], ids=str)
def test_a_context_stands_the_trial_of_the_first_batch(fast: list[str], outer_gradient: OuterGradient) -> None:
    model, tasks = Normed(), random_tasks(3)
    try_first_batch(InnerLoop(model, LOSS, SGD(RATE), fast, STEPS), tasks, outer_gradient)
    assert not model.context.any()
    assert not model.context.requires_grad


class ReadTwice(nn.Module):
    """Two layers, each with the same buffer added to its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 1), nn.Linear(1, 1)
        self.context = torch.full((1,), 0.3)
        for layer in (self.first, self.last):
            layer.register_buffer("context", self.context)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.last):
            x = torch.tanh(layer(x + layer.get_buffer("context")))
        return x


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_buffer_in_two_places_is_adapted_in_both(chunk: int | None) -> None:
    model, tasks = ReadTwice(), random_tasks(3)
    loop = InnerLoop(model, LOSS, SGD(RATE), ["first.context"], STEPS)
    slow = dict(model.named_parameters())
    start = {"first.context": model.context.clone().requires_grad_()}  # torch puts it in both places
    value, _ = by_hand(model, tasks, [*start], {**slow, **start}, {}, STEPS)
    parts = torch.autograd.grad(value, list(slow.values()))
    found = MetaGradientOf(loop, SecondOrder(), STEPS, chunk)(tasks)
    assert relative(found.gradients, {f"model.{n}": g for n, g in zip(slow, parts, strict=True)}) < 1e-9


def test_frozen_weights_are_neither_adapted_nor_trained() -> None:
    model, tasks = Normed(), random_tasks(3)
    loop = InnerLoop(model, LOSS, SGD(RATE), ["head.*"], STEPS, frozen_weights=["body.*", "norm.weight"])
    assert (loop.fast_names, loop.slow_names) == (["head.weight", "head.bias"], ["norm.bias"])
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    assert found.gradients.keys() == {"model.head.weight", "model.head.bias", "model.norm.bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frozen_weights": ["tail.*"]}, r"frozen_weights: 'tail.\*' fits none of the model's trainable parameters"),
        ({"per_step_weights": ["tail"]}, "per_step_weights: 'tail' fits none of the model's trainable parameters"),
        ({"frozen_weights": ["*"]}, "model: none of its parameters is trainable"),
        ({"frozen_weights": ["norm.*"], "per_step_weights": ["norm.*"]}, "per_step_weights: .* fits none"),
    ],
)
def test_refusals(arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InnerLoop(Normed(), LOSS, SGD(RATE), ["*"], STEPS, **arguments)  # type: ignore[arg-type]
