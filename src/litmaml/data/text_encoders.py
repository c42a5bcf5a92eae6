"""What sentences become: means of static word embeddings, or tokens with their mask for a language model."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from litmaml.runs.paths import expanded
from litmaml.shown import first_line, listed
from litmaml.tasks import Tree


class TextEncoder(ABC):
    """Makes inputs of sentences, whatever sentences stand beside them."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tree:
        """The inputs (n, ...) of n sentences: a tensor, or a dict that the model gets by keyword."""


class StaticEmbeddings(TextEncoder):
    """The mean of the vectors of a sentence's tokens, scaled to the length sqrt(d): (n, d).

    Its entries are of size 1, whatever the sizes of the vectors, as networks expect of inputs.

    Args:
        weights: A safetensors file with a matrix (tokens, d).
        tokenizer: The ``tokenizer.json`` of the package tokenizers that numbers these tokens.
        tensor: The name of the matrix in the file; by default the only one there is.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is another thing, or the tokenizer has more tokens than the matrix.
    """

    def __init__(self, weights: str, tokenizer: str, tensor: str | None = None) -> None:
        self.weights, self.tokenizer, self.tensor = weights, tokenizer, tensor

    def encode(self, texts: Sequence[str]) -> Tensor:
        matrix, tokenizer = self._matrix(), read_tokenizer(self.tokenizer)
        found = np.zeros((len(texts), matrix.shape[1]), dtype=np.float32)
        for k, tokens in enumerate(_encoded(tokenizer, texts, special=False)):
            if tokens.ids and max(tokens.ids) >= len(matrix):
                raise ValueError(
                    f"tokenizer: numbers tokens up to {max(tokens.ids)}, and weights has {len(matrix)} vectors, got "
                    f"{self.tokenizer!r}; give the one that the embeddings were made with"
                )
            mean = matrix[tokens.ids].mean(0) if tokens.ids else found[k]
            length = float(np.linalg.norm(mean))
            found[k] = mean * (len(mean) ** 0.5 / length) if length else mean
        return torch.from_numpy(found)

    def _matrix(self) -> Any:
        file = _existing(self.weights, "weights")
        try:
            with safe_open(file, framework="pt") as opened:
                names = [*opened.keys()] if self.tensor is None else [self.tensor]
                if len(names) != 1:
                    raise ValueError(
                        f"tensor: {self.weights!r} has {len(names)} tensors, {listed(sorted(names), 3)}; name one"
                    )
                matrix = opened.get_tensor(names[0])
        except SafetensorError as error:
            raise ValueError(f"weights: {self.weights!r} cannot be read ({error}); give a safetensors file") from error
        if matrix.dim() != 2 or not matrix.is_floating_point():
            raise ValueError(
                f"weights: {names[0]!r} is no matrix of vectors, got {tuple(matrix.shape)} ({matrix.dtype}); name "
                "another tensor"
            )
        return matrix.float().numpy()


class Tokens(TextEncoder):
    """The numbers of a sentence's tokens and where there are any: input_ids and attention_mask (n, L).

    Sentences are padded to the longest of those that are encoded together, and cut at ``length``.

    Args:
        tokenizer: The ``tokenizer.json`` of the package tokenizers, which lies beside the weights of most language
            models, or the folder that it is in.
        length: The most tokens of a sentence.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no tokenizer, or the length is too small.
    """

    def __init__(self, tokenizer: str, length: int = 64) -> None:
        if length < 1:
            raise ValueError(f"length: has to be at least 1, got {length}")
        self.tokenizer, self.length = tokenizer, length

    def encode(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        tokenizer = read_tokenizer(self.tokenizer)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.length)
        rows = [tokens.ids for tokens in _encoded(tokenizer, texts)]
        longest = max(1, *map(len, rows))
        ids, mask = (torch.zeros(len(rows), longest, dtype=torch.int64) for _ in range(2))
        for k, row in enumerate(rows):
            ids[k, : len(row)], mask[k, : max(1, len(row))] = torch.tensor(row, dtype=torch.int64), 1
        return {"input_ids": ids, "attention_mask": mask}


def read_tokenizer(path: str) -> Any:
    """A tokenizer of the package tokenizers.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The package is not there.
        ValueError: The file is no tokenizer.
    """
    folder = expanded(path)
    file = _existing(str(folder / "tokenizer.json") if folder.is_dir() else path, "tokenizer")
    try:
        tokenizers = importlib.import_module("tokenizers")  # of an extra
    except ImportError as error:
        raise ImportError(f"tokenizer: needs the package tokenizers ({error}): pip install 'litmaml[text]'") from error
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises Exception itself
        raise ValueError(
            f"tokenizer: {path!r} is no tokenizer.json ({first_line(error)}); give the file that the package "
            "tokenizers writes"
        ) from error


def _encoded(tokenizer: Any, texts: Sequence[str], special: bool = True) -> Sequence[Any]:
    """The tokens of each text."""
    try:
        found: Sequence[Any] = tokenizer.encode_batch([*texts], add_special_tokens=special)
    except Exception as error:  # the package raises Exception itself
        raise ValueError(
            f"tokenizer: cannot take these texts ({first_line(error)}); give one that has a token for unknown words"
        ) from error
    return found


def _existing(path: str, argument: str) -> Path:
    file = expanded(path)
    if not file.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {path!r}")
    return file
