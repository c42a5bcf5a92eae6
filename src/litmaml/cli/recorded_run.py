"""What a checkpoint adds to the arguments of a command: its model and data, its run's folder, and the run itself where
nothing is typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from litmaml.cli.recorded import configuration, training
from litmaml.cli.sealed import seal
from litmaml.runs.arguments import Arguments, is_none
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.checkpoint_names import is_elsewhere, locate, results_folder
from litmaml.runs.folder import CHECKPOINTS, DEFAULT_FOLDER, checkpoints_in, local_folder, resolve_checkpoint
from litmaml.runs.training_form import VERSION_KEY

_EVALUATIONS = ("validate", "test", "predict")


def with_records(arguments: list[str], scratch: Path) -> list[str]:
    """What was typed, after what the checkpoint records of model, data and run."""
    recorded, saved = with_checkpoint(named_checkpoint(arguments), scratch)
    return with_run(recorded, saved, arguments, scratch)


def named_checkpoint(arguments: list[str]) -> list[str]:
    """The arguments with the checkpoint as an option, also where a configuration file names it.

    Raises:
        ValueError: A command that needs a checkpoint has none.
    """
    if not arguments or arguments[0].startswith("-") or {"-h", "--help", "--print_config"} & {*arguments}:
        return arguments
    command, given = arguments[0], Arguments(arguments[1:])
    named = given.value("ckpt_path")
    if named == "":  # such as of a variable that is not set: not to begin anew where a run was to go on
        raise ValueError(
            "ckpt_path: has to be a run's folder, a file, best, last or none, got nothing; leave the option out for a "
            "new run"
        )
    if is_none(named):
        if named is None and command in _EVALUATIONS:
            raise ValueError(
                f"ckpt_path: {command} needs one: --ckpt_path=RUN (a run's folder) or a file; --ckpt_path=none takes "
                "the weights that training would begin with"
            )
        return [command, *given.without("ckpt_path")]
    return [command, *given.without("ckpt_path"), f"--ckpt_path={named}"]


def with_checkpoint(arguments: list[str], scratch: Path) -> tuple[list[str], Mapping[str, Any] | None]:
    """Put the checkpoint's own configuration before all that was typed, so that what was typed wins.

    Args:
        arguments: With the checkpoint as an option.
        scratch: A folder for a configuration file.

    Returns:
        The arguments, and what was read of the checkpoint that a command starts from or is resumed from, if any.
    """
    typed = Arguments(arguments[1:])
    named, weights = typed.option("ckpt_path"), typed.option("init_weights")
    if weights is not None and named is not None:
        raise ValueError("init_weights: is for a new run, ckpt_path to resume or test one; give one of them")
    if weights is not None and arguments[0] == "fit":
        recorded = configuration(read_checkpoint(locate(weights, "init_weights")), arguments, data=False)
        return [arguments[0], "--config", _written(recorded, scratch / "checkpoint.yaml"), *arguments[1:]], None
    if named is None or not arguments or arguments[0].startswith("-"):
        return arguments, None
    command = arguments[0]
    folder = local_folder(typed.value("trainer.default_root_dir") or DEFAULT_FOLDER)
    if command == "fit" and named == "last" and not checkpoints_in(folder):
        # So that a job that is killed before its first checkpoint can be started again as it is.
        rank_zero_info(f"there is no checkpoint in {folder} yet: training starts from the beginning")
        return [command, *typed.without("ckpt_path")], None
    elsewhere = is_elsewhere(named)
    if elsewhere and command == "fit":
        raise ValueError(
            f"ckpt_path: a run goes on in its own folder, got {named!r}; begin a new one with --init_weights={named}"
        )
    path = locate(named, "ckpt_path") if elsewhere else resolve_checkpoint(named, folder, resume=command == "fit")
    saved = read_checkpoint(path)
    if VERSION_KEY not in saved:  # Lightning asks for it
        raise ValueError(
            f"ckpt_path: {str(path)!r} has weights and a recipe, and nothing of a run; begin one with --init_weights, "
            "or adapt it"
        )
    file = _written(configuration(saved, arguments[1:]), scratch / "checkpoint.yaml")
    return [command, "--config", file, *typed.without("ckpt_path"), f"--ckpt_path={path}"], saved


def with_run(arguments: list[str], saved: Mapping[str, Any] | None, typed: list[str], scratch: Path) -> list[str]:
    """Let a run go on where it lies, and as it was where only its folder is named.

    Args:
        arguments: With the recorded model and data first, in a configuration file, and the file of the checkpoint.
        saved: What was read of it, or None.
        typed: As they were typed.
        scratch: A folder for another configuration file.

    Raises:
        ValueError: The run had a part that is not made from its checkpoint alone.
    """
    path, given = Arguments(arguments[1:]).option("ckpt_path"), Arguments(typed[1:])
    if path is None:  # also where a configuration file names one that is not there yet, or not wanted
        return arguments if given.value("ckpt_path") is None else [*arguments, "--ckpt_path=null"]
    command, named = typed[0], str(given.value("ckpt_path"))
    home = results_folder(named, Path(path)) if is_elsewhere(named) else _home(Path(path))
    if home is None and command != "fit" and given.value("trainer.default_root_dir") is None:
        home = Path(path).parent
    there = given.option("trainer.default_root_dir")
    if home is not None and there is None:
        arguments = [*arguments, f"--trainer.default_root_dir={home}"]
    saved = read_checkpoint(path) if saved is None else saved
    before: list[str] = []
    began = saved.get("configuration")
    seed = began.get("seed_everything") if isinstance(began, Mapping) else None
    typed_seed = given.value("seed_everything")
    if command == "fit" and isinstance(seed, int):
        if typed_seed is not None and str(typed_seed) != str(seed):
            raise ValueError(
                f"seed_everything: the run began with the weights of seed {seed}, got {typed_seed}; leave it out, or "
                "begin a new run"
            )
        before = [f"--seed_everything={seed}"]
    if command == "fit" and not given.files and "configuration" in saved:
        before = ["--config", _written(training(saved["configuration"], typed), scratch / "run.yaml"), *before]
        rank_zero_info(f"{home or path}: going on with the trainer and callbacks that it records")
    options = _found_again(saved.get("datamodule_hyper_parameters"), saved.get("made_in"))
    # After the recorded model and data, and before what was typed.
    return [*arguments[:1], *before, *arguments[1:3], *options, *arguments[3:]]


def _written(content: Mapping[str, Any], file: Path) -> str:
    file.write_text(yaml.safe_dump(dict(content)), encoding="utf-8")
    return str(file)


def _home(path: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in, also where a link elsewhere names it; None if in no run."""
    for file in (path, path.resolve()):
        if file.parent.name == CHECKPOINTS:
            return file.parent.parent
    return None


def _found_again(data: Any, made_in: Any) -> list[str]:
    """Where the recorded task data lies, if its folder was named from another current folder than this."""
    tasks = data.get("tasks") if isinstance(data, Mapping) else None
    given = tasks.get("init_args") if isinstance(tasks, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(made_in, str):
        return []
    options = []
    for name in ("root", "split_file"):
        value = given.get(name)
        if not isinstance(value, str) or value.startswith("~") or Path(value).exists():
            continue
        if Path(made_in, value).exists():
            options.append(f"--data.tasks.init_args.{name}={seal(str(Path(made_in, value)))}")
    return options
