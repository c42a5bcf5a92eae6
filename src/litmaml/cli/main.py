"""The command line: ``litmaml fit | validate | test | predict`` by LightningCLI, and the other commands."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from litmaml.callbacks.preemption import requeued_before_training
from litmaml.cli import data, diagnose, push, zoo
from litmaml.cli.commands import COMMANDS, answered
from litmaml.cli.error_lines import errors_in_one_line
from litmaml.cli.finetune import COMMANDS as IMAGE_COMMANDS
from litmaml.cli.finetune import run_command
from litmaml.cli.imports import import_named
from litmaml.cli.meta_cli import MetaCLI
from litmaml.cli.recorded_run import with_records
from litmaml.cli.run_help import ALL
from litmaml.cli.save_config import SaveConfig
from litmaml.cli.shipped import run_configs, with_shipped
from litmaml.cli.stub_types import look_up_types
from litmaml.data import TaskDataModule
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.wandb_server import keep_to_own_server
from litmaml.shown import printable

_SAY_NOTHING = (
    # An advertisement, and a note on every checkpoint about how it is written.
    *("Tip:", "`weights_only` was not set"),
    # Devices that are not there, and what is said again once it is done.
    *("TPU available", "GPU available: False", "Restoring states from"),
    # What the bar says, which it would be glued to.
    *("stopped: `max_epochs", "stopped: `max_steps"),
)
_OTHERS = {"configs": run_configs, "data": data.run, "diagnose": diagnose.run, "push": push.run, "zoo": zoo.run}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ``args`` without the program's name, by default those it was called with.

    Called as the program, it tells an error in one line; called with ``args``, from Python, it raises the error.
    """
    if args is None:
        program(sys.argv[1:])
    else:
        _run(list(args))


def program(arguments: Sequence[str]) -> None:
    """Run the command line; errors end it with a line and a status."""
    # Nor do the processes that it starts look for modules in the current folder, which may be a stranger's.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    keep_to_own_server()
    if not os.environ.get("LITMAML_DEBUG"):
        warnings.formatwarning = _warning
    with errors_in_one_line(arguments[0] if arguments else "", list(arguments[1:])):
        _run(list(arguments))


def _says_something(record: logging.LogRecord) -> bool:
    """Whether what Lightning tells is of use to whoever runs the program."""
    return not any(part in record.getMessage() for part in _SAY_NOTHING)


def _warning(message: Warning | str, *where: object, **more: object) -> str:
    """A warning as it is read: what it says, without the line of a program that it comes from."""
    return f"warning: {printable(message)}\n"


def _run(arguments: list[str]) -> None:
    if answered(arguments):
        return
    look_up_types()
    # The arguments are those of the command line, with the checkpoint's own before them.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    # A test does not need the callback that chose the checkpoint, and a resumed run writes where it wrote.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # A ModelCheckpoint beside ours writes to the logs, which are others after resuming.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # Under trainer.barebones, whose own message says that there are no logs.
    warnings.filterwarnings("ignore", message="You are trying to `self.log")
    # torch.utils._pytree as lightning 2.6 calls it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_says_something)
    command = arguments[0]
    arguments = with_shipped("--help" if argument == ALL else argument for argument in arguments)
    if command in IMAGE_COMMANDS:
        run_command(command, arguments[1:])
        return
    if command in _OTHERS:
        _OTHERS[command](arguments[1:])
        return
    if command.startswith("-"):
        raise ValueError(f"{command.partition('=')[0]}: options come after a command, such as litmaml fit {command}")
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        raise ValueError(
            f"there is no command {command!r}; "
            + (f"did you mean {near[0]}? " if near else "")
            + f"There are {', '.join(COMMANDS)}"
        )
    stopping = requeued_before_training() if command == "fit" else nullcontext()
    with stopping, tempfile.TemporaryDirectory() as scratch:
        MetaCLI(
            MetaLearner,
            TaskDataModule,
            only=command,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,  # model.optimizer is the one place for it
            seed_everything_default=0,
            parser_kwargs={
                "prog": "litmaml",
                "description": "Few-shot learning by MAML with a selectable outer gradient.",
            },
            args=with_records(import_named(arguments), Path(scratch)),
        )
