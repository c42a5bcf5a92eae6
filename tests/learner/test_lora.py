"""Changes of low rank: the gradient through them, and the way from meta-training to an adapted model."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import relative
from torch import nn
from unrolling import unrolled
from update_rules import sgd

import litmaml
from litmaml.data import Episode, Glyphs, TaskDataModule
from litmaml.finetuning.export import export_pt2
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.models import MLP, LoRA
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from quiet_trainer import quiet_trainer


def data() -> TaskDataModule:
    return TaskDataModule(Glyphs(Episode(ways=3, shots=1, queries=1)), 2, train_tasks=4, val_tasks=2, test_tasks=2)


def test_the_change_is_that_of_the_paper() -> None:
    model = MLP(4, 3, hidden=[5]).double()
    lora = LoRA(copy.deepcopy(model), ["body.*"], rank=2, alpha=6.0).double()
    x = torch.randn(7, 4).double()
    torch.testing.assert_close(lora(x), model(x))  # B = 0
    a, b = (weight for name, weight in lora.named_parameters() if "lora_" in name)
    nn.init.normal_(b)
    with torch.no_grad():
        model.body[1].weight.add_(6.0 / 2 * b @ a)  # type: ignore[operator]
    torch.testing.assert_close(lora(x), model(x))


def test_the_exact_gradient_batched_and_looped() -> None:
    torch.manual_seed(0)
    model = LoRA(MLP(4, 3, hidden=[5, 5]), ["body.*"], rank=2).double()
    for name, weight in model.named_parameters():
        if "lora_b" in name:
            nn.init.normal_(weight, std=0.3)
    batches = [Batch(torch.randn(3, 5, 4).double(), torch.randint(3, (3, 5))) for _ in range(2)]
    tasks = Tasks((batches[0],), batches[1], torch.arange(3))
    for fast in (["*"], ["*lora_*"], ["*lora_b"]):
        loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.3), fast, 3)
        assert set(loop.fast_names) | set(loop.slow_names) == {
            name for name, _ in model.named_parameters() if "lora_" in name or "head" in name
        }
        true = unrolled(loop, tasks, 3, loop.fast_names, sgd())
        for chunk in (1, 3):
            found = MetaGradientOf(loop, SecondOrder(), 3, chunk)(tasks)
            assert relative(found.gradients, true.gradients) < 1e-10


def test_from_meta_training_to_an_adapted_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = MetaLearner(LoRA(MLP(784, 3, hidden=[8]), ["body.*"], 2), SGD(0.1), fast_weights=["*lora_*", "*head.*"])
    before = copy.deepcopy(learner.state_dict())
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(learner, data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    moved = {name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name or "head" in name}
    again = MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in learner.state_dict().items())
    x = torch.rand(8, 1, 28, 28)
    adapted = litmaml.adapt(tmp_path / "x.ckpt", x, torch.arange(8) % 4, steps=2)
    adapted.save(tmp_path / "adapted")
    torch.testing.assert_close(litmaml.load(tmp_path / "adapted")(x), adapted(x))
    export_pt2(adapted, x[:5], tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["tail"]}, "layers: 'tail' fits none of the model's linear layers: body.1, body.3, head"),
        ({"trained": ["tail"]}, "trained: 'tail' fits none of the model's parameters: body.1.weight, "),
        ({"rank": 0}, "rank: has to be at least 1, got 0"),
    ],
)
def test_what_is_not_there(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(MLP(4, 3), **arguments)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_peft_as_it_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("peft", "transformers"):
        pytest.importorskip(name, reason=f"needs {name}")
    documented = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text(encoding="utf-8")
    (tmp_path / "documented.py").write_text(documented.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    bert_of_random_weights(tmp_path / "bert")
    torch.manual_seed(0)
    model = importlib.import_module("documented").Classifier(str(tmp_path / "bert"), ways=3, rank=2)
    learner = MetaLearner(model, SGD(0.1), fast_weights=["*lora_*", "*classifier*"], tasks_per_chunk=1)
    adapted = learner.inner_loop.fast_names
    assert any("lora_A" in name for name in adapted)
    assert any("classifier" in name for name in adapted)
    assert not learner.inner_loop.slow_names
    words = [Batch(some_words(), (torch.arange(6) % 3).expand(2, 6)) for _ in range(2)]
    tasks = Tasks((words[0],), words[1], torch.arange(2))
    try_first_batch(learner.inner_loop, [tasks], SecondOrder())
    assert bool(learner.meta_gradient(tasks).finite.all())
    trainer = quiet_trainer(tmp_path)
    trainer.strategy.connect(learner)
    learner.trainer = trainer
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in learner.state_dict().items())
    one = words[0].task(0)
    made = litmaml.adapt(tmp_path / "x.ckpt", one.inputs, one.targets, steps=2)
    assert made(one.inputs).shape == (6, 3)


def some_words() -> dict[str, torch.Tensor]:
    """Two tasks of six sentences of five words, some of which are padding."""
    return {
        "input_ids": torch.randint(50, (2, 6, 5)),
        "attention_mask": (torch.arange(5) < torch.randint(2, 6, (2, 6, 1))).long(),
    }


def bert_of_random_weights(folder: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
