"""Heads that start in each task anew, at zero or from class means, against unrolling task by task."""

from __future__ import annotations

import functools

import pytest
import torch
from hops import Hop
from oracles import relative
from torch import Tensor, nn
from unrolling import Unrolled, unrolled

from cases import INNER, OUTER, SAMPLED, TWICE
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.inner.task_head import HeadStart
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, select, stacks_of
from litmaml.weights import Params

# torch itself scripts what torch.func.hessian differentiates forwards with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

STEPS = 2
ALL = ["body.weight", "body.bias", "head.weight", "head.bias"]
FAST = {"*": ALL, "head.*": ALL[2:]}


class Classifier(nn.Module):
    """Six weights: a tanh unit under two classes."""

    def __init__(self, ways: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 1), nn.Linear(1, ways, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x)))
        return logits


def loop_of(start: HeadStart, inner: str = "SGD", fast: str = "*", bias: bool = True) -> InnerLoop:
    """Always the same weights, and learnt rates that all differ."""
    torch.manual_seed(0)
    loop = InnerLoop(Classifier(bias=bias), nn.CrossEntropyLoss(), INNER[inner].make(), [fast], STEPS, head_start=start)
    with torch.no_grad():
        for rate in loop.learnt.parameters():
            rate.mul_(torch.rand_like(rate) + 0.5)
    return loop


def tasks_of(ways: int, size: int = 3, each: int = 6, supports: int = 1, hessians: int = 0, first: int = 0) -> Tasks:
    torch.manual_seed(10 + ways)

    def batch() -> Batch:
        labels = torch.stack([torch.arange(each)[torch.randperm(each)] % ways for _ in range(size)])
        return Batch((labels - 0.5 + 0.7 * torch.randn(size, each)).unsqueeze(2), labels)

    return Tasks(
        tuple(batch() for _ in range(supports)),
        batch(),
        torch.arange(first, first + size),
        tuple(batch() for _ in range(hessians)) or None,
    )


def begun(start: HeadStart, tasks: Tasks, theta: Params, task: int, ways: int, bias: bool = True) -> Params:
    """The head of one task, by the formula."""
    if start == "zero":
        return {"head.weight": torch.zeros(ways, 1), "head.bias": torch.zeros(ways)}
    x = torch.cat([batch.inputs[task] for batch in tasks.support])
    y = torch.cat([batch.targets[task] for batch in tasks.support])
    seen = torch.tanh(x @ theta["body.weight"].T + theta["body.bias"])
    means = torch.stack([seen[y == k].mean(0) for k in range(ways)])
    return {"head.weight": 2 * means} | ({"head.bias": -(means**2).sum(1)} if bias else {})


def of_oracle(
    loop: InnerLoop,
    tasks: Tasks,
    start: HeadStart,
    ways: int,
    inner: str = "SGD",
    fast: str = "*",
    hop: Hop | None = None,
) -> Unrolled:
    names = [name for name in FAST[fast] if name in loop.fast_names]
    theta_0 = functools.partial(begun, start, tasks, ways=ways, bias="head.bias" in names)
    rule = INNER[inner].rule
    return unrolled(loop, tasks, STEPS, names, rule, hop, begin=lambda theta, task: _leaves(theta_0(theta, task)))


def _leaves(head: Params) -> Params:
    """What does not depend on the weights has no gradient otherwise to be adapted by."""
    return {name: weight if weight.requires_grad else weight.requires_grad_() for name, weight in head.items()}


@functools.cache
def oracle(start: HeadStart, inner: str, fast: str, hop: Hop | None) -> Params:
    return of_oracle(loop_of(start, inner, fast), tasks_of(2), start, 2, inner, fast, hop).gradients


@pytest.mark.parametrize("fast", FAST, ids=["all", "head"])
@pytest.mark.parametrize("start", ["zero", "prototypes"])
@pytest.mark.parametrize(
    ("outer", "chunk", "inner"),
    [
        pytest.param(
            outer,
            chunk,
            inner,
            id=f"{outer}-{'looped' if chunk else 'batched'}-{inner}",
            # Every method, every inner optimizer, and both ways to compute stand in the others.
            marks=[pytest.mark.slow] if (inner != "SGD" and outer not in TWICE) or (chunk and outer in SAMPLED) else [],
        )
        for outer in OUTER
        for chunk in (None, 1)
        for inner in ("SGD", "one rate a parameter and step", "Adam, one rate a tensor and step")
        if not (chunk and outer.startswith("ZerothOrder"))
    ],
)
def test_the_outer_gradient_runs_through_the_start_of_the_head(
    outer: str, chunk: int | None, start: HeadStart, inner: str, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, loop = OUTER[outer], loop_of(start, inner, fast)
    method = row.expected(6 if fast == "*" else 4, monkeypatch)
    found = MetaGradientOf(loop, method, STEPS, tasks_per_chunk=chunk)(tasks_of(2))
    assert bool(found.finite.all())
    true = oracle(start, inner, fast, row.hop)
    assert not any("model.head" in name for name in true), "the head's own weights are not trained"
    assert found.gradients.keys() == true.keys()
    for part in ("model.", "learnt."):
        if names := [name for name in true if name.startswith(part)]:
            of_part = ({name: gradients[name] for name in names} for gradients in (found.gradients, true))
            assert relative(*of_part) < row.tolerance


@pytest.mark.parametrize("fast", FAST, ids=["all", "head"])
def test_the_path_through_the_class_means_is_no_rounding(fast: str) -> None:
    """What the tolerances above are small against: the gradient without d theta_0 / d w."""
    loop, tasks = loop_of("prototypes", fast=fast), tasks_of(2)
    with torch.no_grad():
        fixed = [begun("prototypes", tasks, dict(loop.model.named_parameters()), task, 2) for task in range(3)]
    cut = unrolled(
        loop, tasks, STEPS, FAST[fast], INNER["SGD"].rule, begin=lambda theta, task: _leaves(dict(fixed[task]))
    ).gradients
    assert relative(cut, oracle("prototypes", "SGD", fast, None)) > 0.1


@pytest.mark.parametrize("start", ["zero", "prototypes"])
def test_tasks_have_any_number_of_classes(start: HeadStart) -> None:
    """Stacks of one shape with two and three classes, of a model whose own head is for two."""
    loop, stacks = loop_of(start), (tasks_of(2), tasks_of(3, first=3))
    both = stacks_of(loop.by_classes(stacks))
    assert [stack.classes for stack in both] == [2, 3]
    mixed = Tasks(
        (Batch(*(torch.cat(parts) for parts in zip(*(s.support[0] for s in stacks), strict=True))),),
        Batch(*(torch.cat(parts) for parts in zip(*(s.query for s in stacks), strict=True))),
        torch.arange(6),
    )
    order = [0, 3, 1, 4, 2, 5]
    sorted_out = loop.by_classes(select(mixed, order))
    assert isinstance(sorted_out, tuple)
    assert [stack.numbers.tolist() for stack in sorted_out] == [[0, 1, 2], [3, 4, 5]]
    true = [of_oracle(loop, stack, start, ways).gradients for stack, ways in zip(stacks, (2, 3), strict=True)]
    mean = {name: (true[0][name] + true[1][name]) / 2 for name in true[0]}
    for chunk in (None, 2, 1):
        found = MetaGradientOf(loop, SecondOrder(), STEPS, tasks_per_chunk=chunk)(sorted_out)
        assert relative(found.gradients, mean) < 1e-10
        assert [part.shape for part in found.predictions] == [(3, 6, 2), (3, 6, 3)]
    with pytest.raises(
        ValueError, match="head_start: tasks of one stack have one number of classes, got 2 in task 0 and"
    ):
        MetaGradientOf(loop, SecondOrder(), STEPS)(mixed)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_class_means_are_over_all_support_batches(bias: bool) -> None:
    loop, tasks = loop_of("prototypes", bias=bias), tasks_of(2, each=4, supports=2, hessians=2)
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    true = of_oracle(loop, tasks, "prototypes", 2)
    assert relative(found.gradients, true.gradients) < 1e-10
    torch.testing.assert_close(found.losses, true.losses, rtol=1e-10, atol=0)


@pytest.mark.parametrize("start", ["zero", "prototypes"])
def test_evaluation_takes_the_same_path(start: HeadStart) -> None:
    loop, tasks = loop_of(start), tasks_of(3)
    with torch.inference_mode():
        first, *_, last = loop.path(tasks, STEPS)
    true = of_oracle(loop, tasks, start, 3)
    for task, adapted in enumerate(true.adapted):
        for name, weight in adapted.items():
            torch.testing.assert_close(last[name][task], weight, rtol=1e-10, atol=1e-12)
    if start == "prototypes":  # before any step the nearest class mean is predicted
        seen = torch.tanh(loop.model.get_submodule("body")(tasks.query.inputs))
        means = torch.stack(
            [begun(start, tasks, dict(loop.model.named_parameters()), k, 3)["head.weight"] / 2 for k in range(3)]
        )
        nearest = torch.cdist(seen, means).argmin(2)
        assert torch.equal(loop.predict(first, tasks.query.inputs).argmax(2), nearest)


@pytest.mark.slow
def test_a_compiled_program_is_of_one_number_of_classes() -> None:
    """Two and three classes in tasks of one shape: the number is no part of any tensor."""
    loop = loop_of("prototypes")
    compiled = MetaGradientOf(loop, SecondOrder(), STEPS, compile=True)
    for tasks, ways in ((tasks_of(2), 2), (tasks_of(3), 3), (tasks_of(2), 2)):
        assert relative(compiled(tasks).gradients, of_oracle(loop, tasks, "prototypes", ways).gradients) < 1e-10
    assert len(compiled.compiled.programs) == 2


def test_a_head_cannot_start_where_it_makes_no_sense() -> None:
    def loop(
        model: nn.Module, start: HeadStart = "prototypes", fast: str = "*", loss: nn.Module | None = None, **more: str
    ) -> InnerLoop:
        return InnerLoop(model, loss or nn.CrossEntropyLoss(), SGD(), [fast], 1, head_start=start, **more)

    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    for model, told, more in (
        (Classifier(), "head: it is no layer of the model, got 'fc'; name one of head, body", {"head": "fc"}),
        (Classifier(), "head_start: got 'ones'; one of learnt, zero, prototypes", {"start": "ones"}),
        (Classifier(), "head_start: head.weight is not adapted, got 'prototypes'", {"fast": "body.*"}),
        (Classifier(), "prototypes are means of classes, and MSELoss takes no class indices", {"loss": nn.MSELoss()}),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten()), "rows of a Linear layer, and 0 is a Conv2d", {}),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), r"the model's last layer is 1 \(LayerNorm\), no Linear", {}),
        (tied, "the head shares a weight", {}),
    ):
        with pytest.raises(ValueError, match=told):
            loop(model, **more)
    x, y = torch.randn(2, 4, 1), torch.tensor([0, 1, 0, 1]).expand(2, 4)
    for batch, told in (
        (Batch(x.unsqueeze(2).expand(-1, -1, 3, -1), y), r"flat inputs of the head \(n, d\), got \(4, 3, 1\)"),
        (Batch(x, y.float()), r"takes one class index per example as targets \(T, n\), got \(2, 4\) of torch.float"),
        (Batch(x, 2 * y), "task 7 has none of class 1 of 3"),
    ):
        tasks = Tasks((batch,), batch, torch.tensor([7, 8]))
        with pytest.raises(ValueError, match=told):
            list(loop(Classifier()).path(tasks, 1))
