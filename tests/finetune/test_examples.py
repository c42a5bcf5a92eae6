"""A user's examples in whatever form: classes or values by the loss, reshaped where that is plain, else refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import litmaml
from litmaml.finetuning.examples import read_examples
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP, Conv4

DRAW = torch.Generator().manual_seed(0)
X, W = torch.randn(30, 4, generator=DRAW), torch.randn(4, 1, generator=DRAW)
Y = X @ W
LABELS = torch.arange(30) % 3


class Linear(nn.Module):
    """One layer, so that gradient descent on it has a closed form."""

    def __init__(self, inputs: int = 4, outputs: int = 1, squeeze: bool = False) -> None:
        super().__init__()
        self.inputs, self.outputs, self.squeeze = inputs, outputs, squeeze
        self.layer = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.squeeze(-1) if self.squeeze else y


def regression(loss: nn.Module | None = None, **changes: Any) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(Linear(**changes), SGD(lr=0.1), loss=loss or nn.MSELoss())


def classifier(loss: nn.Module | None = None) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(Linear(outputs=3), SGD(lr=0.5), loss=loss)


def descended(weights: Tensor, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """w_{j+1} = w_j - lr 2/n x' (x w_j - y)."""
    for _ in range(steps):
        weights = weights - 0.1 * 2 / len(x) * x.T @ (x @ weights - y)
    return weights


VALUES: dict[str, tuple[Any, Any]] = {
    "tensors": (X, Y),
    "flat": (X, Y[:, 0]),
    "one more dimension": (X, Y[:, :, None]),
    "numpy": (X.numpy(), Y.numpy()),
    "float64": (X.double(), Y.double()),
    "numpy float64, flat": (X.double().numpy(), Y[:, 0].double().numpy()),
    "lists": (X.tolist(), Y[:, 0].tolist()),
    "lists of tensors": (list(X), list(Y)),
    "sparse": (X.to_sparse(), Y),
    "reversed and big-endian": (X.numpy()[::-1].astype(">f8"), Y.numpy()[::-1].astype(">f4")),
    "with a graph": (X.clone().requires_grad_(), Y),
}


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("form", VALUES)
def test_values_in_any_form_are_regressed_on(form: str, squeeze: bool) -> None:
    learner = regression(squeeze=squeeze)
    model = litmaml.adapt(learner, *VALUES[form], steps=20)
    wanted = descended(learner.inner_loop.model.get_parameter("layer.weight").detach().T, X, Y, 20)
    torch.testing.assert_close(model.network.get_parameter("layer.weight").detach().T, wanted, rtol=1e-4, atol=1e-5)
    assert model.classes is None


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool])
def test_whole_numbers_are_values_for_a_regression(kind: torch.dtype) -> None:
    whole = (Y > 0) if kind == torch.bool else (3 * Y.abs()).round()
    model, other = (litmaml.adapt(regression(), X, y, steps=20) for y in (whole.to(kind)[:, 0], whole.float()))
    assert torch.equal(model(X), other(X))
    assert model.classes is None
    yes = Y > 0
    model, other = (litmaml.adapt(regression(nn.BCEWithLogitsLoss()), X, y) for y in (yes[:, 0].to(kind), yes.float()))
    assert torch.equal(model(X), other(X))


CLASSES: dict[str, tuple[Any, list[str] | None, list[str]]] = {
    "indices": (LABELS, None, ["0", "1", "2"]),
    "int32": (LABELS.int(), None, ["0", "1", "2"]),
    "column": (LABELS[:, None], None, ["0", "1", "2"]),
    "float": (LABELS.float(), None, ["0", "1", "2"]),
    "numpy uint8": (LABELS.numpy().astype("uint8"), None, ["0", "1", "2"]),
    "list": (LABELS.tolist(), None, ["0", "1", "2"]),
    "names": ([["wren", "owl", "kite"][k] for k in LABELS], ["wren", "owl", "kite"], ["wren", "owl", "kite"]),
    "names by the alphabet": ([["kite", "owl", "wren"][k] for k in LABELS], None, ["kite", "owl", "wren"]),
    "numpy names": (np.array(["a", "b", "c"])[LABELS.numpy()], None, ["a", "b", "c"]),
    "numbers as text": ([str(int(k)) for k in LABELS], None, ["0", "1", "2"]),
    "numbers as text, with names": ([str(int(k)) for k in LABELS], ["x", "y", "z"], ["x", "y", "z"]),
    "numbers that are names": ([["7", "8", "9"][k] for k in LABELS], ["7", "8", "9"], ["7", "8", "9"]),
    "numbers that are names, unsaid": ([["10", "2", "9"][k] for k in LABELS], None, ["10", "2", "9"]),
    "one-hot": (nn.functional.one_hot(LABELS), None, ["0", "1", "2"]),
    "one-hot, real": (nn.functional.one_hot(LABELS).double(), ["x", "y", "z"], ["x", "y", "z"]),
}


@pytest.mark.parametrize("form", CLASSES)
def test_classes_in_any_form(form: str) -> None:
    targets, classes, names = CLASSES[form]
    learner = classifier()
    model = litmaml.adapt(learner, X, targets, classes=classes, steps=5)
    assert model.classes == names
    assert torch.equal(model(X), litmaml.adapt(learner, X, LABELS, steps=5)(X))


@pytest.mark.parametrize(("labels", "without"), [(LABELS + 1, "0;"), (2 * LABELS, "1, 3;"), (LABELS + 7, None)])
def test_classes_without_examples_are_told(labels: Tensor, without: str | None) -> None:
    told = f"targets: of the classes 0 .. [0-9]+ there is no example of {without or ''}.*name all classes"
    with pytest.raises(ValueError, match=told):
        litmaml.adapt(classifier(), X, labels)
    if without is not None:
        names = [str(k) for k in range(int(labels.max()) + 1)]
        assert litmaml.adapt(classifier(), X, labels, classes=names, steps=1).classes == names


def test_probabilities_are_targets_of_cross_entropy() -> None:
    soft = 0.9 * nn.functional.one_hot(LABELS).float() + 0.1 / 3
    learner = classifier()
    model = litmaml.adapt(learner, X, soft, steps=5)
    smoothed = litmaml.adapt(classifier(nn.CrossEntropyLoss(label_smoothing=0.1)), X, LABELS, steps=5)
    torch.testing.assert_close(model(X), smoothed(X))


class Focal(nn.Module):
    """(1 - p)^2 of cross entropy, as many have their own."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        logs = -nn.functional.cross_entropy(predictions, targets, reduction="none")
        return (-logs * (1 - logs.exp()).square()).mean()


class Absolute(nn.Module):
    """Of values, and not of torch."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).abs().mean()


def test_a_loss_of_ones_own_has_classes_by_names_or_by_the_outputs() -> None:
    assert litmaml.adapt(classifier(Focal()), X, LABELS, steps=2).classes == ["0", "1", "2"]
    assert litmaml.adapt(classifier(Focal()), X, list(LABELS), classes=["a", "b", "c"], steps=2).classes is not None
    assert litmaml.adapt(regression(Absolute()), X, Y[:, 0], steps=2).classes is None
    assert litmaml.adapt(regression(Absolute()), X, (9 * Y[:, 0]).long(), steps=2).classes is None


def test_log_probabilities_and_dense_classes() -> None:
    torch.manual_seed(0)

    class Logs(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).log_softmax(1)

    learner = MetaLearner(Logs(outputs=3), SGD(lr=0.5), loss=nn.NLLLoss())
    assert torch.equal(
        litmaml.adapt(learner, X, LABELS, steps=3)(X), litmaml.adapt(learner, X, LABELS.float(), steps=3)(X)
    )

    class Places(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).movedim(-1, 1)

    learner = MetaLearner(Places(outputs=3), SGD(lr=0.5), loss=nn.CrossEntropyLoss(ignore_index=255))
    labels = torch.randint(0, 2, (6, 5), generator=DRAW)
    labels[:, 0] = 255
    model = litmaml.adapt(learner, torch.randn(6, 5, 4, generator=DRAW), labels)
    assert model.classes == ["0", "1", "2"]  # as many as the head has, though the third is in no example
    assert model(torch.randn(2, 5, 4)).shape == (2, 3, 5)


def test_a_feature_or_channel_that_is_left_out_is_put_in() -> None:
    learner = MetaLearner(MLP(), SGD(lr=0.01), loss=nn.MSELoss())
    x = torch.linspace(-1, 1, 9)
    assert torch.equal(
        litmaml.adapt(learner, x, x.sin())(x[:, None]), litmaml.adapt(learner, x[:, None], x.sin()[:, None])(x[:, None])
    )
    assert litmaml.adapt(learner, x[:1], x[:1])(x[:2, None]).shape == (2, 1)  # one example
    images = torch.rand(6, 28, 28)
    model = litmaml.adapt(MetaLearner(Conv4(ways=3, filters=4)), images, torch.arange(6) % 3, steps=1)
    assert model(images[:, None]).shape == (6, 3)
    whole = read_examples(learner.inner_loop, [[1], [2], [3]], [1, 2, 3])
    assert (whole.inputs.dtype, whole.targets.dtype) == (torch.float32, torch.float32)


class Words(nn.Module):
    """Takes whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.embedding(x).mean(1))
        return y


def test_whole_numbers_stay_for_a_model_that_takes_them() -> None:
    words = torch.randint(0, 10, (6, 5), generator=DRAW)
    learner = MetaLearner(Words())
    assert read_examples(learner.inner_loop, words.int().numpy(), [0, 1, 2, 0, 1, 2]).inputs.dtype == torch.int64
    assert litmaml.adapt(learner, words.tolist(), [0, 1, 2, 0, 1, 2])(words).shape == (6, 3)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_examples_follow_the_precision_and_mode_of_the_learner(kind: torch.dtype) -> None:
    learner = regression().to(kind).train()
    model = litmaml.adapt(learner, X, Y, steps=3)
    assert model(X.to(kind)).dtype == kind
    assert learner.training
    exact = litmaml.adapt(regression(), X, Y, steps=3)
    torch.testing.assert_close(model(X.to(kind)).float(), exact(X), rtol=0.05, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_examples_are_taken_to_the_device_and_back() -> None:
    for y, learner in ((Y.numpy(), regression()), (LABELS.tolist(), classifier())):
        model, other = (litmaml.adapt(learner.to(device), X, y, steps=5) for device in ("cuda", "cpu"))
        torch.testing.assert_close(model(X.cuda()).cpu(), other(X), rtol=1e-3, atol=1e-3)


def spoilt(values: Tensor, row: int, value: float) -> Tensor:
    values = values.clone()
    values[row] = value
    return values


REFUSED: dict[str, tuple[MetaLearner, Any, Any, list[str] | None, str]] = {
    "empty": (regression(), X[:0], Y[:0], None, "targets: there are 0 inputs and 0 targets; give one for each"),
    "empty lists": (regression(), [], [], None, "targets: there are 0 inputs and 0 targets"),
    "lengths": (regression(), X, Y[:7], None, "targets: there are 30 inputs and 7 targets"),
    "nan": (regression(), spoilt(X, 3, float("nan")), Y, None, r"inputs: row 3 holds nan \(1 of 30 rows"),
    "inf": (regression(), X, spoilt(Y, 29, float("-inf")), None, r"targets: row 29 holds -inf \(1 of 30 rows"),
    "none": (regression(), [[1.0] * 4, [None] * 4], [1.0, 2.0], None, "inputs: row 1 holds nan"),
    "nan label": (classifier(), X, spoilt(LABELS.float(), 2, float("nan")), None, "targets: row 2 holds nan"),
    "features": (regression(), X[:, :3], Y, None, r"inputs: .*layer \(Linear\) takes 4 features, got 3"),
    "whole features": (regression(), X[:, :3].long(), Y, None, r"layer \(Linear\) takes 4 features, got 3"),
    "channels": (MetaLearner(Conv4(filters=4)), torch.rand(2, 3, 28, 28), [0, 1], None, "takes 1 channels, got 3"),
    "pixels": (regression(), torch.ones(30, 4, dtype=torch.uint8), Y, None, "inputs: .*got uint8.*such as"),
    "text": (regression(), [["a"]], [1.0], None, "inputs: has to hold numbers"),
    "ragged": (regression(), [[1.0, 2.0], [3.0]], [1.0, 2.0], None, "inputs: all examples have to be of one shape"),
    "ragged tensors": (regression(), [X[0], X[0, :2]], [1.0, 2.0], None, r"of one shape, got \[\(2,\), \(4,\)\]"),
    "a number": (regression(), 3.0, 4.0, None, r"inputs: has to be \(n, ...\).*got the single number 3"),
    "two values": (regression(), X, Y.repeat(1, 2), None, r"targets: MSELoss .* got \(\d+, 2\)"),
    "names of values": (regression(), X, ["a", "b"] * 15, None, r"targets: .*trained on values \(MSELoss\), got 'a'"),
    "classes of values": (regression(), X, Y, ["a", "b"], r"classes: the checkpoint was trained on values \(MSELoss\)"),
    "beyond one": (regression(nn.BCEWithLogitsLoss()), X, 2 * LABELS, None, "BCEWithLogitsLoss takes targets of 0"),
    "values": (classifier(), X, Y[:, 0], None, r"targets: .*trained on classes \(CrossEntropyLoss\).*whole"),
    "one class": (classifier(), X, 0 * LABELS, None, "targets: all examples are of class 0.*give examples"),
    "all ignored": (classifier(), X, 0 * LABELS - 100, None, "targets: all are -100, which the loss ignores"),
    "twice": (classifier(), X, LABELS, ["a", "b", "a"], "classes: named more than once: a; give each"),
    "a text": (classifier(), X, LABELS, "abc", "classes: has to be a list of names, got 'abc'"),  # type: ignore[dict-item]
    "no names": (classifier(), X, LABELS, [], "classes: is empty"),
    "unknown": (classifier(), X, ["a", "b", "x"] * 10, ["a", "b", "c"], "targets: no class is called x; the"),
    "rows": (classifier(), X, torch.rand(30, 3), None, r"targets: got \(30, 3\), which are neither class indices"),
    "two labels": (classifier(), X, torch.ones(30, 3, 2).long(), None, r"class indices have the shape \(30,\), got"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_plain_is_refused_with_argument_value_and_remedy(case: str) -> None:
    learner, inputs, targets, classes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        litmaml.adapt(learner, inputs, targets, classes=classes)


def test_one_class_is_taken_where_others_are_named() -> None:
    model = litmaml.adapt(classifier(), X, 0 * LABELS, classes=["a", "b", "c"], steps=1)
    assert model.classes == ["a", "b", "c"]


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild loss")
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.MultiMarginLoss])
def test_weights_of_classes_are_for_those_alone(kind: type[nn.Module]) -> None:
    """With others a class counts as the next, and it is told; with the same they count as in meta-training."""
    learner, plain = classifier(kind(weight=torch.tensor([1.0, 5.0, 0.2]))), classifier(kind())
    plain.load_state_dict(learner.state_dict())
    same, unweighted = (litmaml.adapt(one, X, LABELS, steps=2) for one in (learner, plain))
    assert relative_change(same, unweighted) > 1e-3
    with pytest.warns(UserWarning, match="loss: its weight is for 3 classes, and there are 4 here, each of which"):
        other = litmaml.adapt(learner, X, torch.arange(30) % 4, steps=2)
    assert relative_change(other, litmaml.adapt(plain, X, torch.arange(30) % 4, steps=2)) == 0
    assert torch.equal(learner.inner_loop.loss.weight, torch.tensor([1.0, 5.0, 0.2]))  # type: ignore[arg-type]


def relative_change(first: nn.Module, second: nn.Module) -> float:
    with torch.no_grad():
        return float((first(X) - second(X)).norm() / second(X).norm())


MASKED = np.ma.masked_array(Y.numpy(), mask=Y.numpy() > 1)
HIDDEN = int((Y > 1).sum())


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (X, MASKED, rf"targets: {HIDDEN} of 30 numbers are masked; fill them in"),
        (X, [*MASKED[:, :]], "targets: 1 of 1 numbers are masked"),
        (np.ma.masked_array(X.numpy(), mask=X.numpy() > 2), Y, r"inputs: \d+ of 120 numbers are masked"),
        (X, Y + 1j, "targets: are complex .torch.complex64., but"),
        (X, (Y + 1j).numpy(), "targets: are complex"),
    ],
)
def test_what_would_be_lost_is_refused(inputs: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        litmaml.adapt(regression(), inputs, targets)


def test_complex_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="targets: are complex"):
        litmaml.adapt(classifier(), X, LABELS + 0j)


def test_a_mask_that_hides_nothing() -> None:
    found = read_examples(regression().inner_loop, np.ma.masked_array(X.numpy()), np.ma.masked_array(Y.numpy()))
    assert torch.equal(found.inputs, X)
    assert torch.equal(found.targets, Y)
