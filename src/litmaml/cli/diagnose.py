"""The command ``litmaml diagnose``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from torch import Tensor

from litmaml.cli.error_lines import errors_in_one_line
from litmaml.cli.imports import import_named
from litmaml.cli.meta_cli import MetaCLI
from litmaml.cli.policy_sizes import take_sizes
from litmaml.cli.recorded_run import with_checkpoint
from litmaml.data import TaskDataModule
from litmaml.diagnosis.diagnose import Diagnosis, commonest, diagnose
from litmaml.diagnosis.report import print_diagnosis, write_diagnosis
from litmaml.engine.float32 import set_float32_precision
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.arguments import Arguments
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.checkpoint_names import locate, results_folder
from litmaml.runs.folder import DEFAULT_FOLDER
from litmaml.runs.paths import expanded
from litmaml.runs.weights_record import check_weights
from litmaml.shown import printable
from litmaml.tasks import Split, Tasks, map_batches, stacks_of, tree_map


@dataclass
class Effort:
    """How much is measured.

    Args:
        tasks: Tasks for noise, spread and stability; at least 2.
        probed_tasks: The first so many of them for curvature and the errors of outer gradients, which cost most; by
            default all, and 8 for convolutions on a CPU.
        split: The split that the tasks are of.
    """

    tasks: int = 48
    probed_tasks: int | None = None
    split: Split = "train"


class DiagnoseCLI(MetaCLI):
    """Parses what ``fit`` parses, and builds the learner and its task data without a run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(Effort, "diagnose")

    def before_instantiate_classes(self) -> None:
        set_float32_precision(self.config.float32_matmul_precision)
        take_sizes(self.config)
        self.config.trainer.logger = False
        self.config.trainer.callbacks = None  # those of a run
        self.config.trainer.default_root_dir = str(expanded(self.config.trainer.default_root_dir or DEFAULT_FOLDER))

    def after_instantiate_classes(self) -> None:
        """Nothing is recorded: no checkpoint will be written."""


def run(arguments: Sequence[str]) -> None:
    """``litmaml diagnose`` with what was typed after its name; an error of the user's is told in a line."""
    with errors_in_one_line("diagnose", arguments):
        diagnose_command(import_named(arguments))


def diagnose_command(arguments: Sequence[str]) -> Diagnosis:
    """``litmaml diagnose -c CONFIG [--checkpoint CKPT] [--data.tasks=...] [--diagnose.tasks=48]``.

    Prints the diagnosis of a configuration's model and tasks, or of a checkpoint's, and writes ``diagnosis.json`` and
    ``diagnosis.png`` to the run's folder. A checkpoint brings its own configuration; what is typed wins.

    Raises:
        ValueError: The checkpoint does not fit the configuration, or there is nothing to diagnose (see ``diagnose``).
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--checkpoint")
    named, typed = first.parse_known_args(list(arguments))
    path = None if named.checkpoint is None else locate(named.checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        if path is not None:
            # As for the other commands: the checkpoint's configuration before all that was typed.
            typed_folder = Arguments(typed).option("trainer.default_root_dir")
            folder = [] if typed_folder else [str(results_folder(named.checkpoint, path))]
            recorded, _ = with_checkpoint(["diagnose", *typed, f"--ckpt_path={path}"], Path(scratch))
            typed = recorded[1:-1]
            typed += [f"--trainer.default_root_dir={name}" for name in folder]
        cli = DiagnoseCLI(
            MetaLearner,
            TaskDataModule,
            save_config_callback=None,
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            run=False,
            parser_kwargs={"prog": "litmaml diagnose [--checkpoint CKPT]"},
            args=typed,
        )
    learner, data, effort = cli.model, cli.datamodule, cli.config_init.diagnose
    if path is not None:
        try:
            saved = read_checkpoint(path)
            check_weights(learner.inner_loop.model, saved)
            learner.load_state_dict(saved["state_dict"])
        except ValueError as error:
            raise ValueError(f"checkpoint: {named.checkpoint!r} and the configuration disagree: {error}") from error
    if effort.tasks < 2:
        raise ValueError(f"diagnose.tasks: got {effort.tasks}; how tasks differ can only be told from at least 2")
    dtype = torch.float64 if str(cli.trainer.precision).startswith("64") else torch.float32
    device = cli.trainer.strategy.root_device
    learner.to(device=device, dtype=dtype)
    data.prepare_data()
    data.tasks.load(effort.split)
    console = Console()
    tasks, said = commonest(data.tasks.sample(effort.split, range(effort.tasks), data.seed))
    if tasks.size < 2:
        raise ValueError(f"diagnose.tasks: no two of {effort.tasks} have one size; set it higher")
    tasks = _to(data.tasks.render(_to(tasks, device)), device, dtype)
    console.print(f"diagnosing on {tasks.size} tasks; this takes a minute or two", highlight=False)
    if learner.experience is not None:
        learner.experience.connect(learner.inner_loop.model, data.tasks, data.seed, 1)
        (tasks,) = stacks_of(
            learner.experience.collect(learner.inner_loop, tasks, learner.inner_steps, effort.split).tasks
        )
    found = diagnose(learner, tasks, data.meta_batch, effort.probed_tasks)
    found.remarks[:0] = said
    found.setting["split"] = effort.split
    found.setting["checkpoint"] = None if path is None else str(path)
    print_diagnosis(found, console)
    written = write_diagnosis(found, Path(cli.trainer.default_root_dir))
    console.print(
        f"written to {printable(written[0].parent)}: {', '.join(file.name for file in written)}", soft_wrap=True
    )
    return found


def _to(tasks: Tasks, device: torch.device, dtype: torch.dtype | None = None) -> Tasks:
    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return map_batches(lambda batch: tree_map(move, batch), tasks)
