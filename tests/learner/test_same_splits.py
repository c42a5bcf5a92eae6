"""A distribution that gives the same tasks in every split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from litmaml.data import Sinusoid, TaskDataModule
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.models import MLP
from litmaml.outer import SecondOrder
from litmaml.tasks import Tasks, stacks_of
from quiet_trainer import quiet_trainer
from unequal import UnequalSines


@pytest.mark.parametrize("training_first", [True, False])
def test_a_learner_tells_of_tasks_that_it_was_trained_on(training_first: bool) -> None:
    learner, tasks = MetaLearner(MLP(), SGD(0.01), loss=nn.MSELoss()), Sinusoid()
    first, second = (tasks.render(tasks.sample("train", range(2), 0)) for _ in range(2))
    learner.train(training_first)
    learner._try(first)
    learner.train(not training_first)
    with pytest.warns(UserWarning, match="tasks: 1 of the first in training and in evaluation are the same"):
        learner._try(second)


def test_a_learner_is_silent_of_others() -> None:
    learner, tasks = MetaLearner(MLP(), SGD(0.01), loss=nn.MSELoss()), Sinusoid()
    batches: list[Tasks] = [tasks.render(tasks.sample(split, range(2), 0)) for split in ("val", "train")]
    for trains, batch in enumerate(batches):
        learner.train(bool(trains))
        learner._try(batch)


def test_tasks_of_unequal_size_are_compared_in_every_stack(tmp_path: Path) -> None:
    class Shifted(UnequalSines):
        def sample(self, split: Any, numbers: Any, seed: int) -> Any:
            # The first of an evaluation is in the second stack of training.
            return super().sample("train", [n + (split != "train") for n in numbers], seed)

    learner = MetaLearner(MLP(hidden=(8,)), loss=nn.MSELoss())
    data = TaskDataModule(Shifted(), meta_batch=4, train_tasks=4, val_tasks=4)
    with pytest.warns(UserWarning, match="tasks: 1 of the first in training and in evaluation are the same"):
        quiet_trainer(tmp_path, max_steps=1).fit(learner, data)


def test_one_evaluation_after_another_is_no_training(tmp_path: Path) -> None:
    learner = MetaLearner(MLP(hidden=(8,)), loss=nn.MSELoss())
    data = TaskDataModule(UnequalSines(), meta_batch=4, train_tasks=4, val_tasks=4, test_tasks=4)
    trainer = quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(learner, data)
    trainer.validate(learner, data, verbose=False)
    trainer.test(learner, data, verbose=False)
    trainer.predict(learner, data)


class Tired(nn.Module):
    """Draws where a task has more than 5 points, as a model of sets may that drops some of many."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x * (torch.rand_like(x) if len(x) > 5 else 1))
        return out


@pytest.mark.parametrize("numbers", [[1, 3, 0], [0, 2, 1]])
def test_every_stack_is_tried(numbers: list[int]) -> None:
    learner = MetaLearner(Tired(), loss=nn.MSELoss())
    stacks = stacks_of(UnequalSines().sample("train", numbers, 0))
    alone = [stack._replace(query=stack.support[0]) for stack in stacks if stack.query.examples == 8]  # of 3 points
    try_first_batch(learner.inner_loop, alone, SecondOrder())
    assert not learner.inner_loop.draws
    small_first = sorted((s._replace(query=s.support[0]) for s in stacks), key=lambda s: s.support[0].examples)
    try_first_batch(learner.inner_loop, small_first, SecondOrder())
    assert learner.inner_loop.draws
