"""The command ``litmaml classify``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor, nn

from litmaml.cli.typed_parts import or_another
from litmaml.data.image_files import Unreadable
from litmaml.finetuning.adapted_model import Prediction, load
from litmaml.finetuning.labelled_images import find_images
from litmaml.finetuning.progress import shown
from litmaml.finetuning.report import write_predictions
from litmaml.finetuning.row_report import write_row_predictions
from litmaml.runs.paths import expanded
from litmaml.runs.whole_files import check_writable
from litmaml.shown import printable


def classify(
    model: str,
    images: str | None = None,
    output: str = "predictions.csv",
    imports: Sequence[str] = (),
    follow_links: bool = False,
    network: nn.Module | None = None,
    table: str | None = None,
    unreadable: Unreadable = "skip",
    replace: bool = False,
) -> list[Prediction] | Tensor:
    """Write what a model that litmaml finetune made predicts for each image in a folder, or row of a table.

    Args:
        model: The folder that litmaml finetune wrote (its --output), or hf://USER/NAME, where litmaml push wrote it.
        images: Folder of the images; those in folders within it too.
        output: The CSV file to write: file, class, probability; of rows line, and class, probability or the values. It
            must not exist.
        imports: Your own modules to import first, such as the one with the network's class: --imports one two.
        follow_links: Whether to read also what links lead to, out of the folder.
        network: What the weights are for, where the folder does not say how it is made; or -c RUN/config.yaml.
        table: In place of images, a CSV, TSV or Parquet file of the rows.
        unreadable: What is done about images that cannot be read: skip leaves them out, counted and listed; refuse
            ends the command.
        replace: Whether to write over the CSV file where it exists.

    Raises:
        FileNotFoundError: There is no such model or folder.
        FileExistsError: The CSV file exists.
        ValueError: The model is damaged, or there are no images.
    """
    if (images is None) == (table is None):
        raise ValueError("images: has to be given, or table for rows, and not both; give one of the two")
    path = expanded(output)
    if os.path.lexists(path) and not replace:
        raise FileExistsError(
            f"output: {printable(path)!r} exists already; name another file, or write over it by --replace=true"
        )
    check_writable(path.parent, "output")
    with or_another("network"):
        adapted = load(model, network)
    if table is not None:
        rows, predicted = adapted.predict_rows(table, "table")
        assert adapted.table is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_row_predictions(path, rows, predicted, adapted.table)
        print(f"{len(rows)} rows predicted, written to {printable(path)}")
        return predicted
    assert images is not None
    files = find_images(images, "images", follow_links)
    predictions = list(shown(adapted.classify(files, unreadable=unreadable), len(files), "images"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, predictions)
    print(f"{len(predictions)} images classified, written to {printable(path)}")
    return predictions
