"""Models that write into their inputs, as one that normalises its images in place: nobody's examples change by them."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import litmaml
from litmaml import MetaLearner
from litmaml.finetuning.export import export_onnx, export_pt2
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.inner import SGD
from litmaml.tasks import copies


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False)
        self.head = nn.Linear(6, 3)

    def normalised(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 2.0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.norm(self.body(self.normalised(x)))))
        return logits


class InPlace(Plain):
    def normalised(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(2.0)


X, Y = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
QUERY = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def learner(kind: type[Plain]) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(kind(), SGD(0.1), inner_steps=2)


def test_every_step_and_every_frozen_model_is_that_of_the_same_examples() -> None:
    losses, predictions = [], []
    for kind in (Plain, InPlace):
        x, query = X.clone(), QUERY.clone()
        tuner = FineTuner(learner(kind), x[:4], 3, steps=3)
        steps = list(tuner.path(x, Y))
        losses.append([step.loss for step in steps])
        predictions.append([tuner.module(step.weights, x)(query) for step in steps])
        assert torch.equal(x, X)
        assert torch.equal(query, QUERY)
    assert losses[0] == losses[1]
    assert all(map(torch.equal, *predictions))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_adapted_saved_and_exported_predicts_the_same(tmp_path: Path) -> None:
    wanted = litmaml.adapt(learner(Plain), X, Y, steps=2)(QUERY)
    x, query = X.clone(), QUERY.clone()
    model = litmaml.adapt(learner(InPlace), x, Y, steps=2)
    assert torch.equal(x, X)
    assert torch.equal(model(query), wanted)
    model.save(tmp_path / "model")
    assert torch.equal(litmaml.load(tmp_path / "model")(query), wanted)
    export_onnx(model, x, tmp_path / "model.onnx")
    export_pt2(model, x, tmp_path / "model.pt2")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"inputs": copies(query).numpy()})[0]), wanted)
    assert torch.equal(query, QUERY)
