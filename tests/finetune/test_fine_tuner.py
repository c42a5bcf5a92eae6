"""The fine-tuner against the inner loop that was meta-trained, and its options."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.finetuning.support_loss import LEARNT, learnt_at
from litmaml.inner import SGD, HigherOptimizer, InnerOptimizer, MetaCurvature, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP, Conv4
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

INPUTS, TARGETS = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3


def learner(optimizer: InnerOptimizer | None = None, **changes: object) -> MetaLearner:
    torch.manual_seed(0)
    made = MetaLearner(MLP(inputs=4, outputs=3), optimizer or SGD(lr=0.1), **changes)  # type: ignore[arg-type]
    with torch.no_grad():
        for rate in made.inner_loop.learnt.parameters():
            rate.mul_(torch.rand_like(rate) + 0.5)
    return made


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        SGD(lr=0.1, learn="one"),
        SGD(lr=0.1, learn="tensor", per_step=True),
        SGD(lr=0.1, learn="parameter"),
        HigherOptimizer(options={"lr": 0.01}, learn="one", per_step=True),
        Proximal(SGD(lr=0.1), 2.0, learn=True),
        MetaCurvature(SGD(lr=0.1, learn="tensor", per_step=True)),
    ],
    ids=str,
)
def test_it_takes_the_steps_that_were_meta_learnt(optimizer: InnerOptimizer) -> None:
    meta = learner(optimizer, inner_steps=2, test_inner_steps=4)
    batch = Batch(INPUTS[None], TARGETS[None])
    wanted = list(meta.inner_loop.path(Tasks((batch,), batch, torch.zeros(1)), 4))
    got = list(FineTuner(meta, INPUTS[:2], 3, steps=4).path(INPUTS, TARGETS))
    assert len(got) == 5
    for step, weights in zip(got, wanted, strict=True):
        for name, weight in weights.items():
            torch.testing.assert_close(step.weights[name], weight)
    assert got[-1].loss < got[0].loss


def test_steps_are_those_of_the_tests_and_go_on_until_the_support_is_learnt() -> None:
    meta = learner(SGD(lr=1.0), inner_steps=1, test_inner_steps=5)
    path = list(FineTuner(meta, INPUTS[:2], 3).path(INPUTS, TARGETS))
    taken = len(path) - 1
    assert 5 < taken < 50
    assert path[-1].loss <= LEARNT < path[-2].loss
    slow = learner(SGD(lr=1e-4), inner_steps=1, test_inner_steps=2)
    assert len(list(FineTuner(slow, INPUTS[:2], 3).path(INPUTS, TARGETS))) - 1 == 20
    assert len(list(FineTuner(slow, INPUTS[:2], 3, steps=7).path(INPUTS, TARGETS))) - 1 == 7
    fast = learner(SGD(lr=1.0), test_inner_steps=40)
    assert len(list(FineTuner(fast, INPUTS[:2], 3).path(INPUTS, TARGETS))) - 1 == 40


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.1, momentum=0.5, learn="parameter", per_step=True),
        HigherOptimizer("torch.optim.SGD", {"lr": 0.1, "momentum": 0.5}, learn="one"),
    ],
)
def test_a_given_rate_replaces_those_learnt_and_leaves_the_rest(optimizer: InnerOptimizer) -> None:
    plain = learner(SGD(lr=0.03, momentum=0.5))
    *_, wanted = FineTuner(plain, INPUTS[:2], 3, steps=3).path(INPUTS, TARGETS)
    *_, got = FineTuner(learner(optimizer), INPUTS[:2], 3, steps=3, lr=0.03).path(INPUTS, TARGETS)
    for name, weight in wanted.weights.items():
        torch.testing.assert_close(got.weights[name], weight)


class WithContext(MLP):
    """Of inputs and a context, by a normalised layer."""

    context: Tensor

    def __init__(self) -> None:
        super().__init__(inputs=6, outputs=3)
        self.norm = nn.LayerNorm(6)
        self.register_buffer("context", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = super().forward(self.norm(torch.cat([x, self.context.expand(len(x), 2)], 1)))
        return predicted


@pytest.mark.parametrize(("fast", "rows"), [("context", []), ("*", ["norm.*"]), ("context", ["norm.*"])], ids=str)
def test_contexts_and_weights_per_step_are_in_the_adapted_model(fast: str, rows: list[str]) -> None:
    torch.manual_seed(0)
    meta = MetaLearner(WithContext(), SGD(lr=0.1), inner_steps=2, fast_weights=[fast], per_step_weights=rows)
    with torch.no_grad():
        for row in meta.inner_loop.learnt.parameters():
            row.add_(0.3 * torch.rand_like(row))
    batch = Batch(INPUTS[None], TARGETS[None])
    *_, wanted = meta.inner_loop.path(Tasks((batch,), batch, torch.zeros(1)), 2)
    tuner = FineTuner(meta, INPUTS[:2], 3, steps=2)
    *_, last = tuner.path(INPUTS, TARGETS)
    adapted = tuner.module(last.weights, INPUTS)
    torch.testing.assert_close(adapted(INPUTS), meta.inner_loop.predict(wanted, INPUTS[None])[0])
    assert (adapted(INPUTS) - meta.inner_loop.model(INPUTS)).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    meta = MetaLearner(model, SGD(lr=0.1)).train()
    paths = [list(FineTuner(meta, INPUTS[:2], 3, steps=2).path(INPUTS, TARGETS)) for _ in range(2)]
    assert [step.loss for step in paths[0]] == [step.loss for step in paths[1]]


def test_matrices_between_classes_are_those_of_other_classes_too() -> None:
    """What they make of a class's own row, and of each other one's, on average."""
    meta = learner(MetaCurvature(SGD(lr=0.1)))
    with torch.no_grad():
        meta.inner_loop.learnt["curvature.head.weight.0"].copy_(torch.tensor([[1.0, 4, 4], [4, 2, 4], [4, 4, 3]]))
    kept = meta.inner_loop.learnt["curvature.head.weight.1"]
    tuner = FineTuner(meta, INPUTS[:2], 2, lr=0.5)
    torch.testing.assert_close(tuner.inner_loop.learnt["curvature.head.weight.0"], torch.tensor([[2.0, 4], [4, 2]]))
    assert torch.equal(tuner.inner_loop.learnt["curvature.head.weight.1"], kept)
    assert tuner.inner_loop.learnt["curvature.head.bias"].shape == (2,)
    assert tuner.inner_loop.optimizer == MetaCurvature(SGD(lr=0.5))


def test_what_cannot_work_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="steps: has to be at least 1, got 0"):
        FineTuner(learner(), INPUTS, 3, steps=0)
    with pytest.raises(ValueError, match="lr: the inner rate has to be a positive number, got -1"):
        FineTuner(learner(), INPUTS, 3, lr=-1)
    with pytest.raises(ValueError, match=r"inputs: the model does not take examples of shape \(5,\)"):
        FineTuner(learner(), torch.randn(2, 5), 3)
    with pytest.raises(ValueError, match=r"inputs: the model does not take examples of shape \(3, 84, 84\)"):
        FineTuner(MetaLearner(Conv4(filters=4)), torch.randn(2, 3, 84, 84), 5)
    kinked = MetaLearner(MLP(inputs=4, outputs=3, activation="relu"))
    with pytest.raises(FloatingPointError, match=r"support set is nan after .* inner steps; lower the rate"):
        list(FineTuner(kinked, INPUTS, 3, steps=9, lr=1e30).path(INPUTS, TARGETS))


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild inner_optimizer")
def test_an_optimizer_without_a_rate_refuses_one() -> None:
    class Sign(InnerOptimizer):
        def start(self, fast: Params) -> None:
            return None

        def step(self, j: int, fast: Params, gradient: Params, state: None, learnt: Params) -> tuple[Params, None]:
            return {name: theta - 0.01 * gradient[name].sign() for name, theta in fast.items()}, None

    meta = MetaLearner(MLP(inputs=4, outputs=3), Sign())
    *_, last = FineTuner(meta, INPUTS, 3, steps=5).path(INPUTS, TARGETS)
    assert last.loss < 1.2
    with pytest.raises(ValueError, match="lr: the checkpoint's inner optimizer, Sign, has no rate of this name"):
        FineTuner(meta, INPUTS, 3, lr=0.1)


def test_the_learner_is_left_as_it_was() -> None:
    meta = learner(SGD(lr=0.1, learn="parameter"))
    before = {name: value.clone() for name, value in meta.state_dict().items()}
    list(FineTuner(meta, INPUTS[:2], 5, steps=2).path(INPUTS, TARGETS))
    assert all(torch.equal(value, before[name]) for name, value in meta.state_dict().items())
    assert all(parameter.requires_grad for parameter in meta.inner_loop.parameters())
    assert isinstance(meta.inner_loop, InnerLoop)


REGISTERED: dict[str, Any] = {}


class Referring(nn.Module):
    """A model whose forward pass finds its first layer by other ways than an attribute."""

    def __init__(self, how: str = "attribute") -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(4, 5), nn.Linear(5, 3), how
        self.closure = lambda x: self.first(x)
        self.weak = [weakref.ref(self.first)]
        self.weak_weight = weakref.ref(self.first.weight)
        REGISTERED.update(layer=self.first, weight=self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        layers: dict[str, Callable[[Tensor], Tensor]] = {
            "attribute": self.first,
            "closure": self.closure,
            "global": REGISTERED["layer"],
            "weakref": self.weak[0](),  # type: ignore[dict-item]  # it is alive
            "global weight": lambda x: x @ REGISTERED["weight"].T + self.first.bias,
            "weakref of a weight": lambda x: x @ self.weak_weight().T + self.first.bias,  # type: ignore[union-attr]
        }
        predicted: Tensor = self.last(torch.tanh(layers[self.how](x)))
        return predicted


def referring(how: str) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(Referring(how), SGD(lr=0.1), inner_steps=2)


def test_a_closure_over_the_model_adapts_the_tuners_own() -> None:
    """And not the learner's, whose weights may go on to change."""
    plain, closure = (FineTuner(referring(how), INPUTS, 3, steps=2) for how in ("attribute", "closure"))
    wanted, found = (list(tuner.path(INPUTS, TARGETS))[-1].weights for tuner in (plain, closure))
    assert all(torch.equal(weight, found[name]) for name, weight in wanted.items())
    meta = referring("closure")
    tuner = FineTuner(meta, INPUTS, 3, steps=2)
    *_, last = tuner.path(INPUTS, TARGETS)
    adapted = tuner.module(last.weights, INPUTS)
    before = adapted(INPUTS)
    torch.testing.assert_close(before, tuner.predict(last.weights, INPUTS))
    with torch.no_grad():
        meta.inner_loop.model.get_parameter("first.weight").mul_(5)
    assert torch.equal(adapted(INPUTS), before)


@pytest.mark.parametrize("how", ["global", "weakref", "global weight", "weakref of a weight"])
def test_a_copy_that_computes_with_the_learners_weights_is_refused(how: str) -> None:
    meta = referring(how)
    before = {name: value.clone() for name, value in meta.state_dict().items()}
    with pytest.raises(ValueError, match=r"model: a copy of it, .* by a closure, a global, a weakref .*; let it use"):
        FineTuner(meta, INPUTS, 3)
    assert all(torch.equal(value, before[name]) for name, value in meta.state_dict().items())
    assert meta.inner_loop.training


def test_a_frozen_learner_adapts_as_before() -> None:
    wanted, meta = list(FineTuner(learner(), INPUTS, 3, steps=2).path(INPUTS, TARGETS))[-1].weights, learner()
    meta.freeze()
    found = list(FineTuner(meta, INPUTS, 3, steps=2).path(INPUTS, TARGETS))[-1].weights
    assert all(torch.equal(weight, found[name]) for name, weight in wanted.items())


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]), ignore_index=0),
        nn.MultiMarginLoss(),
    ],
)
@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild loss")
def test_parts_of_a_large_support_set_add_up_to_its_loss(loss: nn.Module) -> None:
    """The parts hold unequal numbers of what counts."""
    draw = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(601, 4, generator=draw), torch.randint(0, 3, (601,), generator=draw)
    targets[1::3] = 1
    meta = learner(SGD(lr=0.01), loss=loss)
    *_, last = FineTuner(meta, INPUTS[:2], 3, steps=1).path(inputs, targets)
    batch = Batch(inputs[None], targets[None])
    *_, wanted = meta.inner_loop.path(Tasks((batch,), batch, torch.zeros(1)), 1)
    for name, weight in wanted.items():
        torch.testing.assert_close(last.weights[name], weight)
    with torch.no_grad():
        predictions = meta.inner_loop.predict(wanted, batch.inputs)
    assert last.loss == pytest.approx(float(loss(predictions[0], targets)), rel=1e-4)
    counts = targets != getattr(loss, "ignore_index", -100)
    right = (predictions[0].argmax(1) == targets)[counts]
    assert last.accuracy == pytest.approx(float(right.float().mean()))


@pytest.mark.parametrize("row", [0, 1, 299])
def test_targets_of_all_parts_of_a_support_set_are_looked_at(row: int) -> None:
    inputs, targets = torch.randn(300, 4), torch.ones(300, 3)
    tuner = FineTuner(learner(loss=nn.BCEWithLogitsLoss(), metrics={}), inputs[:2])
    next(tuner.path(inputs, targets))
    targets[row, -1] = 3.0  # also in a second call
    with pytest.raises(ValueError, match="targets: BCEWithLogitsLoss takes targets of 0 to 1, got 3"):
        next(tuner.path(inputs, targets))


def test_a_support_set_is_learnt_from_the_least_loss_that_is_possible() -> None:
    labels, soft = torch.tensor([0, 1, 2]), torch.tensor([[0.7, 0.2, 0.1]])
    plain = nn.CrossEntropyLoss()
    assert learnt_at(plain, labels, 3) == LEARNT
    assert learnt_at(nn.MSELoss(), torch.rand(3), 3) == LEARNT
    for loss, targets in ((nn.CrossEntropyLoss(label_smoothing=0.3), labels), (plain, soft)):
        shares = soft if targets is soft else 0.7 * torch.eye(3) + 0.1
        least = float(loss(shares.log(), targets))
        assert least > 0.5
        assert learnt_at(loss, targets, 3) == pytest.approx(least + LEARNT, abs=1e-6)
    summed = nn.CrossEntropyLoss(reduction="sum", ignore_index=2)
    assert learnt_at(summed, labels, 3) == pytest.approx(2 * LEARNT)


def test_a_segmentation_has_an_accuracy_of_its_places() -> None:
    class Places(MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).movedim(-1, 1)

    targets = torch.arange(3).repeat(9, 2)
    targets[:, 0] = 255
    meta = MetaLearner(Places(inputs=4, outputs=3), SGD(lr=0.1), loss=nn.CrossEntropyLoss(ignore_index=255))
    path = list(FineTuner(meta, torch.zeros(2, 6, 4), steps=3).path(torch.randn(9, 6, 4), targets))
    assert all(step.accuracy is not None and 0 <= step.accuracy <= 1 for step in path)
    assert FineTuner(meta, torch.zeros(2, 6, 4), steps=3).most_steps == 3
