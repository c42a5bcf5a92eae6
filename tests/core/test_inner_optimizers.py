"""Inner optimizers: their paths are those of torch.optim, their refusals and their rates."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from oracles import Tiny, random_tasks, relative
from torch import Tensor, nn

from litmaml.inner import SGD, Adam, AdamW, HigherOptimizer, InnerOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import select
from litmaml.weights import Params

STEPS = 4
LOSS = nn.MSELoss()

OF_HIGHER: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("Adam", {"lr": 0.05, "eps": 1e-12}),  # see the test of its eps
    ("Adam", {"lr": 0.05, "eps": 1e-12, "amsgrad": True, "weight_decay": 0.1, "betas": (0.5, 0.6)}),
    ("RMSprop", {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.5, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8}),
    ("Adamax", {"lr": 0.05}),
    ("ASGD", {"lr": 0.1, "lambd": 0.3}),
    ("Rprop", {"lr": 0.05}),
]

SAME: dict[str, tuple[InnerOptimizer, str, dict[str, Any]]] = {
    "SGD": (SGD(0.1), "SGD", {"lr": 0.1}),
    "SGD momentum": (SGD(0.1, momentum=0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
    "SGD everything": (
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
    ),
    "Adam": (Adam(0.05), "Adam", {"lr": 0.05}),
    "Adam everything": (
        Adam(0.05, (0.5, 0.6), 0.1, weight_decay=0.2),
        "Adam",
        {"lr": 0.05, "betas": (0.5, 0.6), "eps": 0.1, "weight_decay": 0.2},
    ),
    "AdamW": (AdamW(0.05), "AdamW", {"lr": 0.05}),
    "AdamW everything": (
        AdamW(0.05, (0.5, 0.6), 0.1, weight_decay=0.8),
        "AdamW",
        {"lr": 0.05, "betas": (0.5, 0.6), "eps": 0.1, "weight_decay": 0.8},
    ),
    **{
        f"higher {name} {' '.join(options)}": (HigherOptimizer(f"torch.optim.{name}", options), name, options)
        for name, options in OF_HIGHER
    },
}


def path_of_torch(model: nn.Module, x: Tensor, y: Tensor, name: str, options: dict[str, Any]) -> list[Params]:
    own = copy.deepcopy(model)
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(own.parameters(), **options)
    path = []
    for _ in range(STEPS + 1):
        path.append({n: w.detach().clone() for n, w in own.named_parameters()})
        optimizer.zero_grad()
        LOSS(own(x), y).backward()
        optimizer.step()
    return path


@pytest.mark.parametrize("case", SAME)
def test_paths_are_those_of_torch(case: str) -> None:
    inner, name, options = SAME[case]
    model, tasks = Tiny(), random_tasks()
    loop = InnerLoop(model, LOSS, inner, ["*"], STEPS)
    found = list(loop.path(tasks, STEPS))
    *_, trained = loop.steps(*loop.start(tasks), tasks, STEPS, SecondOrder().gradient)
    assert len(found) == STEPS + 1
    for task in range(tasks.size):
        true = path_of_torch(model, tasks.support[0].inputs[task], tasks.support[0].targets[task], name, options)
        for here, there in zip(found, true, strict=True):
            assert relative({n: w[task] for n, w in here.items()}, there) < 1e-9
        assert relative({n: w[task].detach() for n, w in trained.items()}, true[-1]) < 1e-9


def test_eps_of_adam_is_added_before_the_correction_of_bias() -> None:
    """After one step torch has moved lr g / (|g| + eps), higher lr g / (|g| + eps / sqrt(1 - beta2))."""
    eps, beta2, tasks = 0.1, 0.99, select(random_tasks(), [0])
    model = nn.Linear(1, 1)
    inner = HigherOptimizer("torch.optim.Adam", {"lr": 1.0, "eps": eps, "betas": [0.9, beta2]})
    loop = InnerLoop(model, LOSS, inner, ["*"], 1)
    start, moved = loop.path(tasks, 1)
    LOSS(model(tasks.support[0].inputs[0]), tasks.support[0].targets[0]).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        step = start[name][0] - moved[name][0]
        torch.testing.assert_close(step, weight.grad / (weight.grad.abs() + eps / (1 - beta2) ** 0.5))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.6), (0.0, 0.9)])
def test_adam_is_that_of_higher(betas: tuple[float, float]) -> None:
    """Where eps is so small that it does not matter when it is added; its outer gradient and that of its rate."""
    loops = [
        InnerLoop(Tiny(), LOSS, optimizer, ["*"], 3)
        for optimizer in (
            Adam(0.05, betas, 1e-14, 0.1, learn="one"),
            HigherOptimizer("Adam", {"lr": 0.05, "betas": betas, "eps": 1e-14, "weight_decay": 0.1}, learn="one"),
        )
    ]
    loops[1].load_state_dict(loops[0].state_dict())
    tasks = random_tasks()
    found, true = (MetaGradientOf(loop, SecondOrder(), 3)(tasks).gradients for loop in loops)
    assert relative(found, true) < 1e-9


@pytest.mark.parametrize("make", [Adam, AdamW])
@pytest.mark.parametrize("learn", ["none", "one", "tensor", "parameter"])
def test_the_gradient_through_adam_is_the_slope_of_the_loss(make: Any, learn: Any) -> None:
    """Along a random direction of all that is trained, by a central difference; with torch's own eps."""
    loop, tasks = InnerLoop(Tiny(), LOSS, make(0.05, weight_decay=0.3, learn=learn), ["*"], 3), random_tasks()
    gradient_of, weights = MetaGradientOf(loop, SecondOrder(), 3), dict(loop.named_parameters())
    gradients = gradient_of(tasks).gradients
    along = {name: torch.randn_like(weight) * weight.detach().abs() for name, weight in weights.items()}

    def loss_at(length: float) -> float:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.add_(length * along[name])
            loss = float(gradient_of(tasks).loss)
            for name, weight in weights.items():
                weight.sub_(length * along[name])
        return loss

    slope = sum(float((gradients[name] * part).sum()) for name, part in along.items())
    assert (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_a_weight_without_a_gradient_stays_where_adam_leaves_it() -> None:
    """Its second moment is 0, where the derivative of the root is infinite and has no part in the step's."""
    tasks = random_tasks(2)
    first = nn.Linear(1, 2)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        first.bias.fill_(-100.0)  # so that no unit is active
    loop = InnerLoop(model, LOSS, Adam(0.1), ["*"], 2)
    found = MetaGradientOf(loop, SecondOrder(), 2)(tasks)
    assert bool(found.finite.all())
    assert not found.gradients["model.0.weight"].any()
    *_, end = loop.path(tasks, 2)
    assert torch.equal(end["0.weight"][0], first.weight)


def test_more_steps_than_trained_repeat_the_last_rate() -> None:
    tasks = random_tasks()
    loop = InnerLoop(Tiny(), LOSS, SGD(0.1, learn="one", per_step=True), ["*"], 2)
    rates = next(loop.learnt.parameters())
    with torch.no_grad():
        rates.copy_(torch.tensor([0.3, 0.05]))
    *_, found = loop.path(tasks, 4)
    longer = InnerLoop(copy.deepcopy(loop.model), LOSS, SGD(0.1, learn="one", per_step=True), ["*"], 4)
    with torch.no_grad():
        next(longer.learnt.parameters()).copy_(torch.tensor([0.3, 0.05, 0.05, 0.05]))
    *_, true = longer.path(tasks, 4)
    assert relative(found, true) < 1e-14


@pytest.mark.parametrize("learn", ["one", "tensor", "parameter"])
@pytest.mark.parametrize(("trained", "loaded"), [(5, 2), (2, 5), (3, 3)])
def test_rates_of_another_number_of_steps_are_cut_or_continued(learn: Any, trained: int, loaded: int) -> None:
    def loop(steps: int) -> InnerLoop:
        return InnerLoop(Tiny(), LOSS, SGD(0.1, learn=learn, per_step=True), ["*"], steps)

    source, target = loop(trained), loop(loaded)
    with torch.no_grad():
        for rate in source.learnt.parameters():
            rate.copy_(torch.rand_like(rate))
    target.load_state_dict(source.state_dict())
    for here, there in zip(target.learnt.parameters(), source.learnt.parameters(), strict=True):
        assert len(here) == loaded
        for j in range(loaded):
            assert torch.equal(here[j], there[min(j, trained - 1)])


def test_rates_of_another_shape_do_not_load() -> None:
    loop = InnerLoop(Tiny(), LOSS, SGD(0.1, learn="parameter", per_step=True), ["*"], 2)
    other = nn.Sequential(nn.Linear(1, 3))
    wrong = InnerLoop(other, LOSS, SGD(0.1, learn="parameter", per_step=True), ["*"], 2)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        loop.load_state_dict(wrong.state_dict())


@pytest.mark.parametrize(
    ("learn", "shapes"),
    [
        ("none", {}),
        ("one", {"": ()}),
        ("tensor", {"/body/0/weight": (), "/body/0/bias": (), "/head/weight": ()}),
        ("parameter", {"/body/0/weight": (2, 1), "/body/0/bias": (2,), "/head/weight": (1, 2)}),
    ],
)
@pytest.mark.parametrize("per_step", [False, True])
def test_learnt_rates_are_trained_by_the_outer_loop(
    learn: Any, shapes: dict[str, tuple[int, ...]], per_step: bool
) -> None:
    if learn == "none" and per_step:
        return
    loop = InnerLoop(Tiny(), LOSS, SGD(0.2, learn=learn, per_step=per_step), ["*"], 3)
    found = {n: p for n, p in loop.named_parameters() if n.startswith("learnt.")}
    lead = (3,) if per_step else ()
    assert {n: tuple(p.shape) for n, p in found.items()} == {
        f"learnt.rate{name}": lead + shape for name, shape in shapes.items()
    }
    gradients = MetaGradientOf(loop, SecondOrder(), 3)(random_tasks()).gradients
    for name, rate in found.items():
        assert torch.equal(rate, torch.full_like(rate, 0.2))
        assert bool((gradients[name] != 0).all())


def test_only_fast_weights_have_rates() -> None:
    loop = InnerLoop(Tiny(), LOSS, SGD(learn="tensor"), ["head.*"], 1)
    assert [name for name, _ in loop.learnt.named_parameters()] == ["rate/head/weight"]


class Memory(nn.Module):
    """Weights with the names of a dictionary's methods."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Parameter(torch.randn(4, 1)), nn.Parameter(torch.randn(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ self.keys.T, 1) @ self.values


@pytest.mark.parametrize("learn", ["tensor", "parameter"])
def test_rates_of_weights_of_any_name(learn: Any) -> None:
    loop, tasks = InnerLoop(Memory(), LOSS, SGD(0.1, learn=learn), ["*"], 2), random_tasks()
    found = MetaGradientOf(loop, SecondOrder(), 2)(tasks).gradients
    assert {"learnt.rate/keys", "learnt.rate/values"} < found.keys()
    weights = {name: gradient for name, gradient in found.items() if name.startswith("model.")}
    fixed = InnerLoop(loop.model, LOSS, SGD(0.1), ["*"], 2)
    assert relative(weights, MetaGradientOf(fixed, SecondOrder(), 2)(tasks).gradients) < 1e-12
    loop.load_state_dict(loop.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(lr=0.0), "lr: the inner rate has to be a positive number, got 0.0"),
        (lambda: SGD(lr=-0.1), "lr: the inner rate has to be a positive number, got -0.1"),
        (lambda: SGD(lr=float("nan")), "lr: the inner rate has to be a positive number, got nan"),
        (lambda: SGD(lr=float("inf")), "lr: the inner rate has to be a positive number, got inf"),
        (lambda: SGD(momentum=1.0), r"momentum: has to be in \[0, 1\), got 1.0"),
        (lambda: SGD(nesterov=True), "nesterov: needs a momentum above 0"),
        (lambda: SGD(weight_decay=-1.0), "weight_decay: has to be at least 0, got -1.0"),
        (lambda: SGD(learn="all"), "learn: got 'all'; one of none, one, tensor, parameter"),  # type: ignore[arg-type]
        (lambda: SGD(per_step=True), "per_step: only learnt rates can differ by step"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas: have to be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda: AdamW(betas=[0.9]), r"betas: have to be two numbers in \[0, 1\), got \(0.9,\)"),  # type: ignore[arg-type]
        (lambda: Adam(eps=0.0), "eps: has to be above 0, got 0.0"),
        (lambda: AdamW(weight_decay=-1.0), "weight_decay: has to be at least 0, got -1.0"),
        (lambda: Adam(lr=0.0), "lr: the inner rate has to be a positive number, got 0.0"),
        (lambda: AdamW(per_step=True), "per_step: only learnt rates can differ by step"),
        (
            lambda: HigherOptimizer("torch.optim.AdamW"),
            "differentiate 'torch.optim.AdamW'; one of .*Adam",
        ),
        (lambda: HigherOptimizer("os.system"), "optimizer: higher cannot differentiate 'os.system'"),
        (lambda: HigherOptimizer("my.Adam"), "optimizer: higher cannot differentiate 'my.Adam'"),
        (lambda: HigherOptimizer(learn="tensor"), "learn: got 'tensor'; .* betas is wrong"),  # type: ignore[arg-type]
        (lambda: HigherOptimizer("ASGD", learn="one"), "derivative by the rate of torch.optim.ASGD is wrong"),
        (
            lambda: HigherOptimizer("Rprop", learn="one"),
            "derivative by the rate of torch.optim.Rprop is wrong",
        ),
        (lambda: HigherOptimizer(per_step=True), "per_step: only learnt rates can differ by step"),
        (
            lambda: HigherOptimizer(options={"maximize": True}),
            "options: higher silently ignores maximize; leave",
        ),
        (
            lambda: HigherOptimizer(options={"decoupled_weight_decay": True}),
            "options: higher silently ignores decoupled_weight_decay",
        ),
        (lambda: HigherOptimizer("RMSprop", {"centered": True}), "options: .* centered is not finite"),
        (
            lambda: HigherOptimizer(options={"lr": torch.tensor(0.1)}),
            "options: lr has to be a plain number; use learn",
        ),
        (
            lambda: HigherOptimizer(options={"betas": (0.9, torch.tensor(0.9))}),
            "options: betas has to be a plain number",
        ),
        (
            lambda: HigherOptimizer(options={"momentum": 0.9}),
            "torch.optim.Adam does not take {'momentum': 0.9}",
        ),
        (
            lambda: HigherOptimizer(options={"lr": -1.0}),
            "torch.optim.Adam does not take {'lr': -1.0}: Invalid",
        ),
        (
            lambda: HigherOptimizer(options={"lr": 0.0}),
            "lr: the inner rate has to be a positive number, got 0.0",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")  # that is how ASGD's is lost
@pytest.mark.parametrize("name", ["ASGD", "Rprop"])
def test_why_some_rates_are_not_learnt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the refusal higher's derivative by a step's rate is not that of the loss."""
    monkeypatch.setattr("litmaml.inner.higher._RATE_NOT_LEARNT", ())
    inner = HigherOptimizer(name, {"lr": 0.1}, learn="one", per_step=True)
    loop, tasks = InnerLoop(Tiny(), LOSS, inner, ["*"], 2), random_tasks()
    (found,) = [
        g for n, g in MetaGradientOf(loop, SecondOrder(), 2)(tasks).gradients.items() if n.startswith("learnt.")
    ]
    fixed = HigherOptimizer(name, {"lr": 0.1})
    again = InnerLoop(loop.model, LOSS, fixed, ["*"], 2)
    # The last step's rate moves the loss, in which higher sees nothing of it.
    *_, end = again.path(tasks, 2)
    *_, one_less = again.path(tasks, 1)
    assert relative(end, one_less) > 1e-3
    assert float(found[-1]) == 0
