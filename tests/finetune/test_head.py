"""Replacing the head: which layer it is, what it starts from, and why."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from litmaml.finetuning.adaptation import adapt
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.inner import SGD, HigherOptimizer, InnerOptimizer
from litmaml.inner.head import find_heads, replace_head
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP, Conv4


class Backwards(nn.Module):
    """Layers in another order than that of their calls, and a hidden one as wide as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(3, 3)
        self.hidden = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(torch.tanh(self.hidden(x)))
        return scores


class Transformer(nn.Module):
    """Parameters of its own, which are looked up after its layers, and one head or the mean of two, as DeiT has."""

    def __init__(self, distilled: bool = False) -> None:
        super().__init__()
        self.token, self.temperature = nn.Parameter(torch.randn(6)), nn.Parameter(torch.tensor(2.0))
        self.body = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
        self.head = nn.Linear(6, 3)
        self.more = nn.Linear(6, 3) if distilled else None

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x + self.token)
        logits: Tensor = self.head(seen) if self.more is None else (self.head(seen) + self.more(seen - 1)) / 2
        return logits * self.temperature


class Wrapper(nn.Module):
    """Around another model, with a scale."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.scale = model, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x) * self.scale
        return logits


def test_modules_with_parameters_of_their_own_are_no_heads() -> None:
    x = torch.randn(3, 6)
    for model, heads in (
        (Transformer(), ["head"]),
        (Wrapper(Transformer()), ["model.head"]),
        (Transformer(distilled=True), ["head", "more"]),
        (Wrapper(Wrapper(MLP(inputs=6, outputs=3))), ["model.model.head"]),
    ):
        assert find_heads(model, x) == heads
        for head in heads:
            replace_head(model, head, 5)
        assert torch.equal(model(x), torch.zeros(3, 5))


class Adapter(nn.Module):
    """A low-rank term beside the logits: as wide as the head, but not all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.down, self.up = nn.Linear(6, 3), nn.Linear(6, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        skipped = x[:, :3]
        logits: Tensor = self.head(x) + self.up(self.down(x)) + skipped
        return logits


def test_what_gives_the_logits_beside_a_head_is_seen() -> None:
    with pytest.raises(ValueError, match=r"its head cannot be told.*from which alone they come; name it"):
        find_heads(Adapter(), torch.randn(3, 6))


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_a_head_is_named_by_hand() -> None:
    torch.manual_seed(0)
    learner, inputs, targets = (
        MetaLearner(Transformer(distilled=False), SGD(lr=0.1)),
        torch.randn(8, 6),
        torch.arange(8) % 4,
    )
    assert FineTuner(learner, inputs, 4, head="head").replaced_heads == ["head"]
    for head, told in (
        ("fc", "head: it is no layer of the model, got 'fc'; name one of head, body.0"),
        ("body.1", "head: it is a LayerNorm, no Linear or convolution, got 'body.1'"),
        ("body.0", "head: the logits come from head, got 'body.0'; name that, or leave it out"),
    ):
        with pytest.raises(ValueError, match=told):
            adapt(learner, inputs, targets, head=head)


@pytest.mark.parametrize(
    ("model", "example", "head"),
    [
        (Conv4(ways=3, filters=4), torch.randn(2, 1, 28, 28), "head"),
        (Backwards(), torch.randn(2, 6), "scores"),
        (nn.Linear(6, 3), torch.randn(2, 6), ""),
        (
            nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            torch.randn(2, 1, 5, 5),
            "0",
        ),
        (nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3, bias=False)), torch.randn(2, 6), "1"),
    ],
    ids=["Conv4", "by calls", "alone", "convolution", "no bias"],
)
def test_the_last_layer_called_becomes_a_zero_head_of_any_width(model: nn.Module, example: Tensor, head: str) -> None:
    assert find_heads(model, example) == [head]
    replace_head(model, head, 7)
    logits = model(example)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("model", "last"),
    [
        (nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3)), r"the last layer is 1 \(LayerNorm\)"),
        (nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (3, 2)), nn.Flatten(2)), "of width 3"),
    ],
)
def test_a_model_without_such_a_head_is_refused_with_a_remedy(model: nn.Module, last: str) -> None:
    with pytest.raises(
        ValueError, match=f"(?s){last}.*name it \\(head\\), keep to .* classes, or take a model that ends in a Linear"
    ):
        find_heads(model, torch.randn(2, 6))


@pytest.mark.parametrize("optimizer", [SGD(lr=0.3), SGD(lr=0.1, momentum=0.9), HigherOptimizer(options={"lr": 0.1})])
def test_zero_and_mean_rows_predict_the_same(optimizer: InnerOptimizer) -> None:
    """What the docstring says: cross entropy does not see what all rows have in common."""
    torch.manual_seed(0)
    learner = MetaLearner(MLP(inputs=4, outputs=3), optimizer, test_inner_steps=4).double()
    inputs, targets = torch.randn(10, 4).double(), torch.arange(10) % 5
    predictions = []
    for start in ("zero", "mean"):
        tuner = FineTuner(learner, inputs, 5, steps=4)
        if start == "mean":
            learnt, made = learner.inner_loop.model.get_submodule("head"), tuner.inner_loop.model.get_submodule("head")
            with torch.no_grad():
                for name, weight in made.named_parameters():
                    weight.copy_(learnt.get_parameter(name).mean(0, keepdim=True).expand_as(weight))
        *_, last = tuner.path(inputs, targets)
        predictions.append(tuner.predict(last.weights, inputs).softmax(1))
    torch.testing.assert_close(predictions[0], predictions[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("per_step", [False, True])
def test_learnt_rates_of_a_new_head_are_means_over_the_classes(per_step: bool) -> None:
    learner = MetaLearner(
        MLP(inputs=4, outputs=3, hidden=[5]), SGD(lr=0.1, learn="parameter", per_step=per_step), inner_steps=2
    )
    rates = dict(learner.inner_loop.learnt.named_parameters())
    with torch.no_grad():
        for rate in rates.values():
            rate.uniform_(0.1, 1.0)
    tuner = FineTuner(learner, torch.randn(2, 4), 6)
    new = dict(tuner.inner_loop.learnt.named_parameters())
    for name, rate in rates.items():
        if "head" in name:
            lead = 1 if per_step else 0
            assert new[name].shape[lead] == 6
            torch.testing.assert_close(new[name], rate.mean(lead, keepdim=True).expand_as(new[name]))
        else:
            assert torch.equal(new[name], rate)


def test_only_the_head_moves_from_an_anil_checkpoint() -> None:
    torch.manual_seed(0)
    learner = MetaLearner(MLP(inputs=4, outputs=3), SGD(lr=0.1), fast_weights=["head.*"])
    before = copy.deepcopy(learner.inner_loop.model.state_dict())
    inputs, targets = torch.randn(12, 4), torch.arange(12) % 4
    tuner = FineTuner(learner, inputs, 4, steps=3)
    *_, last = tuner.path(inputs, targets)
    model = tuner.module(last.weights, inputs).network
    assert set(last.weights) == {"head.weight", "head.bias"}
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items() if "body" in name)
    assert cross_entropy(model(inputs), targets) < cross_entropy(torch.zeros(12, 4), targets)
    assert all(torch.equal(w, before[n]) for n, w in learner.inner_loop.model.state_dict().items())


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_a_head_is_not_looked_for_beside_scripted_parts() -> None:
    """They take no hooks, so that a layer before the scripted one would be taken for the last."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), torch.jit.script(nn.Linear(3, 3)))
    learner, inputs, targets = MetaLearner(model, SGD(lr=0.1)), torch.randn(9, 4), torch.arange(9) % 3
    adapted = adapt(learner, inputs, targets)
    assert cross_entropy(adapted(inputs), targets) < cross_entropy(model(inputs), targets)
    with pytest.raises(ValueError, match=r"model: its head cannot be looked for, since 2 is a ScriptModule.*; name it"):
        adapt(learner, inputs, torch.arange(9) % 4)
