"""Inputs and targets that are trees, and tasks of unequal size, against a plain loop over tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from oracles import relative
from ragged import CASES, OUTER, RATE, STEPS, Case, by_hand
from torch import Tensor, nn

from litmaml import MetaLearner
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.inner.model_call import picked
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.models import MLP
from litmaml.outer import FirstOrder, OuterGradient, OuterLoss, SecondOrder
from litmaml.outer import compiled as module
from litmaml.outer.compiled import TooManyForms
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, flattened, form, named_tensors, numbers_of, tensors_of, tree_map

# torch's compiler imports it
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def loop_of(case: Case) -> InnerLoop:
    return InnerLoop(case.model(), case.loss(), SGD(lr=RATE), ["*"], STEPS, output=case.output)


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("name", CASES)
def test_ragged_tasks_of_trees_have_the_gradient_of_a_plain_loop(name: str, outer: str, chunk: int | None) -> None:
    case, made = CASES[name], OUTER[outer]()
    stacks, alone = case.ragged()
    assert [stack.size for stack in stacks] == [2, 1, 1, 1]
    loop = loop_of(case)
    found = MetaGradientOf(loop, made, STEPS, chunk)(stacks)
    assert relative(found.gradients, by_hand(case, loop.model, loop.loss, alone, made)) < 1e-12
    one_by_one = [MetaGradientOf(loop, made, STEPS)(task) for task in alone]
    torch.testing.assert_close(found.losses, torch.cat([one.losses for one in one_by_one]), rtol=1e-12, atol=0)
    assert [part.shape[:2] for part in found.predictions] == [(2, 5), (1, 4), (1, 9), (1, 6)]
    rows = [row for part in found.predictions for row in part]
    for row, one in zip(rows, one_by_one, strict=True):
        torch.testing.assert_close(row, one.predictions[0], rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [(FirstOrder(), 1), (SecondOrder(), STEPS)])
def test_compiled_trees_in_stacks(method: OuterGradient, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program for each of two sizes, and a third size is one too many."""
    monkeypatch.setattr(module, "MOST_FORMS", 2)
    case = CASES["nested"]
    stacks, alone = case.ragged()
    loop = loop_of(case)
    compiled = MetaGradientOf(loop, method, steps, 1, compile=True)
    true = by_hand(case, loop.model, loop.loss, [t for t in alone if int(t.numbers) in (11, 12, 14)], method, steps)
    for _ in range(2):
        assert relative(compiled(stacks[:2]).gradients, true) < 1e-12
    with pytest.raises(TooManyForms, match=r"compile: the tasks come in more than 2 forms .* round the tasks' sizes"):
        compiled(stacks[2:])


def test_each_task_counts_the_same_whatever_its_size_or_as_the_outer_loss_says() -> None:
    class Shares(OuterLoss):
        def task_weights(self, numbers: Tensor) -> Tensor:
            assert numbers.tolist() == [11, 14, 12, 13, 15]
            return numbers / numbers.sum() * len(numbers)

    case = CASES["attention"]
    stacks, alone = case.ragged()
    loop = loop_of(case)
    plain = MetaGradientOf(loop, SecondOrder(), STEPS)(stacks)
    weighed = MetaGradientOf(loop, SecondOrder(), STEPS, outer_loss=Shares())(stacks)
    one_by_one = [MetaGradientOf(loop, SecondOrder(), STEPS)(task) for task in alone]
    shares = numbers_of(stacks) / 13.0
    torch.testing.assert_close(plain.loss, torch.stack([one.loss for one in one_by_one]).mean())
    for name, found in weighed.gradients.items():
        parts = torch.stack([s * one.gradients[name] for s, one in zip(shares, one_by_one, strict=True)])
        torch.testing.assert_close(found, parts.mean(0))
    torch.testing.assert_close(weighed.loss, (shares * weighed.losses).mean())


def test_a_task_of_a_stack_that_is_not_finite_is_left_out_alone() -> None:
    case = CASES["tuple"]
    stacks, alone = case.ragged()
    stacks[1].query.targets.fill_(torch.nan)
    loop = loop_of(case)
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(stacks)
    assert found.finite.tolist() == [True, True, False, True, True]
    others = [task for task in alone if int(task.numbers) != 12]
    assert relative(found.gradients, by_hand(case, loop.model, loop.loss, others, SecondOrder())) < 1e-12


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("outer", ["SecondOrder", "GaussianSmoothing"])
def test_the_trial_of_the_first_batch_takes_trees(name: str, outer: str) -> None:
    case = CASES[name]
    loop = loop_of(case)
    assert try_first_batch(loop, case.tasks()[1], OUTER[outer]()) == []
    assert loop.predict(loop.shared_start(1).fast, case.tasks()[1].query.inputs).shape == (1, 4, 1)


def test_the_trial_finds_faults_in_models_of_trees() -> None:
    class Remembers(CASES["dict"].model):  # type: ignore[misc]
        seen = 0.0

        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            self.seen = self.seen + 1.0
            out: Tensor = super().forward(x, context) * self.seen
            return out

    class Writes(CASES["dict"].model):  # type: ignore[misc]
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            x += 1  # the second in the dict
            out: Tensor = super().forward(x, context)
            return out

    task = CASES["dict"].tasks()[1]
    with pytest.raises(ValueError, match="by what it keeps in seen"):
        try_first_batch(InnerLoop(Remembers(), nn.MSELoss(), SGD(), ["*"], 1), task, SecondOrder())
    loop = InnerLoop(Writes(), nn.MSELoss(), SGD(), ["*"], 1)
    before = task.support[0].inputs["x"].clone()
    try_first_batch(loop, task, SecondOrder())
    assert loop.changes_inputs
    MetaGradientOf(loop, SecondOrder(), 1)(task)
    torch.testing.assert_close(task.support[0].inputs["x"], before)


class Said(NamedTuple):
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    ("output", "returned"),
    [
        ("logits", lambda y: {"logits": y, "loss": None}),
        (1, lambda y: (None, y)),
        ("0.logits", lambda y: [Said(y, y)]),
        ("logits", lambda y: Said(y, y)),
    ],
)
def test_one_of_several_outputs_is_the_prediction(output: Any, returned: Any) -> None:
    class Several(MLP):
        def forward(self, x: Tensor) -> Any:
            return returned(super().forward(x))

    x = torch.randn(2, 4, 1)
    tasks = Tasks((Batch(x, x.sin()),), Batch(x + 1, x), torch.arange(2))
    torch.manual_seed(0)
    learner = MetaLearner(Several(hidden=[4]), loss=nn.MSELoss(), output=output)
    torch.manual_seed(0)
    plain = MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss())
    assert try_first_batch(learner.inner_loop, tasks, SecondOrder()) == []
    assert relative(learner.meta_gradient(tasks).gradients, plain.meta_gradient(tasks).gradients) == 0


def test_several_outputs_are_refused_with_the_name_to_set() -> None:
    class Several(MLP):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x), "hidden": x}

    x = torch.randn(2, 4, 1)
    tasks = Tasks((Batch(x, x.sin()),), Batch(x + 1, x), torch.arange(2))
    loop = InnerLoop(Several(hidden=[4]), nn.MSELoss(), SGD(), ["*"], 1)
    with pytest.raises(ValueError, match=r"model: has to return one tensor.* set output to one of 'logits', 'hidden'"):
        try_first_batch(loop, tasks, SecondOrder())
    loop = InnerLoop(Several(hidden=[4]), nn.MSELoss(), SGD(), ["*"], 1, output="scores")
    with pytest.raises(ValueError, match=r"output: .* got 'scores'; set it to one of 'logits', 'hidden'"):
        try_first_batch(loop, tasks, SecondOrder())


def test_trees() -> None:
    tree: Any = {"a": torch.zeros(2), "b": (torch.ones(3), {"c": torch.full((1,), 2.0)}), "none": None}
    assert [len(part) for part in tensors_of(tree)] == [2, 3, 1]
    assert [name for name, _ in named_tensors(tree, "inputs")] == [
        "inputs['a']",
        "inputs['b'][0]",
        "inputs['b'][1]['c']",
    ]
    doubled = tree_map(torch.add, tree, tree)
    assert doubled["b"][1]["c"].item() == 4
    assert doubled["none"] is None
    other = {"a": torch.zeros(2), "b": (torch.ones(3), {"d": torch.full((1,), 2.0)}), "none": None}
    assert flattened(tree)[1] != flattened(other)[1]
    assert form(tree, lambda part: part.shape) == form(doubled, lambda part: part.shape)
    with pytest.raises(ValueError, match="argument 2"):
        tree_map(torch.add, (tree["a"],), ())
    assert picked([Said(torch.zeros(1), torch.ones(1))], "0.hidden").item() == 1
