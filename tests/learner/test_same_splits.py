"""A distribution that gives the same tasks in every split."""

from __future__ import annotations

import pytest
from torch import nn

from litmaml.data import Sinusoid
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.tasks import Tasks


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
