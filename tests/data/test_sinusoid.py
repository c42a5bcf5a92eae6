"""The sinusoids are those of Finn et al. 2017."""

from __future__ import annotations

import math

import torch

from litmaml.data import Episode, Sinusoid


def test_targets_lie_on_one_sine_a_task() -> None:
    tasks = Sinusoid(Episode(shots=20, queries=30, support_batches=2)).sample("train", range(200), seed=0)
    x = torch.cat([*(batch.inputs for batch in tasks.support), tasks.query.inputs], 1).double()
    y = torch.cat([*(batch.targets for batch in tasks.support), tasks.query.targets], 1).double()
    # y = a sin x + b cos x is linear in a = A cos(phase) and b = -A sin(phase).
    solution = torch.linalg.lstsq(torch.cat([x.sin(), x.cos()], -1), y).solution.squeeze(-1)
    torch.testing.assert_close(torch.cat([x.sin(), x.cos()], -1) @ solution[..., None], y, rtol=0, atol=1e-5)
    amplitude, phase = solution.norm(dim=1), torch.atan2(-solution[:, 1], solution[:, 0])
    assert 0.1 <= amplitude.min() < 0.3
    assert 4.8 < amplitude.max() <= 5.0
    assert -1e-6 <= phase.min() < 0.1
    assert math.pi - 0.1 < phase.max() <= math.pi + 1e-6
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5


def test_batches_are_fresh_and_of_their_sizes() -> None:
    distribution = Sinusoid(
        Episode(shots=4, queries=6, support_batches=2, hessian_batches=3), Episode(shots=2, queries=3)
    )
    for split, shots, queries in (("train", 4, 6), ("val", 2, 3), ("test", 2, 3)):
        tasks = distribution.sample(split, range(5), seed=0)  # type: ignore[arg-type]
        batches = [*tasks.support, *(tasks.hessian or ()), tasks.query]
        assert [batch.inputs.shape for batch in batches] == [(5, shots, 1)] * 5 + [(5, queries, 1)]
        points = torch.cat([batch.inputs.flatten() for batch in batches])
        assert len(points.unique()) == len(points)


def test_noise_has_its_standard_deviation() -> None:
    clean = Sinusoid(Episode(shots=50, queries=50)).sample("train", range(100), seed=0)
    noisy = Sinusoid(Episode(shots=50, queries=50), noise=0.3).sample("train", range(100), seed=0)
    assert torch.equal(clean.query.inputs, noisy.query.inputs)
    error = noisy.query.targets - clean.query.targets
    assert abs(error.std().item() - 0.3) < 0.02
    assert abs(error.mean().item()) < 0.02
