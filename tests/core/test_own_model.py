"""What only the learner's own model shows: references that no copy follows, hooks, shared memory, ranges of weights."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from bodies import Body, Forward, WrongSine, loop_of, tried
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn import functional

from cases import OUTER, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.model_checks import check_model
from litmaml.learner.trial.model_copy import copy_of
from litmaml.learner.trial.own_model import as_it_was, check_own_model
from litmaml.outer import FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

GLOBAL: dict[str, Any] = {}


def by(layer: Callable[[Body, Tensor], Tensor]) -> Forward:
    return lambda self, x: self.last(torch.tanh(layer(self, x)))


# References


def closed_over(model: Body) -> Forward:
    weight = model.first.weight
    return by(lambda self, x: functional.linear(x, weight, self.first.bias))


def weakly(model: Body) -> Forward:
    reference = weakref.ref(model.first.weight)
    return by(lambda self, x: functional.linear(x, cast(Tensor, reference()), self.first.bias))


def globally(model: Body) -> Forward:
    GLOBAL["weight"] = model.first.weight
    return by(lambda self, x: functional.linear(x, GLOBAL["weight"], self.first.bias))


def by_default(model: Body) -> Forward:
    def forward(self: Body, x: Tensor, weight: Tensor = model.first.weight) -> Tensor:
        return self.last(torch.tanh(functional.linear(x, weight, self.first.bias)))

    return forward


def by_view(model: Body) -> Forward:
    model.seen = model.first.weight.detach()
    return by(lambda self, x: functional.linear(x, self.first.weight + 0.5 * self.seen, self.first.bias))


@pytest.mark.parametrize("outer_gradient", made(OUTER))
@pytest.mark.parametrize("reference", [closed_over, weakly, globally, by_default, by_view])
def test_a_weight_that_is_held_elsewhere(reference: Callable[[Body], Forward], outer_gradient: OuterGradient) -> None:
    model = Body(Body.plain)
    model.own = reference(model)
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(ValueError, match=r"model: .* furthest off is the gradient by .* second reference"):
        tried(model, outer_gradient)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("reference", [closed_over, weakly, globally, by_default, by_view])
def test_a_weight_with_rows_that_is_held_elsewhere(reference: Callable[[Body], Forward]) -> None:
    """Its rows would be trained, and none of them ever be taken."""
    model = Body(Body.plain)
    model.own = reference(model)
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 2, (), ["first.weight"])
    before = {name: weight.detach().clone() for name, weight in loop.named_parameters()}
    with pytest.raises(ValueError, match=r"model: .* furthest off is the gradient by .* second reference"):
        try_first_batch(loop, random_tasks(), FirstOrder())
    assert all(torch.equal(before[name], weight) for name, weight in loop.named_parameters())
    assert not model.first.weight.requires_grad


def by_identity(weight: Tensor) -> Any:
    return id(weight), weight._version


def by_address(weight: Tensor) -> Any:
    mapped = torch._C._functorch.is_functorch_wrapped_tensor(weight)
    return id(weight) if mapped else weight.data_ptr(), weight._version


@pytest.mark.parametrize("outer_gradient", made(OUTER))
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("key", [by_identity, by_address])
def test_what_is_kept_of_a_weight_under_its_identity(
    key: Callable[[Tensor], Any], constant: bool, outer_gradient: OuterGradient
) -> None:
    """Later inner steps' weights stand where freed ones stood: by chance, but here for certain."""

    def forward(self: Body, x: Tensor) -> Tensor:
        weight = self.first.weight
        if self.kept is None or self.kept[0] != key(weight):
            self.kept = key(weight), (weight.detach() if constant else weight).norm()
        return self.plain(x) / self.kept[1]

    with pytest.raises(ValueError, match=r"model: it uses what it keeps of a weight under its id, address or version"):
        tried(Body(forward, kept=None), outer_gradient)


def over_itself(model: Body) -> Forward:
    return lambda _, x: model.last(torch.tanh(model.first(x)))


def over_a_module(model: Body) -> Forward:
    first = functools.partial(lambda layer, x: layer(x), model.first)
    return lambda self, x: self.last(torch.tanh(first(x)))


def over_a_global_module(model: Body) -> Forward:
    GLOBAL["layer"] = model.first
    return by(lambda self, x: GLOBAL["layer"](x))


def by_a_feature_hook(model: Body) -> Forward:
    features: dict[str, Tensor] = {}
    model.first.register_forward_hook(lambda module, inputs, output: features.__setitem__("first", output))

    def forward(self: Body, x: Tensor) -> Tensor:
        self.first(x)
        return self.last(torch.tanh(features["first"]))

    return forward


HONEST = [over_itself, over_a_module, over_a_global_module, by_a_feature_hook]


@pytest.mark.parametrize("reference", HONEST)
def test_modules_that_are_held_elsewhere_are_right(reference: Callable[[Body], Forward]) -> None:
    model, tasks = Body(Body.plain), random_tasks(3)
    true = MetaGradientOf(loop_of(model), SecondOrder(), 2)(tasks).gradients
    model.own = reference(model)
    loop, _ = tried(model)
    assert relative(MetaGradientOf(loop, SecondOrder(), 2)(tasks).gradients, true) < 1e-12
    try_first_batch(loop, tasks, SecondOrder())  # also after a pass has left its features in the hook's dictionary


@pytest.mark.parametrize("reference", [over_itself, over_a_module, by_a_feature_hook])
def test_a_copy_computes_with_its_own_weights(reference: Callable[[Body], Forward]) -> None:
    model, x = Body(Body.plain), torch.randn(3, 1)
    model.own = reference(model)
    model(x)
    copied = copy_of(model)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(2)
        before = model(x)
        torch.testing.assert_close(copied(x), Body.plain(copied, x))
        torch.testing.assert_close(model(x), before)
        assert not torch.allclose(copied(x), before)


def test_functions_with_a_common_variable_have_it_in_common_in_a_copy() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            calls: list[int] = []
            self.add, self.count = lambda: calls.append(1), lambda: len(calls)

    original = Counts()
    original.add()
    copied = copy_of(original)
    copied.add()
    assert (original.count(), copied.count()) == (1, 2)


def test_a_teacher_and_plain_functions_are_not_copied() -> None:
    teacher, model = nn.Linear(1, 1).requires_grad_(False), Body(Body.plain)
    model.own = lambda self, x: self.plain(x) + teacher(x)
    model.pool = functional.max_pool2d  # a closure over functions and numbers
    copied = copy_of(model)
    assert copied.pool is functional.max_pool2d
    assert teacher in {cell.cell_contents for cell in copied.own.__closure__ or ()}


def test_a_second_derivative_behind_a_closure() -> None:
    model = Body(Body.plain)
    model.own = lambda _, x: model.last(WrongSine.apply(model.first(x)))
    with pytest.raises(ValueError, match=r"model: an exact Hessian product"):
        tried(model)


# Nothing is left behind


def test_everything_is_put_back() -> None:
    class Keeps(nn.Module):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls, self.seen, self.table = nn.Linear(1, 1), 0, [0], {"a": 1}
            self.register_buffer("mean", torch.zeros(1))

    model = Keeps()
    weight, mean = model.layer.weight, model.mean
    bits = weight.detach().clone()
    with as_it_was(model):
        model.calls, model.layer = 3, nn.Linear(2, 2)
        model.seen.append(1)
        model.table.clear()
        weight.requires_grad_(False).mul_(2)
        mean.add_(1)
        model.mean = torch.ones(1)
    assert (model.calls, model.seen, model.table) == (0, [0], {"a": 1})
    assert model.layer.weight is weight
    assert weight.requires_grad
    assert torch.equal(weight, bits)
    assert model.mean is mean
    assert float(mean) == 0


def test_the_two_ways_of_an_honest_model_are_the_same() -> None:
    """Bit for bit, so that the tolerance need not tell rounding from faults."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(), nn.Linear(4, 1))
    batch = random_tasks(2).support[0]
    loop = loop_of(model.float())
    assert check_own_model(loop, Batch(batch.inputs.float(), batch.targets.float())) == 0.03


@pytest.mark.parametrize("share", [1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4)])
def test_a_second_reference_of_little_weight_in_float32(norm: nn.Module, share: float) -> None:
    """The gradient by a bias before batch norm is all rounding, and has to pass."""

    def forward(self: Body, x: Tensor) -> Tensor:
        scale = GLOBAL.get("scale", self.scale)
        return self.last(torch.tanh(norm(self.first(x)))) + share * scale.sin().sum() * x

    GLOBAL.clear()
    model = Body(forward, norm=norm, scale=nn.Parameter(torch.full((8,), 0.5))).float()
    batch = Batch(torch.randn(2, 5, 1).float(), torch.randn(2, 5, 1).float())
    tasks = Tasks((batch,), batch, torch.arange(2))
    assert try_first_batch(loop_of(model), tasks, SecondOrder()) == []
    GLOBAL["scale"] = model.scale
    with pytest.raises(ValueError, match=r"model: .* furthest off is the gradient by scale: .* second reference"):
        try_first_batch(loop_of(model), tasks, SecondOrder())


# What cannot be copied


class Refuses(Body):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("not to be copied")


class Guarded:
    """Holds a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def locked(self: Body, x: Tensor) -> Tensor:
    with getattr(self.guard, "lock", self.guard):
        return functional.linear(torch.tanh(self.first(x)), GLOBAL.get("last", self.last.weight), self.last.bias)


@pytest.mark.parametrize("guard", [threading.Lock, Guarded])
@pytest.mark.parametrize("held", [lambda guard: {"guard": guard}, lambda guard: {"guard": guard, "all": [guard]}])
def test_a_model_with_a_lock_is_tried_as_any_other(guard: Any, held: Callable[[Any], dict[str, Any]]) -> None:
    GLOBAL.clear()
    model = Body(locked, **held(guard()))
    assert tried(model)[1] == []
    assert copy_of(model).guard is model.guard
    GLOBAL["last"] = model.last.weight
    with pytest.raises(ValueError, match=r"furthest off is the gradient by last.weight.* second reference"):
        tried(model)
    model.own, model.last = (lambda self, x: self.plain(x) * torch.rand(())), nn.Linear(4, 1)
    assert tried(model)[0].draws


def test_a_model_that_refuses_to_be_copied() -> None:
    GLOBAL.clear()
    model = Refuses(locked, guard=threading.Lock())
    (remark,) = tried(model)[1]
    assert "it cannot be copied (not to be copied), so that only its gradient was tried" in remark
    GLOBAL["last"] = model.last.weight
    with pytest.raises(ValueError, match=r"furthest off is the gradient by last.weight.* second reference"):
        tried(model)


# Hooks on parameters


@pytest.mark.parametrize(
    "hook",
    [
        lambda g: g * (torch.arange(4)[:, None] % 2),
        lambda g: g.clamp(-1, 1),
        lambda g: g.zero_(),
        lambda g: torch.where(g.abs() < 0.1, 0, g),
        lambda g: g * max(1.0, 50 / float(g.norm())),
    ],
)
def test_a_hook_that_changes_the_outer_gradient_alone(hook: Callable[[Tensor], Tensor]) -> None:
    model = Body(Body.plain)
    handle = model.first.weight.register_hook(hook)
    with pytest.raises(ValueError, match=r"model: first.weight has a hook \(register_hook\).*; take it off"):
        tried(model)
    handle.remove()
    tried(model)


def test_a_hook_after_accumulation() -> None:
    model = Body(Body.plain)
    model.first.weight.register_post_accumulate_grad_hook(lambda weight: None)
    with pytest.raises(ValueError, match=r"model: first.weight has a hook \(register_post_accumulate_grad_hook\)"):
        tried(model)


def test_a_hook_that_only_looks_passes() -> None:
    model, seen = Body(Body.plain), []
    model.first.weight.register_hook(lambda g: seen.append(g.norm()))
    model.last.register_full_backward_hook(lambda module, given, taken: None)
    tried(model)
    assert seen


# Memory


def split(model: Body) -> None:
    both = torch.randn(4, 2)
    model.first.weight, model.other = nn.Parameter(both[:, :1]), nn.Parameter(both[:, 1:])


def interleaved(model: Body) -> None:
    both = torch.randn(8)
    model.first.bias, model.other = nn.Parameter(both[::2]), nn.Parameter(both[1::2])


def tied(model: Body) -> None:
    model.other = model.first.weight


def frozen(model: Body) -> None:
    model.other = nn.Parameter(model.first.weight.data, requires_grad=False)
    model.first.weight.requires_grad_(False)


def lazy(model: Body) -> None:
    model.other, model.more = nn.LazyLinear(2), nn.LazyLinear(2)


@pytest.mark.parametrize("made", [split, interleaved, tied, frozen, lazy])
def test_parts_of_one_memory_that_do_not_meet_pass(made: Callable[[Body], None]) -> None:
    model = Body(Body.plain)
    made(model)
    check_model(model, SecondOrder())


def transposed(model: Body) -> None:
    model.other = nn.Parameter(model.first.weight.data.t())


def by_data(model: Body) -> None:
    model.other = nn.Parameter(torch.zeros(4, 1))
    model.other.data = model.first.weight.data


def part(model: Body) -> None:
    model.other = nn.Parameter(model.first.weight.data[2:])


def buffered(model: Body) -> None:
    model.register_buffer("other", model.first.weight.detach())


def flat(model: Body) -> None:
    model.other = nn.Parameter(torch.randn(8))
    model.first.bias.data = model.other.data[::2]


@pytest.mark.parametrize("made", [transposed, by_data, part, buffered, flat])
def test_weights_that_share_their_memory(made: Callable[[Body], None]) -> None:
    model = Body(Body.plain)
    made(model)
    with pytest.raises(ValueError, match=r"model: .* and .*share their memory.*; tie weights by the parameter"):
        check_model(model, SecondOrder())


# Ranges


def probability(self: Body, x: Tensor) -> Tensor:
    return self.plain(x) + torch.distributions.Bernoulli(probs=self.other).log_prob(torch.ones(()))


def covariance(self: Body, x: Tensor) -> Tensor:
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), self.other)
    return self.plain(x) + 1e-2 * normal.log_prob(x.expand(-1, 2))[:, None]


def index(self: Body, x: Tensor) -> Tensor:
    return self.plain(x) * torch.tensor([1.0, 2.0, 3.0])[int(self.other)]


def root(self: Body, x: Tensor) -> Tensor:
    return self.plain(x) * (1 - self.other.square()).sqrt()  # not a number beyond 1


@pytest.mark.parametrize(
    ("forward", "weight"),
    [
        (probability, torch.tensor(0.995)),
        (covariance, torch.tensor([[0.5, 0.1], [0.1, 0.5]])),
        (index, torch.tensor(2.999)),
        (root, torch.tensor(0.999)),
    ],
)
def test_weights_with_a_range(forward: Forward, weight: Tensor) -> None:
    model = Body(forward, other=nn.Parameter(weight))
    tried(model)
    model.kept = [model.other]
    model.own = lambda self, x: self.plain(x) * self.kept[0].sum()
    with pytest.raises(ValueError, match="second reference"):
        tried(model)


# Batches of one size


class Rows(nn.Module):
    """A loss over batches of five rows."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        errors = (predictions - targets).view(5, -1)
        return errors.square().mean() + errors.mean(1).square().mean()


def asserts(self: Body, x: Tensor) -> Tensor:
    if len(x) != 10:
        raise KeyError(len(x))
    return self.plain(x)


def reshapes(self: Body, x: Tensor) -> Tensor:
    return self.plain(x) - self.plain(x.reshape(5, -1, 1)).mean()


@pytest.mark.parametrize(("forward", "loss"), [(asserts, None), (reshapes, None), (Body.plain, Rows())])
def test_batches_of_one_size(forward: Forward, loss: nn.Module | None) -> None:
    batch = Batch(torch.randn(3, 10, 1), torch.randn(3, 10, 1))
    tasks = Tasks((batch,), batch, torch.arange(3))
    model = Body(forward)
    loop = loop_of(model, loss=loss)
    try_first_batch(loop, tasks, SecondOrder())
    model.own = lambda self, x: forward(self, x) * self.scales[0]
    model.scale = nn.Parameter(torch.ones(1))
    model.scales = [model.scale]
    with pytest.raises(ValueError, match="second reference"):
        try_first_batch(loop_of(model, loss=loss), tasks, SecondOrder())


# Frozen and unfrozen


def test_weights_that_are_frozen_or_unfrozen_later() -> None:
    model, tasks = Body(Body.plain), random_tasks(3)
    model.first.requires_grad_(False)
    for row in OUTER.values():
        loop = loop_of(model)
        gradient = MetaGradientOf(loop, row.make(), 2)
        gradient(tasks)
        model.first.requires_grad_(True)
        with pytest.raises(ValueError, match=r"model: first.bias, first.weight are trainable only now"):
            gradient(tasks)
        model.first.requires_grad_(False)
        model.last.bias.requires_grad_(False)
        with pytest.raises(
            ValueError, match=r"model: last.bias is no longer trainable.*; freeze or unfreeze the model"
        ):
            gradient(tasks)
        model.last.bias.requires_grad_(True)
        gradient(tasks)


def test_one_is_frozen_and_another_unfrozen() -> None:
    """As many are trainable as before."""
    model = Body(Body.plain)
    model.first.bias.requires_grad_(False)
    loop: InnerLoop = loop_of(model)
    model.first.bias.requires_grad_(True)
    model.last.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"last.bias is no longer trainable"):
        MetaGradientOf(loop, SecondOrder(), 2)(random_tasks(3))
