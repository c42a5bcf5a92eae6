"""The commands, and what is answered about them before anything is imported that takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

import litmaml
from litmaml.cli import shipped
from litmaml.cli.run_help import RUNS, run_help
from litmaml.runs import zoo

COMMANDS = {
    "fit": "meta-train a model: litmaml fit -c glyphs",
    "validate": "adapt to the validation tasks of a checkpoint's data",
    "test": "adapt to the test tasks, with intervals and a picture",
    "predict": "write each test task's adapted predictions",
    "finetune": "adapt a meta-checkpoint to your own labelled images or rows",
    "classify": "predict images or rows by a model that finetune made",
    "push": "publish a run or an adapted model on the Hugging Face Hub",
    "diagnose": "measure curvature, noise and cost, and what method they ask for",
    "data": "pack images into files that all processes share",
    "zoo": "list the meta-checkpoints that come with the program, or show a card",
    "configs": "list the configurations that come with the program, or copy one",
}
"""Every command, with a line on what it does."""


def help_text() -> str:
    """What ``litmaml --help`` prints."""
    lines = "\n".join(f"  {name:10}{does}" for name, does in COMMANDS.items())
    return (
        "usage: litmaml COMMAND [options]\n\nFew-shot learning by MAML with a selectable outer gradient.\n\n"
        f"commands:\n{lines}\n\n"
        "Each has its own --help, such as litmaml fit --help."
    )


def answered(arguments: Sequence[str]) -> bool:
    """Answer what asks for help, the version, the zoo or the list of configurations; whether it did."""
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(help_text())
    elif first == "--version":
        print(f"litmaml {litmaml.__version__}")
    elif first in RUNS and {"-h", "--help"} & {*arguments[1:]}:
        print(run_help(first, COMMANDS[first]))
    elif first == "zoo" and (len(arguments) == 1 or arguments[1:] in [[name] for name in zoo.names()]):
        print(zoo.told(*arguments[1:]))
    elif arguments in (["configs"], ["configs", "list"]):
        shipped.show()
    else:
        return False
    return True
