"""Few-shot classification of sentences, from a table with a column of texts and one of labels."""

from __future__ import annotations

import numpy as np

from litmaml.data.apart import check_apart
from litmaml.data.drawing import ClassDraw, Rows, few_rows, rows_by_name
from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, Episode
from litmaml.data.pool_tasks import Held, Pool, PoolTasks
from litmaml.data.shared_out import Dealing, Shares, by_column, composed
from litmaml.data.table_file import read_columns
from litmaml.data.text_encoders import TextEncoder
from litmaml.shown import listed
from litmaml.tasks import Split


class TextTasks(PoolTasks):
    """Few-shot classification of sentences: ``ways`` labels of one split, each with a few sentences.

    What the sentences become an encoder says: with ``StaticEmbeddings`` inputs are (T, n, d) for any small network,
    with ``Tokens`` a dict of input_ids and attention_mask (T, n, L) for a language model. They are encoded once, when a
    split is loaded.

    Args:
        path: CSV, TSV or Parquet, a row for each sentence.
        encoder: What makes inputs of sentences.
        text: The column of the sentences.
        label: The column of the labels.
        split: The shares of the labels that training, validation and test get.
        split_seed: Of the order in which they are dealt out.
        split_file: JSON, an object of split by label; or CSV, lines of label,split.
        split_column: A column that says the split, alike in all rows of a label.
        train: The numbers of classes, sentences and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ValueError: An argument is out of its range, a column is missing, a label has too few sentences, or all of its
            sentences stand in another split.
        FileNotFoundError: There is no such file.
    """

    def __init__(
        self,
        path: str,
        encoder: TextEncoder,
        text: str = "text",
        label: str = "label",
        split: Shares = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        split_column: str | None = None,
        train: Episode = FEW_SHOT,
        test: Episode = AS_IN_TRAINING,
    ) -> None:
        super().__init__(train.over(FEW_SHOT), test)
        self._dealing = Dealing(split, split_seed, split_file)
        if split_file is not None and split_column is not None:
            raise ValueError(f"split_column: is one way to share out, got {split_file!r} for another; leave one out")
        self.path, self.encoder, self.text, self.label = path, encoder, composed(text), composed(label)
        self.split, self.split_seed, self.split_file = split, split_seed, split_file
        self.split_column = None if split_column is None else composed(split_column)
        self._read: tuple[list[str], dict[str, Rows], dict[str, Split]] | None = None

    def read_pool(self, split: Split) -> Pool:
        texts, members, splits = self._table()
        mine = {name: rows for name, rows in members.items() if splits[name] == split}
        sizes = self.sizes(split)
        self.check_ways(split, len(mine), "labels", "take fewer, or give the split more labels")
        if few := few_rows([*mine], [*mine.values()], sizes.shots + sizes.queries):
            raise ValueError(
                f"shots, queries: a task of the split {split} takes {sizes.shots} + {sizes.queries} sentences of a "
                f"label, and these have fewer: {listed(few)}; take fewer, or remove the labels"
            )
        own = np.concatenate([*mine.values()])
        held = Held(own, self.encoder.encode([texts[row] for row in own]))
        return Pool([*mine], ClassDraw([*mine.values()]), held)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        members, splits = self._table()[1:]
        return super().describe(split) | {
            "path": self.path,
            "encoder": type(self.encoder).__name__,
            "classes": sum(splits[name] == split for name in members),
        }

    def _table(self) -> tuple[list[str], dict[str, Rows], dict[str, Split]]:
        """All sentences, the rows of each label, and its split."""
        if self._read is None:
            more = [self.split_column] if self.split_column else []
            columns = read_columns(self.path, [], [self.text, self.label, *more])
            texts, labels = (columns.texts[name].tolist() for name in (self.text, self.label))
            for name, cells in ((self.text, texts), (self.label, labels)):
                if empty := [line for line, cell in zip(columns.lines, cells, strict=True) if not cell]:
                    raise ValueError(
                        f"path: line {empty[0]}, column {name!r}: is empty, one of {len(empty)}; remove such rows"
                    )
            members = rows_by_name(labels)
            if self.split_column is not None:
                splits = by_column(labels, columns.texts[self.split_column].tolist(), self.split_column)
            else:
                splits = self._dealing.splits_of([*members])
            check_apart([text.encode() for text in texts], members, splits, "label", "sentences")
            self._read = texts, members, splits
        return self._read
