"""The command ``litmaml push``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from jsonargparse import ActionYesNo

from litmaml.cli.error_lines import OneLineErrors, errors_in_one_line
from litmaml.finetuning.model_card import is_own
from litmaml.finetuning.publication import EVERY_FILE, README, prepare
from litmaml.runs.hub import Repository
from litmaml.runs.paths import expanded
from litmaml.shown import printable


def push(
    output: str, repository: str, private: bool = False, revision: str | None = None, licence: str | None = None
) -> str:
    """Publish what litmaml finetune or fit wrote to a folder on the Hugging Face Hub, with a page that tells of it.

    Example: litmaml push birds hf://me/birds. It takes the extra hub, and hf auth login or HF_TOKEN.

    Args:
        output: The folder of an adapted model, or of a run, of which the best checkpoint is published.
        repository: hf://USER/NAME; it is made where it is not there yet.
        private: Whether only you see it, and whom you let.
        revision: The branch to write to; by default main.
        licence: Of the model, by its name on the Hub, such as apache-2.0.

    Returns:
        The address of the page.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds neither a model nor a checkpoint, or a damaged one.
        OSError: The repository cannot be written.
    """
    target = Repository(repository if revision is None else f"{repository}@{revision}", "repository")
    publication = prepare(expanded(output), target, licence)
    who = "whom you let see it" if private else "everybody"
    print(printable(f"publishing {', '.join(publication.files)}; {who} gets to know: {publication.disclosed}"))
    target.create(private)
    there = target.names()
    kept = README in there and not is_own(target.text(README))
    page = {} if kept else {README: publication.card.encode()}
    gone = [name for name in EVERY_FILE if name in there and name not in publication.files]
    address = target.commit({**publication.files, **page}, gone, "Written by litmaml push")
    if kept:
        print(f"its {README} was changed by somebody and stays as it is; remove it there to have a new one written")
    print(printable(f"published at {address}; use it: {publication.use}"))
    return address


def run(arguments: Sequence[str]) -> None:
    """Run ``litmaml push`` with what was typed after it; an error is told in a line."""
    with errors_in_one_line("push", arguments):
        push(**make_parser().parse_args(list(arguments)).as_dict())


def make_parser() -> OneLineErrors:
    """The parser of what is typed after ``litmaml push``, of which ``--private`` needs no value."""
    told, _, options = (inspect.getdoc(push) or "").partition("\n\nArgs:")
    parser = OneLineErrors(prog="litmaml push", description=told)
    parser.add_function_arguments(push, as_group=False, as_positional=True, skip={"private"})
    private = options.partition("private: ")[2].partition("\n")[0]
    parser.add_argument("--private", action=ActionYesNo, nargs="?", default=False, help=private)
    return parser
