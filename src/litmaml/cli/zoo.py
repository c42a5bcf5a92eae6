"""The command ``litmaml zoo``."""

from __future__ import annotations

from collections.abc import Sequence

from litmaml.cli.error_lines import OneLineErrors, errors_in_one_line
from litmaml.runs.zoo import PREFIX, card_of, names, subject_of

_TOLD = "List the meta-checkpoints that come with the program, each with a line on it, or show the card of one."


def show(name: str | None = None) -> None:
    """Print the list, or the card of a name.

    Raises:
        FileNotFoundError: There is no checkpoint of this name.
    """
    if name is not None:
        print(card_of(name, "name").rstrip())
        return
    wide = max(map(len, names()))
    for each in names():
        print(f"{each:{wide}}  {subject_of(each)}")
    print(f"\nThe card of one: litmaml zoo {names()[0]}; it is a checkpoint by the name {PREFIX}{names()[0]}")


def run(arguments: Sequence[str]) -> None:
    """Run ``litmaml zoo`` with what was typed after it; an error is told in a line."""
    with errors_in_one_line("zoo", arguments):
        show(make_parser().parse_args(list(arguments)).name)


def make_parser() -> OneLineErrors:
    """The parser of what is typed after ``litmaml zoo``."""
    parser = OneLineErrors(prog="litmaml zoo", description=_TOLD)
    parser.add_argument("name", nargs="?", type=str, help="Which, as listed; by default all are listed.")
    return parser
