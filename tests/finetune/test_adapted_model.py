"""What fine-tuning leaves: use, save, load, and refuse what is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import litmaml
from litmaml.data.images import ImageFormat
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.labelled_images import read_query, read_support
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner

NAMES = sorted(["Blaue Meise", "ворона", "鶴", 'a|b, "c" $x$'])


@pytest.fixture(scope="module")
def model(run: Path, images: Path) -> AdaptedModel:
    """Four classes, from a checkpoint of three."""
    support, names = read_support(str(images / "data"), ImageFormat(28))
    return litmaml.adapt(run, support.inputs, support.labels, classes=names)


@pytest.fixture
def saved(model: AdaptedModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "out")
    return tmp_path / "out"


def test_what_is_loaded_is_what_was_saved(model: AdaptedModel, saved: Path) -> None:
    loaded = litmaml.load(saved)
    inputs = torch.rand(5, 1, 28, 28)
    assert torch.equal(loaded(inputs), model(inputs))
    assert loaded.classes == NAMES
    assert loaded.image_format == ImageFormat(28)
    assert not any(module.training for module in loaded.modules())
    assert sorted(file.name for file in saved.iterdir()) == ["classes.json", "config.yaml", "model.safetensors"]
    assert json.loads((saved / "classes.json").read_text(encoding="utf-8")) == NAMES
    assert "ворона" in (saved / "classes.json").read_text(encoding="utf-8")
    loaded.save(saved.parent / "again")
    assert torch.equal(litmaml.load(saved.parent / "again")(inputs), model(inputs))


def test_a_prediction_is_the_same_alone_and_in_any_batch(saved: Path) -> None:
    loaded = litmaml.load(saved)
    inputs = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    together = loaded(inputs)
    for k in range(0, 64, 9):
        torch.testing.assert_close(loaded(inputs[k : k + 1])[0], together[k], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded(inputs[:7]), together[:7], rtol=1e-5, atol=1e-5)


def test_it_reads_and_classifies_files(model: AdaptedModel, images: Path, tmp_path: Path) -> None:
    query = read_query(str(images / "query"), NAMES, ImageFormat(28))
    found = list(model.classify(*query.files))
    right = [prediction.label == prediction.file.parent.name for prediction in found]
    assert sum(right) >= 12  # of 16
    assert list(model.classify(query.files)) == found
    assert list(model.classify(query.files[0], query.files[:2])) == [found[0], *found[:2]]
    torch.testing.assert_close(model.preprocess(*query.files), query.inputs)
    (tmp_path / "text.png").write_text("no image")
    mixed = [query.files[0], tmp_path / "text.png", query.files[1]]
    with pytest.raises(ValueError, match=r"cannot read the image .*text\.png"):
        list(model.classify(mixed))
    with pytest.warns(UserWarning, match=r"images: 1 of 3 images cannot be read and are left out"):
        assert list(model.classify(mixed, unreadable="skip")) == found[:2]
    probabilities = model.probabilities(query.inputs)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(16))
    assert found[3].probability == pytest.approx(float(probabilities[3].max()), abs=1e-5)
    with pytest.raises(ValueError, match=r"cannot read the image .*nowhere\.png"):
        model.preprocess(images / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"cannot read the image .*pipe\.png: it is no file"):
        next(model.classify(tmp_path / "pipe.png"))


def test_regression_from_ten_points(sinusoid_run: Path, tmp_path: Path) -> None:
    x = torch.linspace(-5, 5, 10)[:, None]
    y = 2 * torch.sin(x)
    model = litmaml.adapt(sinusoid_run, x, y, steps=100, lr=0.02)
    before = litmaml.adapt(sinusoid_run, x, y, steps=1, lr=1e-9)
    assert nn.functional.mse_loss(model(x), y) < 0.7 * nn.functional.mse_loss(before(x), y)
    assert model.classes is None
    assert model.image_format is None
    model.save(tmp_path)
    assert torch.equal(litmaml.load(tmp_path)(x), model(x))
    with pytest.raises(ValueError, match="this model is no classifier"):
        next(model.classify("x.png"))
    with pytest.raises(ValueError, match="takes no image files"):
        model.preprocess("x.png")
    model.plot(tmp_path / "function.png", x, y)
    assert (tmp_path / "function.png").stat().st_size > 5000
    with pytest.raises(ValueError, match=r"only functions of one variable can be drawn.*\(10, 2\) and \(10, 1\)"):
        model.plot(tmp_path / "more.png", x.repeat(1, 2), y)


def test_a_learner_serves_as_a_checkpoint(run: Path) -> None:
    torch.manual_seed(0)
    inputs, targets = torch.rand(6, 1, 28, 28), torch.arange(6) % 3
    learner = MetaLearner.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    one, other = litmaml.adapt(learner, inputs, targets), litmaml.adapt(run / "last", inputs, targets.int())
    assert torch.equal(one(inputs), other(inputs))
    assert one.classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("targets", "classes", "message"),
    [
        (torch.arange(5), None, "targets: there are 6 inputs and 5 targets"),
        (torch.arange(6), ["a", "b"], r"targets: class indices must lie in 0 \.\. 1, got 0 \.\. 5"),
        (torch.arange(6) - 1, None, r"targets: class indices must lie in 0 \.\. 4, got -1 \.\. 4"),
        (torch.rand(6, 3), ["a", "b"], "targets: got .* neither class indices .* nor rows of 2 probabilities"),
    ],
)
def test_examples_that_do_not_fit_are_refused(
    run: Path, targets: Tensor, classes: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        litmaml.adapt(run, torch.rand(6, 1, 28, 28), targets, classes=classes)


class Unkept(nn.Linear):
    """Keeps its argument under another name."""

    def __init__(self, classes: int) -> None:
        super().__init__(4, classes)


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_a_network_that_cannot_be_rebuilt_is_given_when_it_is_loaded(tmp_path: Path) -> None:
    model = litmaml.adapt(MetaLearner(Unkept(3)), torch.rand(6, 4), torch.arange(6) % 3)
    inputs = torch.rand(2, 4)
    assert model(inputs).shape == (2, 3)
    with pytest.warns(UserWarning, match=r"load it by litmaml\.load\(folder, network=\.\.\.\).*keep each argument"):
        model.save(tmp_path / "out")
    with pytest.raises(ValueError, match=r"does not say how its network is made; give that: -c RUN/config\.yaml"):
        litmaml.load(tmp_path / "out")
    given = Unkept(3)
    before = given.weight.detach().clone()
    assert torch.equal(litmaml.load(tmp_path / "out", given)(inputs), model(inputs))
    assert torch.equal(given.weight, before)
    with pytest.raises(ValueError, match="do not fit"):
        litmaml.load(tmp_path / "out", nn.Linear(5, 3))


def test_a_configuration_of_another_kind_is_not_written_over(model: AdaptedModel, tmp_path: Path) -> None:
    for text in ("trainer: {max_epochs: 1}\n", "mine", ""):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"^folder: .*config\.yaml' is no adapted model's .*; name another folder"):
            model.save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
        assert (tmp_path / "config.yaml").read_text() == text
    (tmp_path / "config.yaml").unlink()
    for _ in range(2):  # its own kind may be replaced
        model.save(tmp_path)
        litmaml.load(tmp_path)


def test_damage_is_told(saved: Path) -> None:
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"is damaged or of another model: .* file not fully covered"):
        litmaml.load(saved)
    flipped = bytearray(whole)
    flipped[-50] ^= 1  # safetensors itself would not notice
    weights.write_bytes(flipped)
    with pytest.raises(ValueError, match="is damaged or of another model: its SHA-256 sum"):
        litmaml.load(saved)
    weights.write_bytes(whole)
    config = saved / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("outputs: 4", "outputs: 6"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml or classes\.json .* is damaged \(has 4 names of 6 classes\)"):
        litmaml.load(saved)
    config.write_text(text.replace("filters: 8", "filters: 9"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the weights in .* do not fit its config\.yaml"):
        litmaml.load(saved)
    config.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml or classes\.json .* is damaged"):
        litmaml.load(saved)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.yaml; give a folder that litmaml finetune wrote"):
        litmaml.load(saved)


def test_a_configuration_runs_no_code(saved: Path, tmp_path: Path) -> None:
    config = saved / "config.yaml"
    read = yaml.safe_load(config.read_text(encoding="utf-8"))
    mark = tmp_path / "ran"
    touch = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(mark)]}}
    for recipe in (touch, {"class_path": "litmaml.models.Conv4", "init_args": {"ways": touch}}):
        config.write_text(yaml.safe_dump({**read, "model": recipe}))
        with pytest.raises(ValueError, match=r"model(\.ways: is no object, got the recipe of|:) 'subprocess\.Popen'"):
            litmaml.load(saved)
    config.write_text(f"model: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(ValueError, match=r"config\.yaml or classes\.json"):
        litmaml.load(saved)
    assert not mark.exists()


def test_importing_the_package_is_quick() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import litmaml, sys; print('torch' in sys.modules, dir(litmaml))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("False")
    assert "adapt" in done.stdout
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        litmaml.nothing  # noqa: B018


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.scale = nn.Linear(1, 1), 1.0

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.scale * self.head(x)
        return predicted


def test_what_would_be_loaded_as_another_model_is_not_saved(tmp_path: Path) -> None:
    learner = MetaLearner(Scaled(), SGD(0.01), loss=nn.MSELoss())
    x = torch.randn(6, 1)
    litmaml.adapt(learner, x, x.sin()).save(tmp_path / "as it was made")
    learner.inner_loop.model.scale = 3.0  # type: ignore[assignment]  # a module to InnerLoop
    with pytest.raises(ValueError, match=r"model: it cannot be saved, .* \(it predicts otherwise by .*\); keep each"):
        litmaml.adapt(learner, x, x.sin()).save(tmp_path / "changed")
    assert not list((tmp_path / "changed").iterdir())


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_what_is_saved_is_judged_by_the_size_of_what_it_predicts(size: float, tmp_path: Path) -> None:
    x = torch.randn(6, 1)
    learner = MetaLearner(Scaled(), SGD(0.01 / size), loss=nn.MSELoss())
    with torch.no_grad():
        for weight in learner.inner_loop.model.parameters():
            weight.mul_(size)
    litmaml.adapt(learner, x, size * x.sin(), steps=1, lr=1e-9).save(tmp_path / "as it was made")
    learner.inner_loop.model.scale = 1.01  # type: ignore[assignment]  # a module to InnerLoop
    with pytest.raises(ValueError, match=r"model: it cannot be saved, .*it predicts otherwise by"):
        litmaml.adapt(learner, x, size * x.sin(), steps=1, lr=1e-9).save(tmp_path / "changed")


def test_an_adapted_model_in_double_precision(tmp_path: Path) -> None:
    x = torch.linspace(-5, 5, 10, dtype=torch.float64)[:, None]
    model = litmaml.adapt(MetaLearner(Scaled(), SGD(0.01), loss=nn.MSELoss()).double(), x, x.sin())
    model.save(tmp_path)
    torch.testing.assert_close(litmaml.load(tmp_path).double()(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ties", [["head"], {"head.bias": 1}, {"head.bias": "head.weight"}, {"other": "head.bias"}])
def test_damaged_ties(ties: Any, tmp_path: Path) -> None:
    x = torch.randn(6, 1)
    litmaml.adapt(MetaLearner(Scaled(), SGD(0.01), loss=nn.MSELoss()), x, x.sin()).save(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["tied"] = ties
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"^model: "):
        litmaml.load(tmp_path)


def test_a_folder_of_before_ties_were_recorded(tmp_path: Path) -> None:
    x = torch.randn(6, 1)
    model = litmaml.adapt(MetaLearner(Scaled(), SGD(0.01), loss=nn.MSELoss()), x, x.sin())
    model.save(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del config["tied"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert torch.equal(litmaml.load(tmp_path)(x), model(x))


def test_it_takes_arrays_and_lists_as_adapt_does() -> None:
    learner = litmaml.MetaLearner(litmaml.models.MLP(1, 1, hidden=[4]), loss=torch.nn.MSELoss())
    model = litmaml.adapt(learner, [[0.0], [1.0]], [[0.0], [1.0]])
    expected = model(torch.tensor([[0.5]]))
    assert torch.equal(model([[0.5]]), expected)
    assert torch.equal(model(np.array([[0.5]])), expected)
