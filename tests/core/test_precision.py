"""Single precision, mixed precision and compiled meta-gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import Tiny, random_tasks, relative
from torch import Tensor, nn

from cases import ONCE, OUTER, Smoothing, made
from litmaml.inner import SGD, Adam, HigherOptimizer, InnerOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.models import MLP
from litmaml.outer import FiniteDifference, FirstOrder, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradient, MetaGradientOf
from litmaml.randomness import Streams, normal_directions
from litmaml.tasks import Batch, Tasks, map_batches
from litmaml.weights import Params

STEPS = 2
# Differences over longer smoothings than the default round less in single precision.
SMOOTHING: Smoothing = {GaussianSmoothing: 3e-3, ZerothOrder: 3e-2}


def single(tasks: Tasks) -> Tasks:
    def pick(batch: Batch) -> Batch:
        return Batch(batch.inputs.float(), batch.targets.float())

    return tasks._replace(support=tuple(map(pick, tasks.support)), query=pick(tasks.query))


def meta_gradient(model: nn.Module, method: OuterGradient, tasks: Tasks, **options: Any) -> MetaGradient:
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], STEPS)
    return MetaGradientOf(loop, method, STEPS, **options)(tasks)


def double(gradients: Params) -> Params:
    return {name: gradient.double() for name, gradient in gradients.items()}


def in_double(like: Params, count: int, streams: Streams, steps: int) -> tuple[Params, ...]:
    """In place of the core's draws: the same directions in single and in double precision."""
    drawn = normal_directions(double(like), count, streams, steps)
    return tuple({name: part.to(like[name]) for name, part in step.items()} for step in drawn)


@pytest.mark.parametrize("name", OUTER)
def test_single_precision_agrees_with_double(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = OUTER[name].make(20, SMOOTHING)
    model, tasks = MLP(hidden=(8, 8)), random_tasks(targets=lambda x: torch.sin(2 * x))
    monkeypatch.setattr("litmaml.outer.estimators.normal_directions", in_double)
    true = meta_gradient(model, method, tasks).gradients
    found = meta_gradient(model.float(), method, single(tasks)).gradients
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert relative(double(found), true) < OUTER[name].single


# The default smoothing is the harder one.
@pytest.mark.parametrize("method", made(OUTER, samples=20))
def test_mixed_precision_leaves_the_probes_alone(method: OuterGradient) -> None:
    """Under autocast to bfloat16 everything is as exact as bfloat16, the sampled ones in the same directions."""
    model, tasks = MLP(hidden=(16, 16)).float(), single(random_tasks(4, targets=lambda x: torch.sin(2 * x)))
    true = meta_gradient(model, method, tasks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = meta_gradient(model, method, tasks)
    assert all(gradient.dtype == torch.float32 for gradient in found.gradients.values())
    assert 1e-4 < relative(found.gradients, true.gradients) < 0.03


class Noted(nn.Module):
    """A network that notes what each of its forward passes computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.dtypes = MLP(hidden=(8,)).float(), list[torch.dtype]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.network(x)
        self.dtypes.append(y.dtype)
        return y


@pytest.mark.parametrize("name", OUTER)
def test_only_probes_leave_mixed_precision(name: str) -> None:
    """The inner path and the query are computed in bfloat16, a step that is recomputed as it was, every probe in
    float32: losses and gradients, ahead, behind and at the centre."""
    model, method = Noted(), OUTER[name].make(20, SMOOTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        meta_gradient(model, method, single(random_tasks(1)))  # vmap adds biases outside of autocast
    forward, backward = model.dtypes[: STEPS + 1], model.dtypes[STEPS + 1 :]
    assert set(forward) == {torch.bfloat16}
    assert set(backward) <= {torch.float32 if method.probes else torch.bfloat16}
    assert bool(backward) is OUTER[name].repeats


@pytest.mark.parametrize("method", made(OUTER, 20, SMOOTHING))
def test_the_casts_that_autocast_keeps_are_never_those_of_other_weights(method: OuterGradient) -> None:
    """By default it keeps the cast of a leaf until it is left: over inner steps, probes, chunks, and here two calls
    between which the weights change."""
    found = []
    for keep in (True, False):
        torch.manual_seed(0)
        model, tasks = MLP(hidden=(8,)).float(), single(random_tasks(4))
        loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], STEPS)
        of = MetaGradientOf(loop, method, STEPS, tasks_per_chunk=2)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=keep):
            first = of(tasks).gradients
            with torch.no_grad():
                loop.predict(loop.shared_start(4)[0], tasks.query.inputs)
                for weight_name, weight in loop.named_parameters():
                    weight.sub_(0.1 * first[weight_name])
            found.append(of(tasks).gradients)
    assert relative(found[0], found[1]) == 0
    assert relative(found[0], first) > 1e-3


@pytest.mark.parametrize("autocast", [False, True])
def test_integer_inputs(autocast: bool) -> None:
    """Whole numbers stay what they are in every precision."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3))
    batch = Batch(torch.randint(7, (2, 5, 3)), torch.randint(3, (2, 5)))
    tasks = Tasks((batch,), batch, torch.arange(2))

    def gradients(model: nn.Module) -> Params:
        loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.1), ["*"], STEPS)
        return double(MetaGradientOf(loop, SecondOrder(), STEPS)(tasks).gradients)

    true = gradients(model.double())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert relative(gradients(model.float()), true) < (0.03 if autocast else 1e-5)


# torch's compiler imports what its own torch.jit deprecates.
compiles = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


@compiles
@pytest.mark.parametrize(
    ("method", "inner"),
    [
        (SecondOrder(), SGD(0.1, momentum=0.5, learn="tensor")),
        pytest.param(FiniteDifference(), SGD(0.1, momentum=0.5, learn="tensor"), marks=pytest.mark.slow),
        pytest.param(SecondOrder(), Adam(0.1, eps=1e-3, learn="tensor"), marks=pytest.mark.slow),
    ],
    ids=["SecondOrder", "FiniteDifference", "Adam"],
)
def test_compiled_is_eager(method: OuterGradient, inner: InnerOptimizer) -> None:
    """In double precision, with learnt rates, for a model whose weights change between two calls."""
    model, tasks = Tiny(), random_tasks(2)
    loop = InnerLoop(model, nn.MSELoss(), inner, ["*"], 1)
    compiled, eager = MetaGradientOf(loop, method, 1, compile=True), MetaGradientOf(loop, method, 1)
    for _ in range(2):
        found, true = compiled(tasks), eager(tasks)
        assert relative(found.gradients, true.gradients) < (1e-10 if isinstance(method, SecondOrder) else 1e-7)
        torch.testing.assert_close(found.losses, true.losses)
        torch.testing.assert_close(found.predictions, true.predictions)
        with torch.no_grad():
            for weight in loop.parameters():
                weight.add_(0.1 * torch.rand_like(weight))
    assert len(compiled.compiled.programs) == 1


@pytest.mark.slow
@compiles
def test_compiled_programs_are_kept_apart() -> None:
    """The compiler's guards are left out: other sizes and other methods must not be given each other's program."""
    pairs: list[tuple[InnerLoop, OuterGradient]] = [
        (InnerLoop(Tiny(), nn.MSELoss(), SGD(rate), ["*"], 1), method)
        for method, rate in ((SecondOrder(), 0.1), (FirstOrder(), 0.5))
    ]
    compiled = [MetaGradientOf(*pair, 1, compile=True) for pair in pairs]
    for size in (2, 3, 2):
        tasks = random_tasks(size)
        for pair, program in zip(pairs, compiled, strict=True):
            assert relative(program(tasks).gradients, MetaGradientOf(*pair, 1)(tasks).gradients) < 1e-10
    assert [len(program.compiled.programs) for program in compiled] == [2, 2]


@pytest.mark.slow
@compiles
def test_compiled_draws_are_those_of_the_tasks() -> None:
    """The call that compiles draws what later ones draw, or a resumed run would be another."""
    loop = InnerLoop(Tiny(), nn.MSELoss(), SGD(0.1), ["*"], 1)
    compiled, tasks = MetaGradientOf(loop, GaussianSmoothing(1), 1, compile=True), random_tasks(2)
    first = compiled(tasks).gradients
    assert relative(compiled(tasks).gradients, first) == 0
    assert relative(compiled(tasks._replace(numbers=tasks.numbers + 2)).gradients, first) > 1e-3


class Net(nn.Module):
    """A model with something of a test's own around its predictions."""

    def __init__(self, around: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.around, self.tiny = around, Tiny()

    def forward(self, x: Tensor) -> Tensor:
        return self.around(self.tiny(x), x)


def by_a_generator(y: Tensor, x: Tensor) -> Tensor:
    return y + 0.1 * torch.randn(len(x), 1, generator=torch.Generator().manual_seed(3))


def compiled_of(around: Callable[[Tensor, Tensor], Tensor], method: OuterGradient | None = None) -> MetaGradientOf:
    loop = InnerLoop(Net(around), nn.MSELoss(), SGD(0.1), ["*"], 1)
    loop.mapped, loop.draws = False, around is by_dropout
    return MetaGradientOf(loop, method or FirstOrder(), 1, compile=True)


@pytest.mark.slow
@compiles
def test_numbers_that_a_program_would_keep() -> None:
    """The first chunk is compiled, the second has other inputs."""
    with pytest.raises(ValueError, match=r"compile: on other numbers .*, by \d+\.\d%: .*; set compile to false, or"):
        compiled_of(by_a_generator)(random_tasks(2))


def by_dropout(y: Tensor, x: Tensor) -> Tensor:
    return nn.functional.dropout(y, 0.5)


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("method", made(ONCE))
def test_a_program_that_draws_from_the_stream_is_proved(method: OuterGradient) -> None:
    assert bool(compiled_of(by_dropout, method)(random_tasks(2)).finite.all())


@pytest.mark.parametrize(
    "around",
    [lambda y, x: y * float(x.detach().mean()), lambda y, x: y if bool(x.sum() > 0) else -y],
    ids=["item", "branch"],
)
def test_what_cannot_be_traced(around: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(
        ValueError, match=r"compile: the model cannot be compiled \(.*\); set compile to false, or comp"
    ):
        compiled_of(around)(random_tasks(2))


def test_what_cannot_be_compiled() -> None:
    loop = InnerLoop(Tiny(), nn.MSELoss(), HigherOptimizer(), ["*"], 1)
    with pytest.raises(ValueError, match="compile: HigherOptimizer cannot be compiled; set compile to false"):
        MetaGradientOf(loop, SecondOrder(), 1, compile=True)


class TwoPrecisions(nn.Module):
    """Layers in single and in double precision, one after the other."""

    def __init__(self, *dtypes: torch.dtype) -> None:
        super().__init__()
        self.dtypes, sizes = dtypes, ((1, 4), (4, 4), (4, 1))
        self.layers = nn.ModuleList(nn.Linear(*size, dtype=dtype) for size, dtype in zip(sizes, dtypes, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for layer, dtype in zip(self.layers, self.dtypes, strict=True):
            x = layer(torch.tanh(x).to(dtype))
        return x


@pytest.mark.parametrize("dtypes", list(itertools.product((torch.float32, torch.float64), repeat=3))[1:-1:2])
@pytest.mark.parametrize("fast", ["*", "layers.0.*"])
@pytest.mark.parametrize(
    "method", made({name: row for name, row in OUTER.items() if name != "FirstOrder"}, 20, SMOOTHING)
)
def test_weights_of_two_precisions(method: OuterGradient, fast: str, dtypes: tuple[torch.dtype, ...]) -> None:
    tasks, model = single(random_tasks(3)), TwoPrecisions(*dtypes)
    tasks = map_batches(lambda batch: Batch(batch.inputs, batch.targets.to(dtypes[-1])), tasks)
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), [fast], STEPS)
    assert try_first_batch(loop, tasks, method) == []
    found = MetaGradientOf(loop, method, STEPS)(tasks).gradients
    assert {name: gradient.dtype for name, gradient in found.items()} == {
        f"model.{name}": weight.dtype for name, weight in model.named_parameters()
    }
    if not method.sampled:
        copied = TwoPrecisions(*[torch.float64] * 3)
        copied.load_state_dict(model.state_dict())
        exact = InnerLoop(copied, nn.MSELoss(), SGD(0.1), [fast], STEPS)
        exact_tasks = map_batches(lambda batch: Batch(batch.inputs.double(), batch.targets.double()), tasks)
        assert relative(double(found), MetaGradientOf(exact, SecondOrder(), STEPS)(exact_tasks).gradients) < 1e-3
