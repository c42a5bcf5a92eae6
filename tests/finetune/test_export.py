"""Exported files against the module, on one image and on many, and what is done where they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import litmaml
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.export import export_onnx, export_pt2
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import Conv4


@pytest.fixture(scope="module", params=["batch", "group"])
def model(request: pytest.FixtureRequest) -> AdaptedModel:
    norm: Literal["batch", "group"] = request.param
    torch.manual_seed(0)
    learner = MetaLearner(Conv4(ways=3, filters=8, norm=norm))
    return litmaml.adapt(learner, torch.rand(8, 1, 28, 28), torch.arange(8) % 4, steps=2)


def test_both_kinds_predict_as_the_module_does(model: AdaptedModel, tmp_path: Path) -> None:
    inputs = torch.rand(64, 1, 28, 28)
    export_pt2(model, inputs[:5], tmp_path / "model.pt2")
    export_onnx(model, inputs[:5], tmp_path / "model.onnx")
    program = torch.export.load(tmp_path / "model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [part.name for part in (*session.get_inputs(), *session.get_outputs())] == ["inputs", "predictions"]
    for size in (1, 2, 3, 64):
        wanted = model(inputs[:size]).detach()
        torch.testing.assert_close(program(inputs[:size]), wanted, rtol=1e-5, atol=1e-5)
        got = torch.from_numpy(session.run(None, {"inputs": inputs[:size].numpy()})[0])
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]


def test_a_file_that_predicts_otherwise_is_told(tmp_path: Path) -> None:
    class Fickle(nn.Linear):
        """Adds one when it is traced."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (1 if torch.compiler.is_exporting() else 0)

    with pytest.raises(ValueError, match=r"model\.pt2 predicts otherwise than the module on 1 inputs, by up to 1"):
        export_pt2(Fickle(4, 2).eval(), torch.rand(3, 4), tmp_path / "model.pt2")


class Sized(nn.Module):
    """Outputs of a size, and of another where it is traced; the second output stays at 1."""

    def __init__(self, size: float, off: float = 0.0) -> None:
        super().__init__()
        self.size, self.off = size, off
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        size = self.size * (1 + self.off) if torch.compiler.is_exporting() else self.size
        predicted: Tensor = self.last(torch.tanh(self.first(x))) * torch.tensor([size, 1.0])
        return predicted


@pytest.mark.parametrize("size", [1e-5, 1.0, 1e6])
@pytest.mark.parametrize("export", [export_pt2, export_onnx])
def test_files_are_judged_by_the_size_of_each_output(
    export: Callable[[nn.Module, Tensor, Path], None], size: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    file = tmp_path / "model"
    export(Sized(size).eval(), torch.rand(3, 4), file.with_suffix(".pt2"))
    with pytest.raises(ValueError, match=r"predicts otherwise than the module on (1|64) inputs"):
        export(Sized(size, off=1e-3).eval(), torch.rand(3, 4), file.with_suffix(".pt2"))


def test_onnx_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        ImportError,
        match=r"the extra litmaml\[onnx\] names .*pip install onnx onnxscript onnxruntime",
    ):
        export_onnx(nn.Linear(4, 2), torch.rand(3, 4), tmp_path / "model.onnx")
