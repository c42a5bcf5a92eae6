"""The oracles themselves."""

from __future__ import annotations

import pytest
import torch
from oracles import Tiny, assert_close, dense_hessian, flat, fourth_moments, relative, second_moments
from torch import nn
from torch.func import functional_call

from litmaml.weights import Params

# torch itself scripts what torch.func.hessian differentiates forwards with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def test_directions_have_the_moments_of_a_gaussian() -> None:
    points = second_moments(6)
    torch.testing.assert_close(points.T @ points / len(points), torch.eye(6))
    assert not points.sum(0).any()
    points = fourth_moments()
    assert len(points) == 48
    torch.testing.assert_close(points.T @ points / 48, torch.eye(6))
    fourth = torch.einsum("qi,qj,qk,ql->ijkl", points, points, points, points) / 48
    pairs = torch.einsum("ij,kl->ijkl", torch.eye(6), torch.eye(6))
    torch.testing.assert_close(fourth, pairs + pairs.permute(0, 2, 1, 3) + pairs.permute(0, 3, 2, 1))


def test_dense_hessian_is_the_jacobian_of_the_gradient() -> None:
    model, x, y = Tiny(), torch.randn(5, 1), torch.randn(5, 1)
    weights: Params = dict(model.named_parameters())
    hessian = dense_hessian(weights, lambda w: nn.functional.mse_loss(functional_call(model, w, (x,)), y))

    def gradient(vector: torch.Tensor) -> torch.Tensor:
        nn.utils.vector_to_parameters(vector, model.parameters())
        parts = torch.autograd.grad(nn.functional.mse_loss(model(x), y), [*model.parameters()])
        return torch.cat([part.flatten() for part in parts])

    here = flat(weights).detach().clone()
    columns = [(gradient(here + 1e-6 * e) - gradient(here - 1e-6 * e)) / 2e-6 for e in torch.eye(6)]
    torch.testing.assert_close(hessian, torch.stack(columns, 1), rtol=1e-7, atol=1e-8)


def test_a_relative_error_names_the_three_parameters_that_are_furthest_off() -> None:
    true = {name: torch.tensor([3.0, 4.0]) for name in "abcde"} | {"none": torch.zeros(2)}
    found = {name: value.clone() for name, value in true.items()}
    assert relative(found, true) == 0
    for name, by in {"a": 0.1, "c": 1.0, "d": 0.01, "e": 10.0, "none": 2.0}.items():
        found[name][0] += by
    off = relative(found, true)
    assert off == pytest.approx((0.1**2 + 1 + 0.01**2 + 10**2 + 2**2) ** 0.5 / 125**0.5)
    assert repr(off) == "9.17e-01 (e by 2.0e+00, none by 2.0e+00, c by 2.0e-01)"
    found["b"][1] = torch.nan
    assert repr(relative(found, true)) == "nan (b by nan, e by 2.0e+00, none by 2.0e+00)"
    with pytest.raises(AssertionError, match=r"assert 2\.00e-01 \(a by 2\.0e-01\) < 1e-09"):
        assert relative({"a": torch.tensor([3.0, 5.0])}, {"a": true["a"]}) < 1e-9
    with pytest.raises(AssertionError, match=r"(?s)item \['a'\].*In all off by 2\.00e-01 \(a by 2\.0e-01\)"):
        assert_close({"a": torch.tensor([3.0, 5.0])}, {"a": true["a"]})
