"""Other numbers of classes for the models of timm and transformers, small and with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from litmaml import MetaLearner
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.inner import SGD
from litmaml.inner.head import find_heads, replace_head

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
TIMM: dict[str, tuple[dict[str, Any], list[str]]] = {
    "vit_tiny_patch16_224": (SMALL, ["head"]),
    "deit_tiny_patch16_224": (SMALL, ["head"]),
    "deit_tiny_distilled_patch16_224": (SMALL, ["head", "head_dist"]),
    "resnet10t": ({}, ["fc"]),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, ["head.fc"]),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "window_size": 2, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)},
        ["head.fc"],
    ),
}
REASON = "timm's and transformers' models are tried where these are installed"


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason=REASON)
    torch.manual_seed(0)
    options, heads = TIMM[name]
    model: nn.Module = timm.create_model(name, num_classes=3, **options).eval()
    images = torch.randn(3, 3, 32, 32)
    assert find_heads(model, images) == heads
    before = model(images)
    for head in heads:
        replace_head(model, head, 7)
    assert before.shape == (3, 3)
    assert torch.equal(model(images), torch.zeros(3, 7))


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
@pytest.mark.parametrize("start", ["learnt", "prototypes"])
def test_a_vision_transformer_is_fine_tuned(start: Any) -> None:
    timm = pytest.importorskip("timm", reason=REASON)
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **SMALL)
    learner = MetaLearner(model, SGD(lr=0.1), head_start=start, fast_weights=["head.*"])
    labels = torch.arange(8) % 4
    images = torch.randn(8, 3, 32, 32) + 2 * torch.randn(4, 3, 1, 1)[labels]
    *_, last = FineTuner(learner, images[:2], 4, steps=20).path(images, labels)
    assert last.accuracy == 1.0


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta"])
def test_models_of_transformers_compute_no_loss_with_a_number_of_labels(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason=REASON)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    if kind == "DistilBert":
        sizes = {"vocab_size": 30, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    config = getattr(transformers, f"{kind}Config")(num_labels=3, **sizes)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    inputs = {"input_ids": torch.randint(3, 30, (4, 5)), "attention_mask": torch.ones(4, 5).long()}
    (head,) = find_heads(model, inputs, "logits")
    assert head.startswith("classifier")
    replace_head(model, head, 7)
    outputs = model(**inputs)
    assert outputs.logits.shape == (4, 7)
    assert outputs.loss is None
