"""The command ``litmaml zoo``."""

from __future__ import annotations

from collections.abc import Sequence

from litmaml.cli.error_lines import OneLineErrors, errors_in_one_line
from litmaml.runs.zoo import told

_TOLD = "List the meta-checkpoints that come with the program, each with a line on it, or show the card of one."


def run(arguments: Sequence[str]) -> None:
    """Run ``litmaml zoo`` with what was typed after it; an error is told in a line."""
    with errors_in_one_line("zoo", arguments):
        print(told(make_parser().parse_args(list(arguments)).name))


def make_parser() -> OneLineErrors:
    """The parser of what is typed after ``litmaml zoo``."""
    parser = OneLineErrors(prog="litmaml zoo", description=_TOLD)
    parser.add_argument("name", nargs="?", type=str, help="Which, as listed; by default all are listed.")
    return parser
