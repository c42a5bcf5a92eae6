"""What a compiled program keeps of elsewhere than its arguments: found changed, refused, or compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bodies import Body, Forward, loop_of
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from litmaml.engine import compiler
from litmaml.engine.float32 import set_float32_precision
from litmaml.engine.watched import Watched
from litmaml.inner import SGD
from litmaml.outer import FirstOrder
from litmaml.outer.meta_gradient import MetaGradientOf

# torch's compiler imports what its own torch.jit deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def compiled(model: nn.Module) -> tuple[MetaGradientOf, MetaGradientOf]:
    """Of one inner loop, compiled and not."""
    loop = loop_of(model)
    return MetaGradientOf(loop, FirstOrder(), 1, compile=True), MetaGradientOf(loop, FirstOrder(), 1)


def same(both: tuple[MetaGradientOf, MetaGradientOf], seed: int) -> bool:
    torch.manual_seed(seed)
    tasks = random_tasks(2)
    found, true = (meta_gradient(tasks).gradients for meta_gradient in both)
    return relative(found, true) < 1e-10


# Attributes and buffers: each is made with a 1 in it, and then changed to 3.

GLOBAL = SimpleNamespace(tau=1.0)


def attribute(model: Body) -> None:
    model.tau = 1.0


def attribute_to(model: Body) -> None:
    model.tau = 3.0


def in_a_list(model: Body) -> None:
    model.tau = [1.0]


def in_a_list_to(model: Body) -> None:
    model.tau[0] = 3.0


def in_an_object(model: Body) -> None:
    model.tau = SimpleNamespace(tau=1.0)


def in_an_object_to(model: Body) -> None:
    model.tau.tau = 3.0


def buffer(model: Body) -> None:
    model.register_buffer("tau", torch.ones(()))


def buffer_in_place(model: Body) -> None:
    model.tau.fill_(3)


def buffer_replaced(model: Body) -> None:
    model.tau = torch.full((), 3.0)


def frozen(model: Body) -> None:
    model.tau = nn.Parameter(torch.ones(()), requires_grad=False)


def frozen_replaced(model: Body) -> None:
    model.tau = nn.Parameter(torch.full((), 3.0), requires_grad=False)


def number(tau: Any) -> Any:
    """What the forward pass makes of any of these."""
    return tau[0] if isinstance(tau, list) else getattr(tau, "tau", tau)


CHANGES: list[Any] = [
    pytest.param(attribute, attribute_to, number, "model.tau", marks=pytest.mark.slow),
    pytest.param(buffer, buffer_in_place, number, None, marks=pytest.mark.slow),
    (buffer, buffer_in_place, float, "a buffer, as a number,"),
]


@pytest.mark.parametrize(("make", "change", "read", "name"), CHANGES)
def test_what_changes_between_calls(
    make: Callable[[Body], None],
    change: Callable[[Body], None],
    read: Callable[[Any], Any],
    name: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Body(lambda self, x: self.last(torch.tanh(self.first(x)) * read(self.tau)))
    make(model)
    both = compiled(model)
    assert all(same(both, seed) for seed in range(3))
    assert len(both[0].compiled.programs) == 1
    (program,) = both[0].compiled.programs.values()
    change(model)
    with caplog.at_level(logging.WARNING):
        assert same(both, 5)
    (now,) = both[0].compiled.programs.values()
    assert (now is program) == (name is None)
    if name:
        assert f"since {name} has changed" in caplog.text
    assert same(both, 6)
    assert [*both[0].compiled.programs.values()] == [now]


def test_a_precision_that_changes() -> None:
    """On a GPU a program, and the graph of it, keeps the kernels that were chosen while it was compiled."""
    both = compiled(Body(lambda self, x: self.last(torch.tanh(self.first(x)))))
    set_float32_precision("highest")  # also of convolutions, which torch lets round until it is told
    assert same(both, 0)
    try:
        set_float32_precision("high")
        assert same(both, 1)
        assert len(both[0].compiled.programs) == 2
    finally:
        set_float32_precision("highest")
    assert same(both, 2)
    assert len(both[0].compiled.programs) == 2


def test_an_inner_rate_that_changes() -> None:
    both = compiled(Body(Body.plain))
    assert same(both, 0)
    both[0].inner_loop.optimizer = SGD(0.3)
    assert same(both, 1)


WATCHED: list[Any] = [
    (attribute, attribute_to, "tau"),
    (in_a_list, in_a_list_to, "tau.0"),
    (in_an_object, in_an_object_to, "tau.tau"),
    (buffer, buffer_in_place, ""),
    (buffer, buffer_replaced, "tau"),
    (frozen, frozen_replaced, "tau"),
    (attribute, lambda model: setattr(model, "tau", 1), "tau"),
    (attribute, lambda model: setattr(model, "tau", float("1.0")), ""),
    (attribute, lambda model: setattr(model, "other", 1), ""),
    (attribute, lambda model: setattr(model, "first", nn.Linear(1, 4)), "first"),
    (attribute, lambda model: model.first.register_forward_hook(print), "first"),
    (attribute, lambda model: model.last.eval(), "last.training"),
]


@pytest.mark.parametrize(("make", "change", "name"), WATCHED)
def test_what_is_watched(make: Callable[[Body], None], change: Callable[[Body], Any], name: str) -> None:
    model = Body(Body.plain)
    make(model)
    model.other = 0
    before = Watched(model)
    model.other = 1  # by itself
    watched = Watched(model, before)
    change(model)
    assert watched.changed() == name
    assert before.changed() != ""


def test_a_closure_is_watched() -> None:
    scale = 1.0

    def scaled(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return output * scale

    model = Body(Body.plain)
    model.first.register_forward_hook(scaled)
    watched = Watched(model)
    assert watched.changed() == ""
    scale = 3.0
    assert watched.changed() != ""


def test_what_a_forward_pass_changes_by_itself_is_compiled_once() -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        self.calls += 1
        self.hidden = self.features["first"] = torch.tanh(self.first(x))
        self.seen.append(len(x))
        return self.last(self.hidden)

    model = Body(forward, calls=0, hidden=None, features={}, seen=[])
    both = compiled(model)
    assert same(both, 0)
    programs = [*both[0].compiled.programs.values()]
    assert all(same(both, seed) for seed in range(1, 6))
    model.calls, model.hidden = 100, None
    assert same(both, 6)
    assert [*both[0].compiled.programs.values()] == programs


def test_a_global_that_changes_is_found_before_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls 2, 3, 5, 9 and so on are compared."""
    both = compiled(Body(lambda self, x: self.plain(x) * GLOBAL.tau))
    assert all(same(both, seed) for seed in range(3))
    monkeypatch.setattr(GLOBAL, "tau", 3.0)
    assert not same(both, 3)
    with pytest.raises(ValueError, match=r"compile: on other numbers .* what has changed since \(a global"):
        same(both, 4)


# Numbers out of tensors

OF_DATA: list[Any] = [
    pytest.param(lambda x: float(x.detach().numpy().mean()), id="numpy"),
    pytest.param(lambda x: x.tolist()[0][0], id="tolist"),
    pytest.param(lambda x: float(np.asarray(x.detach()).mean()), id="asarray"),
    pytest.param(lambda x: float(np.from_dlpack(x.detach()).mean()), id="dlpack"),
    pytest.param(lambda x: x.sum().item(), id="item"),
    pytest.param(lambda x: 2 if x.sum() > 0 else 1, id="branch"),
    pytest.param(lambda x: torch.rand(2).tolist()[0], id="drawn"),
    pytest.param(lambda x: (1 + torch.relu(x)).mean(0).tolist()[0], id="computed"),
]


def by(read: Callable[[Tensor], Any]) -> Forward:
    return lambda self, x: self.plain(x) * read(x)


@pytest.mark.parametrize("read", OF_DATA)
def test_numbers_out_of_data_are_refused(read: Callable[[Tensor], Any]) -> None:
    both = compiled(Body(by(read)))
    both[0].inner_loop.mapped = False
    with pytest.raises(
        ValueError, match=r"compile: the model cannot be compiled \(its forward .* by \w+, .*; set comp"
    ):
        same(both, 0)


@pytest.mark.slow
def test_numbers_out_of_constants_pass() -> None:
    def constant(x: Tensor) -> float:
        squares = torch.linspace(0, 1, 5).square().numpy()
        return sum(torch.arange(3).tolist()) + torch.tensor(3.0).item() + float(squares.mean()) + x.shape[1]

    both = compiled(Body(by(constant)))
    both[0].inner_loop.mapped = False
    assert all(same(both, seed) for seed in range(2))


# torch's cache on the disk


@pytest.mark.slow  # it compiles three times
def test_the_same_program_is_compiled_once_and_another_constant_is_another_program() -> None:
    """Also across runs: torch keeps programs on the disk, by what stands in them."""
    from torch._dynamo.utils import counters

    def model(number: float, size: int) -> Body:
        table = torch.full((size,), number)  # one that the trace keeps, since a closure is no argument
        return Body(lambda self, x: self.plain(x) * table.mean())

    assert same(compiled(model(math.pi, 3000)), 0)
    before = counters["inductor"]["fxgraph_cache_hit"]
    assert same(compiled(model(math.pi, 3000)), 1)
    assert counters["inductor"]["fxgraph_cache_hit"] == before + 1
    assert same(compiled(model(math.e, 3000)), 1)


def test_what_the_compiler_asks_of_a_cpu_is_found_out_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread in which nothing is raised: so its trace is found in what torch has kept."""
    from torch._inductor import codecache, cpu_vec_isa

    compiler._ready.cache_clear()
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    loaded: list[object] = []
    load = codecache.CppPythonBindingsCodeCache.load_pybinding
    monkeypatch.setattr(
        codecache.CppPythonBindingsCodeCache, "load_pybinding", lambda *given: loaded.append(load(*given))
    )
    compiler.make_ready(torch.device("cpu"))
    compiler._ready().join()
    assert [callable(kernel) for kernel in loaded] == [True]
    assert cpu_vec_isa.valid_vec_isa_list.cache_info().currsize == 1


@pytest.mark.parametrize(("size", "inside"), [(8, 1), (2**17, 2)])
def test_a_trace_of_small_tensors_has_one_thread(size: int, inside: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with compiler.quick_trace([torch.ones(size)]):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_trace_makes_few_modes_of_fake_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one for each operation, with a stack trace, which takes half of the time of a trace."""
    made: list[FakeTensorMode] = []
    begin = FakeTensorMode.__init__

    def counted(mode: FakeTensorMode, *given: Any, **more: Any) -> None:
        made.append(mode)
        begin(mode, *given, **more)

    monkeypatch.setattr(FakeTensorMode, "__init__", counted)
    assert same(compiled(Body(lambda self, x: self.plain(x).tanh().exp())), 0)
    assert 1 <= len(made) < 10
