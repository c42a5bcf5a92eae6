"""Freezing batch norm: the same predictions on the support set, and none that depends on its neighbours."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from litmaml.finetuning.adaptation import adapt
from litmaml.finetuning.fine_tuner import AT_ONCE, FineTuner, parts
from litmaml.finetuning.frozen_norm import batch_norms, check_independent, freeze_normalisation
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import Conv4


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Conv4(ways=5, filters=8).double()


def test_on_the_support_set_nothing_changes(model: nn.Module) -> None:
    support = torch.randn(10, 1, 28, 28).double()
    before = model(support)
    freeze_normalisation(model, [support])
    torch.testing.assert_close(model(support), before, rtol=1e-9, atol=1e-9)
    assert not batch_norms(model)


def test_a_prediction_does_not_depend_on_its_neighbours(model: nn.Module) -> None:
    images = torch.randn(20, 1, 28, 28).double()
    neighbourly = model(images)[:3]
    assert (model(images[:3]) - neighbourly).abs().max() > 0.01
    freeze_normalisation(model, [images[:10]])
    together = model(images)
    for k in range(20):
        torch.testing.assert_close(model(images[k : k + 1])[0], together[k], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(images.flip(0)).flip(0), together, rtol=1e-9, atol=1e-9)


def test_of_several_parts_the_pooled_moments_are_taken() -> None:
    layer = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).double()
    inputs = torch.randn(30, 3).double() * torch.tensor([1.0, 2.0, 3.0]) + 5
    freeze_normalisation(layer, [inputs[:10], inputs[10:]])
    torch.testing.assert_close(layer[0].running_mean, inputs.mean(0))
    torch.testing.assert_close(layer[0].running_var, inputs.var(0, unbiased=False))


def test_another_layer_that_looks_at_the_batch_is_refused() -> None:
    class Centred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0))

    with pytest.raises(ValueError, match=r"predicts an input alone otherwise than among others.*layer norm"):
        check_independent(Centred(4, 2), torch.randn(8, 4))


class Mixing(nn.Module):
    """Changes the hidden layer by what others of the batch have there."""

    def __init__(self, mix: Callable[[Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.mix, self.scale = mix, scale
        self.first, self.last = nn.Linear(1, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.scale * self.last(self.mix(torch.tanh(self.first(x))))
        return predicted


class Sequential(nn.Module):
    """Takes the examples for one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.LSTM(1, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.last(self.first(x)[0])
        return predicted


def less_the_first(h: Tensor) -> Tensor:
    return h - h[:1]


def less_the_last(h: Tensor) -> Tensor:
    return h - h[-1:]


def less_the_one_before(h: Tensor) -> Tensor:
    return h - h.roll(1, 0) if len(h) > 1 else h


def less_the_mean(h: Tensor) -> Tensor:
    return h - h.mean(0) if len(h) > 1 else h


def in_the_middle(h: Tensor) -> Tensor:
    return torch.cat([h[: len(h) // 2], h[len(h) // 2 : len(h) // 2 + 1] + h[-1:], h[len(h) // 2 + 1 :]])


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
@pytest.mark.parametrize("mix", [less_the_first, less_the_last, less_the_one_before, less_the_mean, in_the_middle])
def test_other_inputs_that_count_are_refused(mix: Callable[[Tensor], Tensor], scale: float) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"model: predicts an input alone otherwise than among others, by .*; meta"):
        check_independent(Mixing(mix, scale), torch.randn(10, 1))


def test_an_order_that_counts_is_refused() -> None:
    """Each example alone, and all of them in their order, are predicted alike."""

    def unless_in_order(h: Tensor) -> Tensor:
        return h if len(h) in (1, 10) else h - h.mean(0)

    with pytest.raises(ValueError, match="predicts an input alone otherwise than among others"):
        check_independent(Mixing(unless_in_order), torch.randn(10, 1))


def test_examples_taken_for_a_sequence_are_refused() -> None:
    x = torch.linspace(-5, 5, 10)[:, None]
    with pytest.raises(ValueError, match=r"takes the examples for a sequence; .* batch_first=True in recurrent"):
        adapt(learner_of(Sequential()), x, x.sin())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("count", [1, 2, 10, 300])
def test_rounding_is_no_dependence(count: int, scale: float) -> None:
    """Also where large numbers cancel: the prediction is then mostly rounding."""
    torch.manual_seed(0)
    check_independent(Mixing(lambda h: h, scale), torch.randn(count, 1))
    check_independent(Mixing(lambda h: (h + 1e4) - 1e4, scale), torch.randn(count, 1))
    check_independent(Mixing(lambda h: h * 0, scale), torch.randn(count, 1))


class Cancelling(nn.Module):
    """Sums that cancel to a ten thousandth, in an order that the number of inputs decides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 2048), nn.Linear(4096, 1, bias=False)
        with torch.no_grad():
            half = torch.randn(2048)
            self.last.weight.copy_(torch.cat([half, -half + 1e-4 * torch.randn(2048)])[None])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        predicted: Tensor = self.last(torch.cat([h, h], 1))
        return predicted


def test_sums_that_cancel_are_no_dependence() -> None:
    torch.manual_seed(0)
    model, x = Cancelling(), torch.randn(10, 1)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(one[None]) for one in x])
    assert (together - alone).abs().max() > 1e-4 * together.abs().max()
    check_independent(model, x)


class Normalised(nn.Module):
    """A batch norm that is called so often in a forward pass, by keyword."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.calls):
            x = torch.tanh(self.norm(input=2 * x + 1))
        predicted: Tensor = self.last(x)
        return predicted


def learner_of(model: nn.Module) -> MetaLearner:
    return MetaLearner(model, loss=nn.MSELoss())


def test_a_layer_that_is_called_twice_is_refused() -> None:
    x = torch.randn(8, 1)
    refused = pytest.raises(
        ValueError, match=r"model: its batch norm norm is called 2 times in 1 forward pass, .*; meta"
    )
    with refused:
        adapt(learner_of(Normalised(2)), x, x.sin())
    with refused:
        freeze_normalisation(Normalised(2), [x])


@pytest.mark.parametrize("calls", [0, 1])
def test_a_layer_that_is_called_once_or_not_is_frozen(calls: int) -> None:
    x = torch.randn(8, 1)
    tuner = FineTuner(learner_of(Normalised(calls)), x)
    *_, last = tuner.path(x, x.sin())
    frozen = tuner.module(last.weights, x)
    assert not batch_norms(frozen)
    torch.testing.assert_close(frozen(x), tuner.predict(last.weights, x), rtol=1e-4, atol=1e-4)


def test_a_function_that_looks_at_the_batch_is_refused() -> None:
    class Functional(Normalised):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(functional.batch_norm(self.first(x), None, None, training=True))

    x = torch.randn(8, 1)
    with pytest.raises(ValueError, match=r"model: cannot predict an input alone \(Expected more than 1.*; meta-train"):
        adapt(learner_of(Functional(0)), x, x.sin())


def test_a_support_set_in_parts_is_adapted_to_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without batch norm the parts' gradients add up to that of the whole."""
    torch.manual_seed(0)
    learner = MetaLearner(Conv4(ways=3, filters=4, norm="group")).double()
    inputs, targets = torch.randn(25, 1, 28, 28).double(), torch.arange(25).sort().values % 3
    paths = []
    for at_once in (AT_ONCE, 7):
        monkeypatch.setattr("litmaml.finetuning.fine_tuner.AT_ONCE", at_once)
        assert len(parts(inputs)) == (1 if at_once > 25 else 4)
        paths.append(list(FineTuner(copy.deepcopy(learner), inputs[:2], 3, steps=3).path(inputs, targets)))
    for one, other in zip(*paths, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert one.accuracy == other.accuracy
        for name, weight in one.weights.items():
            torch.testing.assert_close(weight, other.weights[name], rtol=1e-9, atol=1e-12)


def test_parts_of_a_sorted_set_each_have_all_classes() -> None:
    targets = torch.arange(5).repeat_interleave(200)
    found = parts(targets)
    assert max(map(len, found)) <= AT_ONCE
    assert sum(map(len, found)) == 1000
    assert all(torch.bincount(part).tolist() == [50] * 5 for part in found)
