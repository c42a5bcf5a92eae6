"""The command ``litmaml finetune``, and how it and ``litmaml classify`` are run."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from litmaml.cli.classify import classify
from litmaml.cli.error_lines import OneLineErrors, errors_in_one_line
from litmaml.cli.family import family_of
from litmaml.cli.imports import import_named
from litmaml.cli.typed_parts import or_another, repeatable, with_typed_parts
from litmaml.data.image_files import Unreadable
from litmaml.data.images import ImageFormat
from litmaml.data.table_file import is_table
from litmaml.engine.float32 import set_float32_precision
from litmaml.finetuning.export import EXPORTS
from litmaml.finetuning.fine_tuning import FineTuned, fine_tune
from litmaml.finetuning.labelled_images import check_copies, read_query, read_support
from litmaml.finetuning.labelled_rows import check_apart, read_rows
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint, open_checkpoint
from litmaml.finetuning.report import print_report, write_report
from litmaml.finetuning.row_report import print_row_report, write_row_report
from litmaml.finetuning.row_tuning import RowsTuned, fine_tune_rows
from litmaml.learner.recipe import not_warned_of
from litmaml.rl.policy_report import print_policy_report, write_policy_report
from litmaml.rl.policy_tuning import PolicyTuned, tune_policy
from litmaml.runs.paths import check_new, expanded
from litmaml.runs.whole_files import check_writable
from litmaml.shown import first_line, listed


def finetune(
    checkpoint: str,
    data: str | None,
    output: str,
    query: str | None = None,
    steps: int | None = None,
    lr: float | None = None,
    head: str | None = None,
    export: Sequence[Literal["pt2", "onnx"]] = (),
    image_format: ImageFormat | None = None,
    imports: Sequence[str] = (),
    device: str = "cpu",
    wandb: str | None = None,
    model: nn.Module | None = None,
    loss: nn.Module | None = None,
    env: str | None = None,
    task: str | None = None,
    trajectories: int = 20,
    unreadable: Unreadable = "skip",
) -> FineTuned | RowsTuned | PolicyTuned:
    """Make a model of your own images or rows from a meta-checkpoint and a few labelled examples, or adapt a policy.

    Writes the adapted model, its predictions and a report to a new folder. Example: litmaml finetune --checkpoint
    runs/glyphs --data photos --output birds, with photos/robin/1.jpg, photos/wren/1.jpg, ...

    Args:
        checkpoint: A file that fit wrote, a run's folder (its best checkpoint), RUN/last,
            wandb://ENTITY/PROJECT/NAME:ALIAS, hf://USER/NAME or zoo:NAME (litmaml zoo lists those).
        data: Folder of the labelled images to adapt to, the support set: DATA/CLASS/*.png, *.jpg, ...; or, of a
            checkpoint of TableTasks, a CSV, TSV or Parquet file of one task's rows. Those whose target is empty are
            predicted. A policy has none.
        output: Folder to write to; it must not exist, or be empty.
        query: Folder of further images: in folders named as the classes they are scored, without folders they are
            predicted. Without labels the accuracy is estimated by leaving images of the support set out in turn. Or a
            file of further rows.
        steps: Inner steps; by default as in the checkpoint's own tests, and further until the support set is learnt.
        lr: Inner rate for all steps and weights; by default what was meta-learnt.
        head: Name of the layer that gives the logits, to be made anew for other classes; by default as in the
            checkpoint, or the last layer of a forward pass.
        export: Also write the model for torch.export (pt2, model.pt2) or for ONNX (onnx, model.onnx); may be given
            twice.
        image_format: What images become; by default as in the checkpoint's training.
        imports: Your own modules to import first, such as the one with the checkpoint's model: --imports one two.
        device: Where to compute: cpu, cuda, cuda:1, ...
        wandb: Project of Weights & Biases to log to; without an account under WANDB_MODE=offline.
        model: The network, where the checkpoint does not record how it is made; or -c RUN/config.yaml for both.
        loss: Its loss, likewise.
        env: Of a policy, what makes its environment of gymnasium, as module.function; by default as in training.
        task: Of a policy, the parameters of its environment: --task velocity=1.4,gravity=9.
        trajectories: Of a policy, those of each inner step.
        unreadable: What is done about images that cannot be read: skip leaves them out, counted and listed; refuse
            ends the command.

    Raises:
        FileNotFoundError: There is no such checkpoint or folder.
        FileExistsError: The output folder has something in it.
        ValueError: The checkpoint or the images cannot be used.
    """
    asked = {
        "checkpoint": checkpoint,
        "data": data,
        "output": output,
        "query": query,
        "steps": steps,
        "lr": lr,
        "head": head,
    }
    folder = expanded(output)
    check_new(folder, repr(output))
    check_writable(folder.parent, "output")
    _check_device(device)
    if wandb is not None:  # wandb need not be there otherwise, and it is too late at the end to say that it is not
        from litmaml.finetuning.wandb_report import report_to_wandb
    set_float32_precision("highest")  # the same model on a GPU as on a CPU
    parts = {name: part for name, part in (("model", model), ("loss", loss)) if part is not None}
    with not_warned_of(parts), or_another("model", "loss"):  # saving tells
        start = open_checkpoint(checkpoint, **parts)
    if env is not None or task is not None:
        if data is not None or head is not None or wandb is not None or query is not None or image_format is not None:
            raise ValueError("env: a policy has its data of its environment; leave out data, query, head and wandb")
        policy = tune_policy(start, *family_of(start, env, task), steps, trajectories, lr)
        _write(policy, policy.observations, folder, export)
        print_policy_report(policy, folder)
        return policy
    if start.learner.experience is not None:
        raise ValueError(
            f"data: the checkpoint is of a policy, whose data come from an environment, got {data!r}; give --task, "
            "and --env where it is another environment than in training"
        )
    if data is None:
        raise ValueError("data: has to be given, the folder or file of the examples")
    if is_table(data):
        if head is not None or image_format is not None:
            raise ValueError(f"data: of rows neither --head nor --image_format is used, got {data!r}; leave them out")
        tuned = _finetune_rows(start, data, query, steps, lr, device)
        _write(tuned, tuned.rows.inputs, folder, export)
        print_row_report(tuned, folder)
        if wandb is not None:
            report_to_wandb(tuned, folder, wandb, asked)
        return tuned
    image_format = image_format or start.image_format
    if image_format is None and start.table is not None:
        raise ValueError(
            f"data: the checkpoint was trained on a table, got {data!r}; give a CSV, TSV or Parquet file of one task's "
            "rows"
        )
    if image_format is None:
        raise ValueError(
            f"checkpoint: {checkpoint!r} does not say what its images were made to; if it takes images, say so "
            "(--image_format.size=28 ...), else adapt it in Python by litmaml.adapt"
        )
    support, classes = read_support(data, image_format, unreadable)
    further = None if query is None else read_query(query, classes, image_format, unreadable)
    check_copies(support, further, classes)
    start.learner.to(device)
    further = None if further is None else further.to(device)
    result = fine_tune(start, classes, image_format, support.to(device), further, steps, lr, head)
    _write(result, support.inputs, folder, export)
    print_report(result, folder)
    if wandb is not None:
        report_to_wandb(result, folder, wandb, asked)
    return result


def _finetune_rows(
    start: MetaCheckpoint, data: str, query: str | None, steps: int | None, lr: float | None, device: str
) -> RowsTuned:
    """The fine-tuning on the rows of a file."""
    made = start.table
    if made is None:
        raise ValueError(
            f"data: the checkpoint was not trained on TableTasks, and takes no rows, got {data!r}; give a folder of "
            "images if it takes those, else adapt it in Python by litmaml.adapt"
        )
    given = read_rows(data, made, "data")
    support, rest = given.labelled(), given.labelled(known=False)
    if not len(support):
        raise ValueError(
            f"data: no row has a value in the column {listed(list(made.targets))}, got {data!r}; give those of a few"
        )
    if query is not None and len(rest):
        raise ValueError(
            f"query: the rows of --data without a target are predicted already, got {query!r}; leave one out"
        )
    further = read_rows(query, made, "query") if query is not None else rest if len(rest) else None
    if query is not None and further is not None:
        check_apart(support, further)
    start.learner.to(device)
    return fine_tune_rows(start, made, support.to(device), None if further is None else further.to(device), steps, lr)


def _write(result: FineTuned | RowsTuned | PolicyTuned, inputs: Tensor, folder: Path, export: Collection[str]) -> None:
    """The model and what is told of it, in a folder that is whole or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / folder.name
        result.model.cpu().save(made)
        for kind, write in EXPORTS.items():
            if kind in export:
                exported = result.mean_action if isinstance(result, PolicyTuned) else result.model
                write(exported, inputs.cpu(), made / f"model.{kind}")
        if isinstance(result, PolicyTuned):
            write_policy_report(result, made)
        elif isinstance(result, RowsTuned):
            write_row_report(result, made)
        else:
            write_report(result, made)
        os.replace(made, folder)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, not built in, not there
        raise ValueError(
            f"device: torch cannot compute there ({first_line(error)}), got {device!r}; use cpu, or one of the "
            f"{torch.cuda.device_count()} GPUs that torch sees (cuda, cuda:1, ...)"
        ) from error


COMMANDS: dict[str, Callable[..., object]] = {"finetune": finetune, "classify": classify}
"""What ``litmaml NAME`` runs, besides LightningCLI's own commands."""
_PARTS = {"finetune": {"model": "model", "loss": "loss"}, "classify": {"model": "network"}}
"""The option of each command that takes a part of the learner from a run's configuration."""


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Run one of ``COMMANDS`` with what was typed after its name; an error is told in a line."""
    command = COMMANDS[name]
    with errors_in_one_line(name, arguments):
        _, *further = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0].split("\n\n")
        with tempfile.TemporaryDirectory() as scratch:
            auto_cli(
                command,
                args=with_typed_parts(repeatable(import_named(arguments), "export"), _PARTS[name], Path(scratch)),
                as_positional=False,
                parser_class=OneLineErrors,
                prog=f"litmaml {name}",
                epilog=" ".join(further),
            )
