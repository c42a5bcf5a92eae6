"""Spread and noise where they are known: their 95% intervals hold the truth as often as they say."""

from __future__ import annotations

import pytest
import torch
from constructed_tasks import Mean, NoisyQuadratic, loop, tasks_of

from litmaml.measure.estimate import Estimate, mean_estimate
from litmaml.measure.noise import noise, support_replicas
from litmaml.tasks import Batch, Tasks

SIZE, SHOTS, SPREAD, SAMPLE = 10, 5, 0.7, 1.5


def _tasks(seed: int, tasks: int, queries: int = 15) -> Tasks:
    stream = torch.Generator().manual_seed(seed)
    centres = SPREAD * torch.randn(tasks, 1, SIZE, generator=stream) + 0.3
    pulls = centres + SAMPLE * torch.randn(tasks, SHOTS + queries, SIZE, generator=stream)
    curvatures = 0.5 + torch.rand(tasks, SHOTS + queries, 1, generator=stream)
    return tasks_of(torch.cat([curvatures, pulls], 2), torch.zeros(tasks, SHOTS + queries, 1), queries)


TRUTH = {
    "task_spread": SPREAD * SIZE**0.5,
    "support_noise": SAMPLE * SIZE**0.5 / SHOTS**0.5,
    "sample_noise": SAMPLE * SIZE**0.5,
    "hessian_noise": (1 / 12 / SHOTS) ** 0.5,
    "gradient_norm": (SIZE * (SPREAD**2 + 0.3**2)) ** 0.5,
}


def _covered(draws: int, tasks: int) -> dict[str, int]:
    inner_loop = loop(NoisyQuadratic(SIZE), Mean(), 0.1, 1)
    hits = dict.fromkeys(TRUTH, 0)
    for draw in range(draws):
        found = noise(inner_loop, _tasks(draw, tasks))
        for name, truth in TRUTH.items():
            estimate: Estimate = getattr(found, name)
            assert estimate.low is not None
            assert estimate.high is not None
            hits[name] += estimate.low <= truth <= estimate.high
    return hits


def test_the_intervals_hold_the_truth() -> None:
    hits = _covered(draws=20, tasks=24)
    assert all(count >= 17 for count in hits.values()), hits


@pytest.mark.slow
def test_the_intervals_hold_the_truth_in_more_than_90_of_100_draws() -> None:
    hits = _covered(draws=400, tasks=24)
    assert all(count >= 0.91 * 400 for count in hits.values()), hits


def test_the_intervals_are_not_wide() -> None:
    found = noise(loop(NoisyQuadratic(SIZE), Mean(), 0.1, 1), _tasks(0, 200))
    for name, truth in TRUTH.items():
        estimate: Estimate = getattr(found, name)
        assert estimate.value == pytest.approx(truth, rel=0.15), name
        assert estimate.high is not None
        assert estimate.low is not None
        assert estimate.high - estimate.low < 0.4 * truth, name


def test_equal_tasks_have_no_spread_that_could_be_told() -> None:
    stream = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.ones(20, 20, 1), torch.randn(20, 20, SIZE, generator=stream)], 2)
    found = noise(loop(NoisyQuadratic(SIZE), Mean(), 0.1, 1), tasks_of(rows, torch.zeros(20, 20, 1), 15))
    assert found.task_spread.low == 0
    assert "not told apart from zero" in found.task_spread.note


def test_without_a_second_batch_the_noise_cannot_be_told() -> None:
    found = noise(loop(NoisyQuadratic(SIZE), Mean(), 0.1, 1), _tasks(0, 8, queries=3))
    assert found.support_noise.value is None
    assert "set queries" in found.support_noise.note


def test_replicas_are_composed_like_the_support() -> None:
    # Two classes, of which the support has one and two; the query has five and four in a mixed order.
    support = Batch(torch.tensor([[[100.0], [101.0], [102.0]]]), torch.tensor([[0, 1, 1]]))
    labels = torch.tensor([[0, 1, 0, 1, 0, 1, 0, 1, 0]])
    query = Batch(torch.arange(9.0).reshape(1, 9, 1), labels)
    tasks = Tasks((support,), query, torch.zeros(1, dtype=torch.int64))
    replicas = support_replicas(tasks, labelled=True)
    assert [b.targets.tolist() for b in replicas] == [[[0, 1, 1]]] * 3
    assert [b.inputs.flatten().tolist() for b in replicas] == [[100, 101, 102], [0, 1, 3], [2, 5, 7]]
    # A class that the loss ignores is one like the others; counts to regress on are none.
    ignored = Tasks(
        (support._replace(targets=torch.tensor([[-100, 1, 1]])),),
        query._replace(targets=-100 * (1 - labels) + labels),
        tasks.numbers,
    )
    assert [b.inputs.tolist() for b in support_replicas(ignored, True)] == [b.inputs.tolist() for b in replicas]
    assert [b.inputs.flatten().tolist() for b in support_replicas(tasks, labelled=False)][1] == [0, 1, 2]


def test_the_interval_of_a_mean() -> None:
    estimate = mean_estimate(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert estimate.value == 2.5
    assert estimate.low is not None
    assert 0 < estimate.low < 2.5 < (estimate.high or 0)
