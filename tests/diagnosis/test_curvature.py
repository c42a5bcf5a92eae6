"""L and rho where they are known."""

from __future__ import annotations

import math

import pytest
import torch
from constructed_tasks import (
    Cubic,
    HalfSquare,
    LogCosh,
    Mean,
    axes,
    hessians_of_quadratics,
    linear,
    loop,
    quadratics,
    tasks_of,
)
from torch import Tensor, nn

from litmaml.measure.curvature import curvature
from litmaml.measure.hessians import largest_eigenvalues
from litmaml.models import MLP


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_largest_curvature_of_quadratics_is_right(dtype: torch.dtype, steps: int) -> None:
    tasks = quadratics(dtype=dtype)
    found = curvature(loop(linear(torch.ones(6, dtype=dtype)), HalfSquare(), 0.05, steps), tasks, steps)
    eigenvalues = torch.linalg.eigvalsh(hessians_of_quadratics(tasks))[:, -1]
    assert found.smoothness.value == pytest.approx(float(eigenvalues.max()), rel=0.01)
    for point in found.by_point:
        assert point.value == pytest.approx(float(eigenvalues.mean()), rel=0.01)


def test_quadratics_have_no_third_derivative() -> None:
    found = curvature(loop(linear(torch.ones(6)), HalfSquare(), 0.05, 3), quadratics(dtype=torch.float32), 3)
    assert found.hessian_lipschitz.value == 0
    assert "below the rounding" in found.hessian_lipschitz.note


def test_the_largest_curvature_of_log_cosh_is_right() -> None:
    scales, centre = torch.tensor([1.0, 3.0, 2.0]).double(), torch.tensor([0.3, -0.2, 0.5]).double()
    start = centre + torch.tensor([0.7, 0.0, 0.4])  # the sharpest coordinate stands where it is sharpest
    found = curvature(loop(linear(start), LogCosh(), 0.01, 5), axes(scales, centre), 5)
    assert found.smoothness.value == pytest.approx(9 / 3, rel=0.01)


def test_the_curvature_after_the_last_step_is_looked_at() -> None:
    scales, centre = torch.tensor([2.0]).double(), torch.zeros(1).double()
    inner_loop = loop(linear(torch.tensor([1.0]).double()), LogCosh(), 0.2, 4)
    tasks = axes(scales, centre)
    *_, last = inner_loop.path(tasks, 4)
    expected = 4 / float(torch.cosh(2 * last["weight"][0])) ** 2
    assert curvature(inner_loop, tasks, 4).by_point[-1].value == pytest.approx(expected, rel=1e-6)


def test_a_negative_curvature_counts_by_its_size() -> None:
    class Saddle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.1, 0.1]))

        def forward(self, x: Tensor) -> Tensor:
            return x * (self.w[0] ** 2 - 3 * self.w[1] ** 2)

    tasks = tasks_of(torch.ones(2, 1, 1), torch.zeros(2, 1, 1))
    assert curvature(loop(Saddle(), Mean(), 0.01, 1), tasks, 1).smoothness.value == pytest.approx(6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lipschitz_constant_of_log_cosh_is_right(dtype: torch.dtype) -> None:
    # |f'''| of log cosh(a w) is at most a^3 4 / (3 sqrt 3), where tanh^2 = 1/3.
    scales, centre = torch.tensor([1.0, 2.0, 1.5], dtype=dtype), torch.zeros(3, dtype=dtype)
    start = torch.tensor([1.2, math.atanh(1 / math.sqrt(3)) / 2 + 0.01, 0.1], dtype=dtype)
    found = curvature(loop(linear(start), LogCosh(), 0.1, 3), axes(scales, centre), 3)
    assert found.hessian_lipschitz.value == pytest.approx(8 / 3 * 4 / (3 * math.sqrt(3)), rel=0.05)


def test_the_lipschitz_constant_of_a_cubic_is_right() -> None:
    stream = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=stream, dtype=torch.float64)).Q
    scales = torch.tensor([0.5, 1.0, 1.7, 2.0]).double()
    rows = (scales[:, None] * turn).expand(2, -1, -1)
    tasks = tasks_of(rows, torch.zeros(2, 4, 1).double())
    start = turn.mT @ torch.tensor([1.0, -1.0, 2.0, 0.3]).double()
    found = curvature(loop(linear(start), Cubic(), 0.02, 2), tasks, 2)
    assert found.hessian_lipschitz.value == pytest.approx(8 / 4, rel=0.05)


def test_kinks_have_no_lipschitz_constant() -> None:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2, 10, 1, generator=stream)
    found = curvature(loop(MLP(activation="relu", hidden=[8]), HalfSquare(), 0.1, 1), tasks_of(x, x.sin()), 1)
    assert found.hessian_lipschitz.value is None
    assert "kinks of body.2 (ReLU)" in found.hessian_lipschitz.note


def test_a_relu_in_the_forward_of_a_model_is_a_kink() -> None:
    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(1, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.out(torch.relu(self.into(x)))
            return output

    x = torch.randn(2, 10, 1, generator=torch.Generator().manual_seed(0))
    found = curvature(loop(Rectified(), HalfSquare(), 0.1, 1), tasks_of(x, x.sin()), 1)
    assert "kinks of forward (relu)" in found.hessian_lipschitz.note


def test_a_hidden_jump_of_the_hessian_is_noticed() -> None:
    class Kink(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.1]).double())

        def forward(self, x: Tensor) -> Tensor:
            return x * (self.w.clamp(min=0) ** 2 + self.w)

    # The step from 0.1 along the gradient 1.2 ends at -0.1: the middle of the segment is the kink.
    tasks = tasks_of(torch.ones(2, 1, 1).double(), torch.zeros(2, 1, 1).double())
    found = curvature(loop(Kink(), Mean(), 0.2 / 1.2, 1), tasks, 1)
    assert found.hessian_lipschitz.value is None
    assert "does not shrink" in found.hessian_lipschitz.note


def test_where_nothing_moves_rho_cannot_be_told() -> None:
    tasks = axes(torch.tensor([1.0, 2.0]), torch.zeros(2))
    found = curvature(loop(linear(torch.zeros(2)), LogCosh(), 0.1, 1), tasks, 1)
    assert found.hessian_lipschitz.value is None
    assert "do not move" in found.hessian_lipschitz.note


def test_lanczos_finds_the_largest_of_many() -> None:
    stream = torch.Generator().manual_seed(0)
    matrices = torch.randn(5, 300, 300, generator=stream, dtype=torch.float64)
    matrices = (matrices + matrices.mT) / 2
    found = largest_eigenvalues(
        lambda v: torch.einsum("tij,tj->ti", matrices, v), torch.randn(5, 300, generator=stream).double(), 120
    )
    expected = torch.linalg.eigvalsh(matrices).abs().amax(1)
    torch.testing.assert_close(found.values.abs(), expected, rtol=1e-5, atol=0)
    assert bool((found.errors <= 1e-3 * expected).all())


def test_lanczos_stops_where_the_space_ends() -> None:
    diagonal = torch.tensor([[3.0, 3.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 6])
    found = largest_eigenvalues(lambda v: diagonal * v, torch.ones(2, 6))
    torch.testing.assert_close(found.values, torch.tensor([3.0, 0.0]).double(), rtol=1e-5, atol=1e-6)
