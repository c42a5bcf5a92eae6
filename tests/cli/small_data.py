"""Small files in the place of those that configurations are told of on the command line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

TASKS = "--data.tasks.init_args."


class Coloured(Dataset[tuple[Tensor, int]]):
    """Pictures of CIFAR's form: 15 classes of 12."""

    def __init__(self) -> None:
        self.targets = [k // 12 for k in range(180)]

    def __len__(self) -> int:
        return 180

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        numbers = torch.Generator().manual_seed(k)
        return torch.randint(0, 256, (3, 32, 32), generator=numbers, dtype=torch.uint8), k // 12


def arguments(name: str, folder: Path) -> list[str]:
    """What a configuration is told of its data; nothing of those that need none."""
    if name == "table.yaml":
        return [f"{TASKS}path={_recordings(folder / 'table.csv')}", "--data.val_tasks=2"]
    if name == "dataset.yaml":
        pytest.importorskip("torchvision", reason="the configuration names a dataset of torchvision")
        return [f"{TASKS}dataset={__name__}.Coloured", f"{TASKS}test.ways=3"]
    if name.startswith("text"):
        tokenizers = pytest.importorskip("tokenizers", reason="sentences are read by the package tokenizers")
        if "transformer" in name:
            pytest.importorskip("transformers", reason="language models are of the package transformers")
        words = {"[UNK]": 0, **{f"w{k}": k + 1 for k in range(25)}}
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.save(str(folder / "tokenizer.json"))
        save_file({"vectors": torch.randn(26, 256)}, folder / "vectors.safetensors")
        rows = [[f"w{k} w{k} w{(k + 1 + j) % 25}", f"l{k}"] for k in range(25) for j in range(12)]
        _write(folder / "t.csv", [["text", "label"], *rows], ",")
        asked = [f"{TASKS}path={folder / 't.csv'}", f"{TASKS}encoder.init_args.tokenizer={folder / 'tokenizer.json'}"]
        if "transformer" in name:
            return asked
        return [*asked, f"{TASKS}encoder.init_args.weights={folder / 'vectors.safetensors'}"]
    return []


def _recordings(file: Path) -> Path:
    """A table of the form of Parkinson's telemonitoring data: 42 patients with 20 to 29 rows."""
    numbers = np.random.default_rng(0)
    voice = ["(%)", "(Abs)", ":RAP", ":PPQ5", ":DDP"]
    names = ["subject#", "test_time", "motor_UPDRS", *(f"Jitter{end}" for end in voice)]
    names += ["Shimmer", *(f"Shimmer{end}" for end in ["(dB)", ":APQ3", ":APQ5", ":APQ11", ":DDA"])]
    names += ["NHR", "HNR", "RPDE", "DFA", "PPE"]
    rows = [[who, *numbers.normal(size=len(names) - 1).tolist()] for who in range(42) for _ in range(20 + who % 10)]
    return _write(file, [names, *rows], "\t")


def _write(file: Path, rows: Sequence[Sequence[object]], delimiter: str) -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, delimiter=delimiter).writerows(rows)
    return file
