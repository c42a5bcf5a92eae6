"""Every batch of a task is looked at before training: support, Hessian products' own and query, of whatever form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bodies import Body, WrongSine, loop_of
from oracles import random_tasks
from torch import Tensor, nn

from cases import OUTER, TWICE
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.checks import check_labels
from litmaml.learner.round_trip import not_made_again
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import SecondOrder
from litmaml.tasks import Batch, Tasks, of_each_form, ordinary

PLACES = ["support 0", "support 1", "hessian 0", "hessian 1", "query"]


def changed(tasks: Tasks, place: str, change: Callable[[Batch], Batch]) -> Tasks:
    """The tasks with one of their batches changed."""
    name, _, number = place.partition(" ")
    if name == "query":
        return tasks._replace(query=change(tasks.query))
    batches = list(getattr(tasks, name))
    batches[int(number)] = change(batches[int(number)])
    others: dict[str, Any] = {name: tuple(batches)}
    return tasks._replace(**others)


def wide(batch: Batch) -> Batch:
    return batch._replace(inputs=torch.cat([batch.inputs, batch.inputs], -1))


def of_wide(special: Callable[[Body, Tensor], Tensor]) -> Callable[[Body, Tensor], Tensor]:
    """A forward pass that is another one for inputs of two features."""

    def forward(self: Body, x: Tensor) -> Tensor:
        return special(self, x[:, :1]) if x.shape[1] == 2 else self.plain(x)

    return forward


def wrong(self: Body, x: Tensor) -> Tensor:
    sine: Tensor = WrongSine.apply(self.first(x))
    return self.last(sine)


def counting(self: Body, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return self.plain(x) * self.calls


def drawing(self: Body, x: Tensor) -> Tensor:
    return self.plain(x) + torch.randn_like(x)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("outer", OUTER)
def test_a_wrong_second_derivative_for_some_batches(outer: str, place: str) -> None:
    """Of the query's outputs none is taken, and of no batch by a gradient that has no use for it."""
    loop = loop_of(Body(of_wide(wrong)))
    tasks = changed(random_tasks(3, supports=2, hessians=2), place, wide)
    if place == "query" or outer not in TWICE:
        try_first_batch(loop, tasks, OUTER[outer].make())
        return
    with pytest.raises(ValueError, match="an exact Hessian product is not the change of the gradient"):
        try_first_batch(loop, tasks, OUTER[outer].make())


@pytest.mark.parametrize("place", PLACES)
def test_state_for_some_batches(place: str) -> None:
    tasks = changed(random_tasks(3, supports=2, hessians=2), place, wide)
    with pytest.raises(ValueError, match="a forward pass gives other outputs for the same inputs"):
        try_first_batch(loop_of(Body(of_wide(counting))), tasks, SecondOrder())


@pytest.mark.parametrize("place", PLACES)
def test_randomness_for_some_batches(place: str) -> None:
    loop = loop_of(Body(of_wide(drawing)))
    assert not loop.draws
    try_first_batch(loop, changed(random_tasks(3, supports=2, hessians=2), place, wide), SecondOrder())
    assert loop.draws


def test_what_some_batches_cannot_do_at_once_is_told_once() -> None:
    loop = loop_of(Body(of_wide(lambda self, x: self.plain(x) if float(x.sum()) > 0 else self.plain(2 * x))))
    tasks = random_tasks(3, supports=2, hessians=2)
    for place in PLACES[1:4]:
        tasks = changed(tasks, place, wide)
    (remark,) = try_first_batch(loop, tasks, SecondOrder())
    assert "tasks are computed one after another" in remark
    assert not loop.mapped


class Mean(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("loss", [Mean(), nn.MSELoss()])
def test_targets_that_would_broadcast(loss: nn.Module, place: str) -> None:
    loop = loop_of(Body(Body.plain), loss=loss)
    tasks = random_tasks(3, supports=2, hessians=2)
    check_labels(loop, tasks)
    flat = changed(tasks, place, lambda batch: batch._replace(targets=batch.targets[..., 0]))
    with pytest.raises(ValueError, match=r"targets: M\w+ takes them in the shape .* \(5, 1\), got \(5,\)"):
        check_labels(loop, flat)


@pytest.mark.parametrize("place", PLACES)
def test_outputs_of_another_length_for_some_batches(place: str) -> None:
    """Which are tried with a few examples, and looked at with all."""
    loop = loop_of(Body(lambda self, x: self.plain(x[:6])))
    tasks = random_tasks(3, supports=2, hessians=2)

    def longer(batch: Batch) -> Batch:
        return Batch(batch.inputs.repeat(1, 2, 1), batch.targets.repeat(1, 2, 1))

    with pytest.raises(ValueError, match=r"predictions for each of 10 examples, .* got the shape \(6, 1\)"):
        check_labels(loop, changed(tasks, place, longer))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("loss", "fine", "bad", "message"),
    [
        (nn.BCEWithLogitsLoss(), 1.0, 3.0, r"takes targets of 0 to 1, got 3"),
        (nn.PoissonNLLLoss(), 1.0, -1.0, r"takes targets of 0 to inf, got -1"),
    ],
)
def test_numbers_outside_of_a_losss_range(loss: nn.Module, fine: float, bad: float, message: str, place: str) -> None:
    """In the last task alone."""

    def some(x: Tensor) -> Tensor:
        return torch.full_like(x, fine)

    def spoilt(batch: Batch) -> Batch:
        targets = batch.targets.clone()
        targets[-1, -1] = bad
        return batch._replace(targets=targets)

    loop = loop_of(Body(Body.plain), loss=loss)
    tasks = random_tasks(3, supports=2, hessians=2, targets=some)
    check_labels(loop, tasks)
    with pytest.raises(ValueError, match=f"targets: {type(loss).__name__} {message}"):
        check_labels(loop, changed(tasks, place, spoilt))


@pytest.mark.parametrize("place", PLACES)
def test_classes_that_the_model_does_not_have(place: str) -> None:
    model = nn.Sequential(nn.Linear(1, 3))
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.1), ["*"], 2)
    tasks = random_tasks(3, supports=2, hessians=2, targets=lambda x: (x[..., 0] > 0).long())
    check_labels(loop, tasks)
    other = changed(tasks, place, lambda batch: batch._replace(targets=batch.targets + 3 * torch.eye(3, 5).long()))
    with pytest.raises(ValueError, match=r"ways: the tasks have \d classes, but the model gives 3 logits"):
        check_labels(loop, other)


class Wider(nn.Module):
    """Its attribute counts for inputs of two features."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale**2
        self.head = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.head(x[:, :1])
        return predicted * self.scale if x.shape[1] == 2 else predicted


@pytest.mark.parametrize("place", PLACES)
def test_the_record_is_compared_on_all_of_them(place: str) -> None:
    loop = loop_of(Wider(2.0))
    recorded = {"model": {"class_path": "test_batch_forms.Wider", "init_args": {"scale": 4.0}}}
    tasks = random_tasks(3, supports=2, hessians=2)
    assert not not_made_again(loop, SecondOrder(), {}, recorded, tasks, [])
    assert (
        "gives other numbers"
        in not_made_again(loop, SecondOrder(), {}, recorded, changed(tasks, place, wide), [])["model"]
    )


def test_batches_of_inference_mode_can_all_be_differentiated() -> None:
    with torch.inference_mode():
        tasks = random_tasks(2, supports=2, hessians=2)
    found = ordinary(tasks)
    assert not any(part.is_inference() for batch in (*found.adapting, found.query) for part in batch[:2])


def test_the_first_batch_of_each_form() -> None:
    one, two = random_tasks(2), random_tasks(2, examples=7)
    batches = [one.support[0], one.query, two.query, wide(one.query)]
    assert of_each_form(batches) == [batches[0], batches[3]]
    assert of_each_form(batches, sized=True) == [batches[0], *batches[2:]]
