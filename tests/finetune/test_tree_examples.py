"""Fine-tuning where inputs, outputs or targets are several tensors: adapted, saved, loaded and exported."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from tree_models import CASES, Graph, Pair, Reader, Recurrent, Weighed, graphs, pairs, sequences, texts

import litmaml
from litmaml import FineTuner, MetaLearner
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.export import export_onnx, export_pt2
from litmaml.finetuning.held_out import folds, held_out
from litmaml.inner import SGD
from litmaml.tasks import select, tensors_of

# torch's exporter imports it
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def adapted(name: str, count: int = 12, **options: Any) -> tuple[AdaptedModel, Any, Tensor]:
    torch.manual_seed(0)
    inputs, targets = CASES[name].examples(count)
    return litmaml.adapt(CASES[name].learner(), inputs, targets, **options), inputs, targets


@pytest.mark.parametrize("name", CASES)
def test_an_adapted_model_takes_the_form_of_its_training_and_comes_back_from_its_folder(
    name: str, tmp_path: Path
) -> None:
    model, inputs, targets = adapted(name)
    further, _ = CASES[name].examples(9)
    wanted = model(further)
    assert wanted.shape == (9, *model(inputs).shape[1:])
    alone = torch.cat([model(select(further, [k])) for k in range(9)])
    torch.testing.assert_close(alone, wanted, rtol=1e-5, atol=1e-6)
    if model.classes is not None:
        assert model.classes == ["0", "1"]
        assert torch.equal(model(inputs).argmax(1), targets)
        torch.testing.assert_close(model.probabilities(further).sum(1), torch.ones(9))
    model.save(tmp_path / "model")
    loaded = litmaml.load(tmp_path / "model")
    assert torch.equal(loaded(further), wanted)
    assert loaded.output == model.output


@pytest.mark.parametrize("name", CASES)
def test_it_takes_the_steps_of_gradient_descent_written_out(name: str) -> None:
    torch.manual_seed(0)
    learner = CASES[name].learner()
    inputs, targets = CASES[name].examples(6)
    model, loop, rate = learner.inner_loop.model, learner.inner_loop, 0.05
    weights = {key: w.detach().clone().requires_grad_() for key, w in model.named_parameters()}
    for _ in range(2):
        if isinstance(inputs, dict):
            said = functional_call(model, weights, (), inputs)
        else:
            said = functional_call(model, weights, inputs if isinstance(inputs, tuple) else (inputs,))
        said = said.logits if name == "texts" else said[0] if name == "lstm" else said
        found = torch.autograd.grad(loop.loss(said, targets), list(weights.values()))
        weights = {
            key: (w - rate * g).detach().requires_grad_() for (key, w), g in zip(weights.items(), found, strict=True)
        }
    *_, last = FineTuner(learner, select(inputs, [0, 1]), steps=2, lr=rate).path(inputs, targets)
    for key, w in weights.items():
        torch.testing.assert_close(last.weights[key][0], w.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_exported_files_name_each_input(name: str, tmp_path: Path) -> None:
    model, inputs, _ = adapted(name, steps=1)
    export_pt2(model, inputs, tmp_path / "model.pt2")
    export_onnx(model, inputs, tmp_path / "model.onnx")
    program = torch.export.load(tmp_path / "model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [part.name for part in session.get_inputs()]
    assert names == CASES[name].names
    for size in (1, 3, 7):
        some, _ = CASES[name].examples(size)
        wanted = model(some).detach()
        torch.testing.assert_close(program(some), wanted, rtol=1e-5, atol=1e-5)
        given = {key: part.numpy() for key, part in zip(names, tensors_of(some), strict=True)}
        torch.testing.assert_close(torch.from_numpy(session.run(None, given)[0]), wanted, rtol=1e-5, atol=1e-5)


def test_an_input_that_is_not_used_and_names_that_are_one(tmp_path: Path) -> None:
    class Half(nn.Module):
        def forward(self, inputs: dict[str, Any]) -> Tensor:
            return inputs["x"] * 2

    class Deep(nn.Module):
        def forward(self, inputs: dict[str, Any]) -> Tensor:
            out: Tensor = inputs["a.b"] + inputs["a"]["b"]
            return out

    x = torch.rand(3, 2)
    export_onnx(Half().eval(), {"y": x, "x": x + 1}, tmp_path / "half.onnx")
    with pytest.raises(ValueError, match=r"export: two inputs would be called a\.b"):
        export_onnx(Deep().eval(), {"a.b": x, "a": {"b": x}}, tmp_path / "deep.onnx")


@pytest.mark.parametrize("make", [lambda: MetaLearner(Reader(), SGD(0.5), output="logits"), Graph])
def test_another_number_of_classes(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = make() if make is not Graph else MetaLearner(Graph(), SGD(0.5))
    inputs, labels = (texts if make is not Graph else graphs)(12, 3)
    model = litmaml.adapt(learner, inputs, ["abc"[k] for k in labels])
    assert model.classes == ["a", "b", "c"]
    assert model(inputs).shape == (12, 3)
    model.save(tmp_path / "model")
    assert torch.equal(litmaml.load(tmp_path / "model")(inputs), model(inputs))


def test_examples_come_in_any_form() -> None:
    wanted, inputs, labels = adapted("texts", steps=2)
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    for form in (
        {"input_ids": ids.tolist(), "attention_mask": mask.tolist()},
        {"input_ids": ids.int().numpy(), "attention_mask": mask.numpy()},
        UserDict(inputs),  # as a tokenizer has it
    ):
        torch.manual_seed(0)
        texts(12)
        model = litmaml.adapt(CASES["texts"].learner(), form, labels.tolist(), steps=2)
        assert torch.equal(model(form if isinstance(form, UserDict) else inputs), wanted(inputs))
    wanted, (x, context), y = adapted("pair", steps=2)
    torch.manual_seed(0)
    pairs(12)
    model = litmaml.adapt(CASES["pair"].learner(), (x.double().numpy(), context), y[:, 0], steps=2)
    assert torch.equal(model((x, context)), wanted((x, context)))


def test_truth_values_and_whole_numbers_stay_what_a_model_takes() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(3, 4), nn.Linear(4, 1)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            x: Tensor = self.table(ids).masked_fill(~mask[:, :, None], 0.0)
            out: Tensor = self.head(x.sum(1))
            return out

    learner = MetaLearner(Masked(), SGD(0.1), loss=nn.MSELoss())
    inputs = {"mask": torch.ones(4, 2, dtype=torch.bool), "ids": torch.zeros(4, 2, dtype=torch.int32)}
    # Values beside ids of whole numbers are no whole numbers.
    targets = torch.full((4, 1), 0.5)
    model = litmaml.adapt(learner, inputs, targets, steps=200)
    torch.testing.assert_close(model({**inputs, "ids": inputs["ids"].long()}), targets, rtol=0, atol=1e-3)


def test_values_beside_words_are_not_rounded() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(3, 4), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.table(x).flatten(1))
            return out

    learner = MetaLearner(Words(), SGD(0.1), loss=nn.MSELoss())
    words, values = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0.25, 0.75])
    model = litmaml.adapt(learner, words, values, steps=300)
    torch.testing.assert_close(model(words)[:, 0], values, rtol=0, atol=1e-2)


def test_targets_that_are_a_tree_are_the_losss_own() -> None:
    torch.manual_seed(0)
    inputs, values = pairs(12)
    learner = MetaLearner(Pair(), SGD(lr=0.1), loss=Weighed())
    found = litmaml.adapt(learner, inputs, {"value": values.numpy(), "weight": np.ones((12, 1))}, steps=5)
    learner = MetaLearner(learner.inner_loop.model, SGD(lr=0.1), loss=nn.MSELoss())
    torch.testing.assert_close(found(inputs), litmaml.adapt(learner, inputs, values, steps=5)(inputs))
    assert found.classes is None
    with pytest.raises(ValueError, match="classes: of targets that are a dict none can be told to be classes; leave"):
        litmaml.adapt(MetaLearner(Pair(), loss=Weighed()), inputs, {"value": values, "weight": values}, ["a", "b"])


def test_parts_of_a_large_support_set_add_up_or_are_refused() -> None:
    class OwnMean(Weighed):
        def forward(self, predictions: Tensor, targets: dict[str, Tensor]) -> Tensor:
            return super().forward(predictions, targets) / targets["weight"].mean()

    class Noisy(Weighed):
        def forward(self, predictions: Tensor, targets: dict[str, Tensor]) -> Tensor:
            return super().forward(predictions, targets) * (1 + torch.rand(()))

    torch.manual_seed(0)
    inputs, values = sequences(600)
    weight = torch.ones(600, 1, 1)
    weight[::3] = 20.0  # which lie in one of three parts

    def path(loss: nn.Module) -> list[Any]:
        torch.manual_seed(1)
        learner = MetaLearner(Recurrent(), SGD(lr=0.1), loss=loss, output="0")
        return [*FineTuner(learner, inputs[:2], steps=1).path(inputs, {"value": values, "weight": weight})]

    last = path(Weighed())[-1]
    model = Recurrent()
    model.load_state_dict({name: w[0] for name, w in last.weights.items()})
    whole = Weighed()(model(inputs)[0], {"value": values, "weight": weight})
    assert last.loss == pytest.approx(float(whole.detach()), rel=1e-5)
    with pytest.raises(ValueError, match=r"loss: OwnMean of all 600 examples is .* as the mean over parts of them"):
        path(OwnMean())
    path(Noisy())  # of which nothing is told


def test_examples_are_left_out_in_turn() -> None:
    torch.manual_seed(0)
    inputs, labels = graphs(8)
    order = labels.argsort()
    inputs, labels = select(inputs, order), labels[order]
    tuner = FineTuner(CASES["graph"].learner(), select(inputs, [0, 1]), 2)
    seen = list(held_out(tuner, inputs, labels))
    assert [left.tolist() for left, _ in seen] == [left.tolist() for left in folds(labels)]
    left, logits = seen[3]
    kept = [k for k in range(8) if k != 3]
    assert logits.shape == (1, 2)
    *_, last = tuner.path(select(inputs, kept), labels[kept])
    torch.testing.assert_close(tuner.module(last.weights, inputs)(select(inputs, left)), logits)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a part is missing": ({"x": torch.zeros(4, 2)}, torch.zeros(4, 1), r"inputs: the model does not take examples of"),
    "another length": (
        {"x": torch.zeros(4, 2), "context": torch.zeros(3, 3)},
        torch.zeros(4, 1),
        r"inputs\['context'\]: has 3 rows, and the first of inputs has 4; give a row of each for every",
    ),
    "another width": (
        {"x": torch.zeros(4, 2), "context": torch.zeros(4, 5)},
        torch.zeros(4, 1),
        r"\['x'\] \(2,\) and torch.float32, \['context'\] \(5,\) and .*right \(Linear\) takes 3 features, got 5",
    ),
    "not finite": (
        {"x": torch.zeros(4, 2), "context": torch.full((4, 3), torch.nan)},
        torch.zeros(4, 1),
        r"inputs\['context'\]: row 0 holds nan",
    ),
    "a single number": ({"x": 1.0, "context": torch.zeros(4, 3)}, torch.zeros(4, 1), r"inputs\['x'\]: has to be \(n"),
    "None": ({"x": None, "context": torch.zeros(4, 3)}, torch.zeros(4, 1), r"inputs\['x'\]: "),
    "nothing": ({}, torch.zeros(4, 1), "inputs: has no tensor, got {}"),
    "a tuple of rows": (tuple(torch.zeros(5, 2)), torch.zeros(5, 1), "targets: there are 2 inputs and 5 .*is rows"),
    "unlike targets": (
        {"x": torch.zeros(4, 2), "context": torch.zeros(4, 3)},
        torch.zeros(3, 1),
        "targets: there are 4 inputs and 3 targets",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_the_name_of_the_part(case: str) -> None:
    inputs, targets, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        litmaml.adapt(MetaLearner(Pair(), loss=nn.MSELoss()), inputs, targets)


def test_an_output_that_is_not_there_is_told_with_those_that_are() -> None:
    learner = MetaLearner(Reader(), output="scores")
    with pytest.raises(ValueError, match=r"output: the model returns nothing .* 'scores'; set it to one of 'logits'"):
        litmaml.adapt(learner, *texts(4))


def test_a_model_that_looks_at_the_whole_batch_of_a_tree_is_refused() -> None:
    class Centred(Pair):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return super().forward(x, context - context.mean(0))

    with pytest.raises(ValueError, match="model: predicts an input alone otherwise than among others"):
        litmaml.adapt(MetaLearner(Centred(), loss=nn.MSELoss()), *pairs(8))


def test_a_picture_is_of_one_variable_only(tmp_path: Path) -> None:
    model, inputs, targets = adapted("pair", steps=1)
    with pytest.raises(ValueError, match=r"inputs: only functions of one variable .* got a tuple and \(12, 1\)"):
        model.plot(tmp_path / "picture.png", inputs, targets)


def test_a_damaged_output_is_told(tmp_path: Path) -> None:
    adapted("texts", steps=1)[0].save(tmp_path / "model")
    config = tmp_path / "model" / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("output: logits", "output: [1, 2]"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged \(output: cannot be "):
        litmaml.load(tmp_path / "model")
    config.write_text(text.replace("output: logits\n", ""), encoding="utf-8")  # as older folders are
    assert litmaml.load(tmp_path / "model").output is None
