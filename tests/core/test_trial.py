"""The trial of a first batch: what it finds in a model, and what it leaves alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bodies import Body, Forward, loop_of, tried
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cases import OUTER, REPEATING, TWICE, UNPROBED, UNSAMPLED, made
from litmaml.inner import SGD, HigherOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.model_checks import check_model
from litmaml.models import MLP, Conv4
from litmaml.outer import EvolutionStrategies, FiniteDifference, Implicit, OuterGradient, Reptile, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

# Randomness


def noisy(self: Body, x: Tensor) -> Tensor:
    return self.plain(x) + 0.1 * torch.randn_like(x)


def dropped(self: Body, x: Tensor) -> Tensor:
    hidden = functional.dropout(torch.tanh(self.first(x)), 0.5)
    return self.last(hidden)


@pytest.mark.parametrize("forward", [noisy, dropped])
def test_functions_that_draw_get_a_stream_of_their_own(forward: Forward) -> None:
    loop, _ = tried(Body(forward))
    assert loop.draws
    tasks = random_tasks(3)
    first, again = (MetaGradientOf(loop, SecondOrder(), 2)(tasks).gradients for _ in range(2))
    assert relative(first, again) == 0


@pytest.mark.parametrize("forward", [noisy, dropped])
@pytest.mark.parametrize("outer_gradient", made(REPEATING))
def test_functions_that_draw_where_a_step_is_taken_twice(forward: Forward, outer_gradient: OuterGradient) -> None:
    name = type(outer_gradient).__name__
    why = (
        f"draws anew in each probe of {name}, .* use SecondOrder or FirstOrder"
        if outer_gradient.probes
        else f"draws anew when {name} recomputes .* set recompute to false"
    )
    with pytest.raises(ValueError, match=f"model: .*{why}"):
        tried(Body(forward), outer_gradient)


@pytest.mark.parametrize(
    ("draw", "name"),
    [(np.random.rand, "numpy.random"), (random.random, "Python's random")],
)
def test_generators_that_a_resumed_run_does_not_repeat(draw: Callable[[], float], name: str) -> None:
    with pytest.raises(ValueError, match=rf"model: .* draws from {name}, .*draw by torch"):
        tried(Body(lambda self, x: self.plain(x) * (1 + draw())))


@pytest.mark.parametrize("generator", [np.random.default_rng(0), torch.Generator().manual_seed(0)])
def test_a_generator_of_its_own(generator: Any) -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        if isinstance(generator, torch.Generator):
            return self.plain(x) + torch.rand(1, generator=generator)
        return self.plain(x) + float(generator.random())

    with pytest.raises(ValueError, match=r"other outputs for the same inputs, .*torch's global generator"):
        tried(Body(forward))


def of_numpy() -> Any:
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[2]


def test_no_stream_moves_on_and_nothing_is_changed() -> None:
    model = Body(noisy)
    loop, tasks = loop_of(model), random_tasks(3)
    before = {name: value.clone() for name, value in loop.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), of_numpy()
    inputs = tasks.support[0].inputs.clone()
    try_first_batch(loop, tasks, SecondOrder())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), of_numpy()) == states[1:]
    assert torch.equal(tasks.support[0].inputs, inputs)
    assert all(torch.equal(value, before[name]) for name, value in loop.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


# State


class Averages(nn.Module):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1 + 0.1 * self.calls)


class History(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().mean(0))
        return x - torch.stack(self.seen).mean(0)


class FirstBatch(nn.Module):
    """Sets its own scale by the first batch, as activation normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.made = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.made:
            self.scale.data = 1 / x.detach().std(0)
            self.made = True
        return x * self.scale


def spectral() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Averages, r"changes 1.mean, which tasks would share; take out what keeps statistics"),
        (spectral, r"changes 1.parametrizations.weight.0._u, .*eval mode"),
        (Counts, r"other outputs for the same inputs.* by what it keeps in 1.calls"),
        (History, r"other outputs for the same inputs"),
        (FirstBatch, r"changes its own weights \(1.scale\).*run one batch through the model before"),
    ],
)
def test_state_that_a_forward_pass_changes(layer: Callable[[], nn.Module], why: str) -> None:
    model = nn.Sequential(nn.Linear(1, 4), layer(), nn.Tanh(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=f"model: .*{why}"):
        tried(model)


def test_state_that_is_not_changed_in_eval_mode() -> None:
    for layer in (spectral(), FirstBatch()):
        model = nn.Sequential(nn.Linear(1, 4), layer.eval(), nn.Tanh(), nn.Linear(4, 1))
        if isinstance(layer, FirstBatch):
            model(torch.randn(9, 1))  # what the advice says
        tried(model)


def test_an_embedding_that_normalises_its_weights_in_place() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.last = nn.Embedding(7, 4, max_norm=0.5), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            predicted: Tensor = self.last(self.words(x[:, 0]))
            return predicted

    batch = Batch(torch.randint(7, (2, 5, 1)), torch.randn(2, 5, 1))
    with pytest.raises(ValueError, match=r"changes its own weights \(words.weight\), .*max_norm"):
        try_first_batch(loop_of(Words()), Tasks((batch,), batch, torch.arange(2)), SecondOrder())


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_kept_without_an_effect_passes(cached: bool) -> None:
    """Attention maps kept for a look, constants made at the first call, counts of calls that nothing reads."""

    def forward(self: Body, x: Tensor) -> Tensor:
        if cached and self.constants is None:
            self.constants = torch.linspace(0, 1, 4, dtype=x.dtype)
        hidden = torch.tanh(self.first(x)) + (self.constants if cached else 0)
        self.last_hidden, self.calls = hidden, self.calls + 1
        return self.last(hidden)

    model = Body(forward, constants=None, last_hidden=None, calls=0)
    model(torch.randn(3, 1))  # it has computed tensors in its attributes now, which deepcopy alone refuses
    tried(model)


@pytest.mark.parametrize("fast", ["last.*", "first.*"])
def test_what_is_kept_of_a_slow_weight_is_refused(fast: str) -> None:
    """Whoever takes an inner step first keeps it without its derivative."""

    def forward(self: Body, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.first.weight.norm()
        return self.last(torch.tanh(self.first(x)) / self.kept)

    loop = InnerLoop(Body(forward, kept=None), nn.MSELoss(), SGD(0.1), [fast], 2)
    with pytest.raises(ValueError, match="does not give what it gives when they are written"):
        try_first_batch(loop, random_tasks(3), SecondOrder())


def test_a_branch_on_a_draw_is_taken_task_by_task() -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        return self.plain(x) if torch.rand(()) < 0.5 else self.last(self.first(x))

    loop, _ = tried(Body(forward))
    assert loop.draws
    assert loop.tasks_at_once(random_tasks(3).query.inputs) == 1
    MetaGradientOf(loop, SecondOrder(), 2, tasks_per_chunk=3)(random_tasks(3))


# Inputs


@pytest.mark.parametrize("outer_gradient", made(UNSAMPLED))
@pytest.mark.parametrize("chunk", [1, None])
def test_a_model_that_writes_into_its_inputs_gets_copies(outer_gradient: OuterGradient, chunk: int | None) -> None:
    def writes(self: Body, x: Tensor) -> Tensor:
        return self.plain(x.sub_(1))

    model, tasks = Body(writes), random_tasks(3)
    kept = tasks.support[0].inputs.clone()
    loop = loop_of(model)
    try_first_batch(loop, tasks, outer_gradient)
    assert loop.changes_inputs
    found = MetaGradientOf(loop, outer_gradient, 2, chunk)(tasks).gradients
    assert torch.equal(tasks.support[0].inputs, kept)
    model.own = lambda self, x: self.plain(x - 1)
    assert (
        relative(
            found,
            MetaGradientOf(loop_of(model), outer_gradient, 2, 1)(tasks).gradients,
        )
        < 1e-10
    )


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"model: MLP cannot take the tasks' inputs of shape \(3,\) and torch.float64"):
        try_first_batch(loop_of(MLP(inputs=2)), random_tasks(2, inputs=3), SecondOrder())


@pytest.mark.parametrize("output", [lambda y: (y, y), lambda y: {"logits": y}, lambda y: None])
def test_outputs_that_are_no_tensor(output: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ValueError, match="model: "):
        tried(Body(lambda self, x: output(self.plain(x))))


# Weights


def test_a_weight_by_a_second_reference() -> None:
    class Listed(Body):
        def __init__(self) -> None:
            super().__init__(lambda self, x: self.plain(x) * self.scales[0])
            self.scale = nn.Parameter(torch.full((1,), 2.0))
            self.scales = [self.scale]

    with pytest.raises(ValueError, match=r"model: .* furthest off is the gradient by .*scale.* second reference"):
        tried(Listed())


def test_a_weight_as_it_was_when_the_model_was_made() -> None:
    class Viewed(Body):
        def __init__(self) -> None:
            super().__init__(lambda self, x: self.plain(x) * self.doubled)
            self.scale = nn.Parameter(torch.ones(1))
            self.doubled = 2 * self.scale

    with pytest.raises(ValueError, match=r"model: it keeps doubled as computed .* compute that in the forward pass"):
        tried(Viewed())


@pytest.mark.parametrize("outer_gradient", made(OUTER))
def test_a_weight_that_is_used_as_it_was_at_the_first_call(outer_gradient: OuterGradient) -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        if self.norm is None:
            self.norm = float(self.first.weight.detach().norm())
        return self.plain(x) / self.norm

    with pytest.raises(ValueError, match=r"model: with other weights in the place of its parameters"):
        tried(Body(forward, norm=None), outer_gradient)


@pytest.mark.parametrize("outer_gradient", made(OUTER))
def test_inputs_that_are_used_as_they_were_at_the_first_call(outer_gradient: OuterGradient) -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        if self.mean is None:
            self.mean = x.mean(0)
        return self.plain(x - self.mean)

    with pytest.raises(ValueError, match=r"model: a forward pass gives other outputs"):
        tried(Body(forward, mean=None), outer_gradient)


@pytest.mark.parametrize(
    "asks", [lambda self, x: torch.is_grad_enabled(), lambda self, x: self.first.weight.requires_grad]
)
@pytest.mark.parametrize("outer_gradient", made(OUTER))
def test_a_model_that_asks_whether_gradients_are_taken(
    asks: Callable[[Body, Tensor], bool], outer_gradient: OuterGradient
) -> None:
    with pytest.raises(ValueError, match=r"model: its loss is another one where no gradient is taken|second reference"):
        tried(Body(lambda self, x: self.plain(x) * (2 if asks(self, x) else 1)), outer_gradient)


class Waves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(3, 1, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        bent: Tensor = (x * (1 + 2j) @ self.filter.mT).exp().imag
        return bent.mean(-1, keepdim=True)


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Rprop"])
def test_complex_weights_are_not_given_to_higher(optimizer: str) -> None:
    with pytest.raises(ValueError, match=rf"optimizer: .*torch.optim.{optimizer} are not .* got filter; hold it as"):
        InnerLoop(Waves(), nn.MSELoss(), HigherOptimizer(optimizer), ["*"], 1)


@pytest.mark.parametrize(("optimizer", "options"), [("SGD", {"momentum": 0.9}), ("ASGD", {})])
def test_complex_weights_by_higher_are_those_of_torch(optimizer: str, options: dict[str, Any]) -> None:
    model, tasks = Waves(), random_tasks(2)
    loop = InnerLoop(model, nn.MSELoss(), HigherOptimizer(optimizer, {"lr": 0.05, **options}), ["*"], 3)
    *_, found = (fast["filter"][0] for fast in loop.path(tasks, 3))
    theirs = getattr(torch.optim, optimizer)(model.parameters(), lr=0.05, **options)
    for _ in range(3):
        theirs.zero_grad()
        nn.functional.mse_loss(model(tasks.support[0].inputs[0]), tasks.support[0].targets[0]).backward()
        theirs.step()
    torch.testing.assert_close(found, model.filter)


def test_complex_weights() -> None:
    assert tried(Waves())[1] == []
    with pytest.raises(ValueError, match=r"model: filter is complex, .* use SecondOrder or FirstOrder"):
        check_model(Waves(), FiniteDifference())
    with pytest.raises(ValueError, match=r"learn: a rate of the complex weight filter"):
        InnerLoop(Waves(), nn.MSELoss(), SGD(0.1, learn="parameter"), ["*"], 1)


def test_what_a_pass_over_several_tasks_leaves_in_a_model() -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        self.hidden = torch.tanh(self.first(x))
        return self.last(self.hidden)

    loop, _ = tried(Body(forward, hidden=None))
    MetaGradientOf(loop, SecondOrder(), 2)(random_tasks(3))
    assert try_first_batch(loop, random_tasks(3), SecondOrder()) == []  # the model can be copied still


def test_hardsigmoid_has_a_second_derivative_here() -> None:
    first, last = (nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 1)
    model = nn.Sequential(*first, nn.Hardsigmoid(), last)
    written_out = nn.Sequential(*first, HardsigmoidWrittenOut(), last)
    tasks = random_tasks(3)
    found, true = (MetaGradientOf(loop_of(m), SecondOrder(), 2, 1)(tasks).gradients for m in (model, written_out))
    assert relative(found, true) < 1e-12
    tried(model)


class HardsigmoidWrittenOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6


def test_a_sparse_gradient() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(7, 1, sparse=True)

        def forward(self, x: Tensor) -> Tensor:
            rows: Tensor = self.words(x[:, 0])
            return rows

    batch = Batch(torch.randint(7, (2, 5, 1)), torch.randn(2, 5, 1))
    with pytest.raises(ValueError, match=r"model: the gradient by words.weight is sparse, .* sparse=False"):
        try_first_batch(loop_of(Words()), Tasks((batch,), batch, torch.arange(2)), SecondOrder())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("outer_gradient", made(OUTER))
def test_activation_checkpointing(reentrant: bool, outer_gradient: OuterGradient) -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda h: torch.tanh(self.first(h)), x.requires_grad_(), use_reentrant=reentrant)
        return self.last(hidden)

    with pytest.raises(ValueError, match=r"recomputes activations .*gradient_checkpointing_disable"):
        tried(Body(forward), outer_gradient)


# Derivatives


class _Wrong(torch.autograd.Function):
    """A square whose backward keeps a number of the forward pass, so that its second derivative is half of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x.detach()
        return x.square()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.kept * g


class _Once(_Wrong):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.kept * g


def test_a_wrong_second_derivative() -> None:
    model = Body(lambda self, x: self.last(_Wrong.apply(self.first(x))))
    with pytest.raises(ValueError, match=r"model: an exact Hessian product .* off by \d+.\d%.* FirstOrder"):
        tried(model)
    for name in OUTER.keys() - TWICE.keys():
        tried(model, OUTER[name].make())
    with pytest.raises(ValueError, match=r"model: an exact Hessian product .* off by \d+.\d%"):
        tried(model, Implicit())
    for method in (Implicit(product=FiniteDifference()), Reptile(), EvolutionStrategies()):
        tried(model, method)


def test_a_second_derivative_that_torch_leaves_out() -> None:
    """Of a function that is differentiable once, without a word where gradients of some inputs are asked for."""
    with pytest.raises(ValueError, match=r"model: an exact Hessian product .*\(_Once\).*use FirstOrder"):
        tried(Body(lambda self, x: self.last(_Once.apply(self.first(x)))))


def test_no_second_derivative() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 1))

        def forward(self, x: Tensor) -> Tensor:
            return functional.pdist(torch.tanh(self.weight * x[0])).sum() + 0 * x

    with pytest.raises(ValueError, match=r"model: no second derivative exists .*pdist.*; train it with FirstOrder"):
        tried(Sparse())


def test_no_derivative() -> None:
    with pytest.raises(ValueError, match=r"model: the loss does not depend on its weights"):
        tried(Body(lambda self, x: self.plain(x).detach()))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.last(torch.relu(self.first(x))),
        lambda self, x: self.plain(x) / (1 + self.plain(x).detach().abs().mean()),
        lambda self, x: self.last(self.first(x).clamp(-0.1, 0.1)),
        lambda self, x: self.last((h := self.first(x)) + (h.round() - h).detach()),  # straight through
        lambda self, x: x * self.last.weight.sum() + self.last.bias,  # linear: no curvature
        lambda self, x: self.last(torch.sort(self.first(x), -1).values),
        lambda self, x: self.last(self.first(x).abs().sqrt()),
    ],
)
def test_kinks_and_gradients_that_are_stopped_on_purpose_pass(forward: Forward) -> None:
    tried(Body(forward))


# Several tasks at once


@pytest.mark.parametrize("cells", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_run_by_default(cells: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.last = cells(1, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            predicted: Tensor = self.last(self.cells(x[..., None])[0][:, -1])
            return predicted

    tasks = random_tasks(3, inputs=4)
    loop = loop_of(Recurrent())
    assert not loop.mapped
    by_default, one_by_one = (MetaGradientOf(loop, SecondOrder(), 2, chunk)(tasks).gradients for chunk in (None, 1))
    assert relative(by_default, one_by_one) < 1e-12


@pytest.mark.parametrize("outer_gradient", made(UNPROBED))
def test_a_model_that_cannot_be_mapped_is_looped(outer_gradient: OuterGradient) -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        return self.plain(x) if float(x.sum()) > 0 else self.plain(2 * x)

    loop, remarks = tried(Body(forward), outer_gradient)
    assert not loop.mapped
    assert "tasks are computed one after another, since PyTorch cannot map it" in remarks[0]
    tasks = random_tasks(3)
    by_default, one_by_one = (MetaGradientOf(loop, outer_gradient, 2, chunk)(tasks).gradients for chunk in (None, 1))
    assert relative(by_default, one_by_one) < 1e-12


def test_a_model_of_float32() -> None:
    """It makes float32 of what it gets: compared in its own precision."""
    model = Body(lambda self, x: self.plain(x.float())).float()
    batch = Batch(torch.randn(2, 5, 1).float(), torch.randn(2, 5, 1).float())
    loop = loop_of(model)
    try_first_batch(loop, Tasks((batch,), batch, torch.arange(2)), SecondOrder())
    assert loop.mapped


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_it_takes_little_time(norm: str) -> None:
    model = Conv4(norm=norm).float()  # type: ignore[arg-type]
    batch = Batch(torch.rand(4, 25, 1, 28, 28).float(), torch.arange(5).repeat(5).expand(4, -1))
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.1), ["*"], 1)
    began = time.process_time()
    assert try_first_batch(loop, Tasks((batch,), batch, torch.arange(4)), SecondOrder()) == []
    assert time.process_time() - began < 10  # about 1 on a quiet core


# Rounding and sparse tensors


def test_a_kernel_that_rounds_otherwise_each_time() -> None:
    """As torch.linalg.lstsq does, by where in memory its arguments begin."""
    rounded = iter(range(10**6))

    def forward(self: Body, x: Tensor) -> Tensor:
        return self.plain(x) * (1 + 1e-16 * torch.tensor([3.0 * (next(rounded) % 2)]))

    assert tried(Body(forward))[1] == []


def test_a_count_that_hardly_shows_yet() -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        self.count += 1
        return self.plain(x) * (1 + 1e-15 * self.count)

    with pytest.raises(ValueError, match="by what it keeps in count"):
        tried(Body(forward, count=0))


def of_neighbours(self: Body, x: Tensor) -> Tensor:
    return self.last((self.graph @ torch.tanh(self.first(x)).mT).mT)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant):UserWarning")
def test_a_sparse_buffer(layout: torch.layout) -> None:
    model = Body(of_neighbours)
    model.register_buffer("graph", (torch.eye(4) + torch.eye(4).roll(1, 0)).to_sparse(layout=layout))
    (remark,) = tried(model)[1]
    assert "sparse" in remark.lower()


def test_a_sparse_buffer_that_changes() -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        self.graph.mul_(0.9)
        return of_neighbours(self, x)

    model = Body(forward)
    model.register_buffer("graph", torch.eye(4).to_sparse())
    with pytest.raises(ValueError, match="its forward pass changes graph"):
        tried(model)


# Whole batches


def counts(self: Body, x: Tensor) -> Tensor:
    self.count += 1
    return self.plain(x) * (1 + 0.1 * self.count)


def writes(self: Body, x: Tensor) -> Tensor:
    return self.plain(x.mul_(1.5).clone())


def averages(self: Body, x: Tensor) -> Tensor:
    self.mean.add_(x.detach().mean())
    return self.plain(x) - self.mean


def draws_by_numpy(self: Body, x: Tensor) -> Tensor:
    return self.plain(x) + float(np.random.rand())  # noqa: NPY002


@pytest.mark.parametrize(
    ("forward", "message"), [(counts, "keeps in count"), (averages, "changes mean"), (draws_by_numpy, "numpy.random")]
)
def test_another_way_for_many_examples(forward: Forward, message: str) -> None:
    model = Body(lambda self, x: forward(self, x) if len(x) > 6 else self.plain(x), count=0)
    model.register_buffer("mean", torch.zeros(()))
    with pytest.raises(ValueError, match=message):
        try_first_batch(loop_of(model), long_tasks(), SecondOrder())


def test_many_examples_that_are_written_into() -> None:
    loop = loop_of(Body(lambda self, x: writes(self, x) if len(x) > 6 else self.plain(x)))
    try_first_batch(loop, long_tasks(), SecondOrder())
    assert loop.changes_inputs


def long_tasks() -> Tasks:
    batch = Batch(torch.randn(2, 9, 1), torch.randn(2, 9, 1))
    return Tasks((batch,), batch, torch.arange(2))
