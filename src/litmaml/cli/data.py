"""The command ``litmaml data``: pack images once for all processes of a machine, and check what was packed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import auto_cli
from torch import Tensor

from litmaml.cli.error_lines import OneLineErrors, errors_in_one_line
from litmaml.data.image_source import TOGETHER
from litmaml.data.image_table import ImageTable
from litmaml.data.images import PHOTOGRAPHS, ImageFormat
from litmaml.data.leakage import Copies
from litmaml.data.packed_images import PackedImages, is_packed, pack_images
from litmaml.finetuning.progress import shown
from litmaml.runs.paths import expanded
from litmaml.shown import printable
from litmaml.tasks import Split


def pack(
    source: str,
    output: str,
    image_format: ImageFormat = PHOTOGRAPHS,
    table: str | None = None,
    file_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    split: tuple[float, float, float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
    split_file: str | None = None,
    published: str | None = None,
    copies: Copies = "refuse",
) -> None:
    """Write a set of images as one file for each split, which is opened at once and held once by all processes.

    Example: litmaml data pack data/mini_imagenet packed/mini_imagenet --published mini_imagenet

    Args:
        source: Folder of the images, in any layout of litmaml.data.ImageTable.
        output: Folder to write to; it must not exist, or be empty.
        image_format: What the images become.
        table: A CSV file in the folder that lists all images; by default labels.csv.
        file_column: Its column of files.
        label_column: Its column of classes.
        split_column: Its column of splits: train, val or test; by default it has none.
        split: The shares of the classes that training, validation and test get, where the files do not say it.
        split_seed: Of the order in which the classes are dealt out.
        split_file: A file of class and split, or the name of a published split.
        published: The name of a published split, for files that have none; others are refused where they differ.
        copies: What is done about an image that stands in two classes or splits: refuse, or warn.

    Raises:
        FileNotFoundError: There is no such folder or file.
        FileExistsError: The output folder has something in it.
        ValueError: The images cannot be used.
    """
    plain = ImageFormat(image_format.size, image_format.channels, white=image_format.white, fit=image_format.fit)
    if image_format != plain:
        raise ValueError(
            "image_format: invert, mean and std are done to packed images when they are used; leave them out here, and "
            "give them to the task source"
        )
    tasks = ImageTable(
        source,
        image_format,
        table,
        file_column,
        label_column,
        split_column,
        split,
        split_seed,
        split_file,
        published,
        copies=copies,
    )

    def told(split: Split, pieces: Iterator[Tensor], images: int) -> Iterator[Tensor]:
        return shown(pieces, math.ceil(images / TOGETHER), f"{split}, {TOGETHER} images each")

    with _called("root", "source"):
        packed = pack_images(tasks.open_source(), image_format, expanded(output), copies, told)
    for name, entry in packed.items():
        print(f"{name}: {entry['images']} images of {entry['classes']} classes, {entry['bytes'] / 1e6:.1f} MB")
    print(f"packed in {printable(output)}: use it by litmaml.data.ImageTable with root={printable(output)}")


def check(folder: str) -> None:
    """Compare a folder that litmaml data pack wrote with its checksums.

    Args:
        folder: The folder.

    Raises:
        ValueError: It is no such folder, or a file is not what was packed.
    """
    if not is_packed(expanded(folder)):
        raise ValueError(
            f"folder: {printable(folder)} holds no packed images; pack some first: litmaml data pack SOURCE {folder}"
        )
    with _called("root", "folder"):
        PackedImages(expanded(folder)).verify()
    print(f"{printable(folder)} is as it was packed")


@contextmanager
def _called(argument: str, typed: str) -> Iterator[None]:
    """Have errors of an argument of a task source name what was typed in its place."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        raise type(error)(typed + text.removeprefix(argument) if text.startswith(argument) else text) from error


_COMMANDS: dict[str, Any] = {"pack": pack, "check": check}


def run(arguments: Sequence[str]) -> None:
    """Run ``litmaml data`` with what was typed after it; an error is told in a line."""
    with errors_in_one_line("data", arguments):
        auto_cli(
            _COMMANDS,
            args=list(arguments),
            parser_class=OneLineErrors,
            prog="litmaml data",
            description=inspect.getdoc(inspect.getmodule(run)),
        )
