"""Sentences as tasks: by static embeddings, and as tokens with a mask."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tables import table

from litmaml.data import Episode, StaticEmbeddings, TextTasks, Tokens
from litmaml.tasks import SPLITS, Tasks, stacks_of

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{k}" for k in range(40))]
FEW = Episode(ways=2, shots=2, queries=3)


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """The path of a tokenizer of whole words, which puts signs around a sentence."""
    tokenizers = pytest.importorskip("tokenizers", reason="sentences are read by the package tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """Ten labels, whose sentences have 1 to 6 words: the label's own, then others."""
    numbers = np.random.default_rng(0)
    rows = [
        [f"label {label}", " ".join([f"w{label}", *(f"w{10 + int(w)}" for w in numbers.integers(30, size=k))]), k]
        for label in range(10)
        for k in range(6)
    ]
    return table(tmp_path / "t.tsv", ["label", "text", "other"], rows, delimiter="\t")


def only(tasks: TextTasks, *asked: Any) -> Tasks:
    (stack,) = stacks_of(tasks.sample(*asked))
    return stack


def test_the_mean_of_the_words_vectors_is_taken(tokenizer: str, sentences: Path, tmp_path: Path) -> None:
    matrix = torch.randn(len(WORDS), 7, generator=torch.Generator().manual_seed(0)).half()
    save_file({"e": matrix}, tmp_path / "e.safetensors")
    encoder = StaticEmbeddings(str(tmp_path / "e.safetensors"), tokenizer)
    found = encoder.encode(["w3", "w3  w4 w4", "", "unseen"])
    means = [matrix[7].double(), (matrix[7].double() + 2 * matrix[8].double()) / 3, torch.zeros(7), matrix[1].double()]
    for vector, mean in zip(found.double(), means, strict=True):
        torch.testing.assert_close(vector, mean.double() * 7**0.5 / max(mean.double().norm(), 1e-9), atol=1e-3, rtol=0)
    tasks = TextTasks(str(sentences), encoder, train=FEW)
    stack = only(tasks, "train", range(4), 0)
    assert stack.query.inputs.shape == (4, 6, 7)
    assert tasks.describe("train")["classes"] == 6
    names = {split: {name for n in range(30) for name in tasks.names_of(split, n, 0)} for split in SPLITS}
    assert [len(names[split]) for split in SPLITS] == [6, 2, 2]
    assert len(set.union(*names.values())) == 10


def test_tokens_come_with_their_mask_and_their_label(tokenizer: str, sentences: Path) -> None:
    tasks = TextTasks(str(sentences), Tokens(str(Path(tokenizer).parent), length=5), train=FEW)
    stack = only(tasks, "test", range(3), 0)
    ids, mask = stack.query.inputs["input_ids"], stack.query.inputs["attention_mask"]
    assert ids.shape == mask.shape == (3, 6, 5)
    assert ids.dtype == mask.dtype == torch.int64
    assert bool((ids[mask == 0] == 0).all())
    assert bool((ids[..., 0] == 2).all())
    lengths = mask.sum(-1)
    assert {*lengths.flatten().tolist()} <= {3, 4, 5}
    assert bool((ids.gather(-1, lengths.unsqueeze(-1) - 1) == 3).all())
    for task in range(3):
        names = tasks.names_of("test", task, 0)
        for row, label in zip(ids[task].tolist(), stack.query.targets[task].tolist(), strict=True):
            assert WORDS[row[1]] == f"w{names[label].removeprefix('label ')}"


def test_a_sentence_of_two_splits_is_told_of(tokenizer: str, tmp_path: Path) -> None:
    rows = [[f"l{label}", "yes" if k == 0 else f"w{label} w{10 + k}"] for label in range(10) for k in range(5)]
    file = table(tmp_path / "t.csv", ["label", "text"], rows)
    with pytest.warns(UserWarning, match=r"^label: 1 sentences stand in two splits; if they are of one label, give"):
        TextTasks(str(file), Tokens(tokenizer), train=FEW).load("train")
    again = [["again " + label, text] for label, text in rows[5:]]
    with pytest.raises(ValueError, match=r"^label: all sentences of \d+ stand in one of another split too"):
        TextTasks(str(table(file, ["label", "text"], rows[5:] + again)), Tokens(tokenizer), train=FEW).load("train")


def test_columns_are_found_in_any_form_of_unicode(tokenizer: str, sentences: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD"))
    lines = sentences.read_text().splitlines(keepends=True)
    for first, second in ((composed, apart), (apart, composed)):
        sentences.write_text(f"l {first}\tt {first}\tother\n" + "".join(lines[1:]))
        tasks = TextTasks(str(sentences), Tokens(tokenizer), f"t {second}", f"l {second}", train=FEW)
        assert len(tasks.names_of("train", 0, 0)) == 2


def test_what_is_wrong_is_named(tokenizer: str, sentences: Path, tmp_path: Path) -> None:
    def load(**more: Any) -> None:
        TextTasks(**{"path": str(sentences), "encoder": Tokens(tokenizer), "train": FEW, **more}).load("train")

    save_file({"a": torch.zeros(3, 2), "b": torch.zeros(3)}, tmp_path / "two.safetensors")
    save_file({"a": torch.zeros(3, 2)}, tmp_path / "few.safetensors")
    few, two = str(tmp_path / "few.safetensors"), str(tmp_path / "two.safetensors")
    for more, message in (
        ({"text": "sentence"}, r"^path: .* has no column sentence; the columns are label, text, other"),
        ({"train": Episode(ways=7, queries=1)}, r"^train\.ways: the split train has 6 labels, got 7"),
        (
            {"train": Episode(queries=6)},
            r"^shots, queries: a task of the split train takes 1 \+ 6 sentences of",
        ),
        ({"encoder": StaticEmbeddings(few, tokenizer)}, r"^tokenizer: numbers tokens up to \d+, and weights has 3"),
        ({"encoder": StaticEmbeddings(two, tokenizer)}, r"^tensor: .* has 2 tensors, a, b; name one"),
        ({"encoder": StaticEmbeddings(two, tokenizer, "b")}, r"^weights: 'b' is no matrix of vectors, got \(3,\)"),
        ({"encoder": StaticEmbeddings(tokenizer, tokenizer)}, r"^weights: .* cannot be read .*; give a safetensors"),
        ({"encoder": Tokens(few)}, r"^tokenizer: .* is no tokenizer.json"),
    ):
        with pytest.raises(ValueError, match=message):
            load(**more)
    strict = json.loads(Path(tokenizer).read_text())
    strict["model"]["unk_token"] = "none"
    (tmp_path / "strict.json").write_text(json.dumps(strict))
    table(sentences, ["label", "text"], [[f"l{k // 5}", f"word{k}"] for k in range(50)])
    for encoder in (Tokens(str(tmp_path / "strict.json")), StaticEmbeddings(few, str(tmp_path / "strict.json"))):
        with pytest.raises(
            ValueError, match=r"^tokenizer: cannot take these texts \(.*\); give one that has a token for"
        ):
            load(encoder=encoder)
    with pytest.raises(FileNotFoundError, match=r"^tokenizer: there is no file 'none'"):
        load(encoder=Tokens("none"))
    with pytest.raises(ValueError, match=r"^length: has to be at least 1, got 0"):
        Tokens(tokenizer, 0)


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"^tokenizer: needs the package tokenizers .*'litmaml\[text\]'"):
        Tokens(str(tmp_path)).encode(["a"])
