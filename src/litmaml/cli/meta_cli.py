"""LightningCLI for litmaml: what it may be given, and what lies in a run's folder."""

from __future__ import annotations

import pkgutil
import shlex
import warnings
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.callbacks.timer import Interval
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from litmaml.callbacks import BestCheckpoint, LastCheckpoint, Predictions, Preemption, Report, Resumption
from litmaml.callbacks.best_checkpoint import best_checkpoint
from litmaml.cli.error_lines import OneLineParser
from litmaml.cli.imports import HELP
from litmaml.cli.number_types import take_whole_numbers_first
from litmaml.cli.policy_sizes import take_sizes
from litmaml.cli.recorded import SealedParser
from litmaml.cli.save_config import SaveConfig
from litmaml.cli.sealed import unseal
from litmaml.cli.unwritten import without_defaults
from litmaml.engine.float32 import Float32Precision, set_float32_precision
from litmaml.learner.initial_weights import start_from
from litmaml.learner.processes import check_backend, check_devices, end_others
from litmaml.learner.recipe import NEEDED, not_warned_of
from litmaml.learner.trainer_checks import check_device_names, check_monitors, check_numbers, check_trains
from litmaml.runs.checkpoint_io import DurableCheckpointIO
from litmaml.runs.configuration import check_configuration
from litmaml.runs.folder import (
    CHECKPOINTS,
    DEFAULT_FOLDER,
    LAST,
    check_places,
    checkpoints_in,
    local_folder,
    put_back,
    remove_unfinished,
    set_aside,
)
from litmaml.runs.guarded_logger import guard
from litmaml.runs.nameable import imports_again, python_path, users_modules
from litmaml.runs.owner import FolderOwner, claim
from litmaml.runs.signatures import parameters
from litmaml.runs.whole_files import check_writable

# Such as a loss's weights of the classes: weight: [1.0, 2.0].
register_type(torch.Tensor, serializer=torch.Tensor.tolist, deserializer=torch.tensor)
take_whole_numbers_first()
# The default of a Timer, which takes a text.
yaml.SafeDumper.add_representer(Interval, lambda dumper, value: dumper.represent_str(value.value))


class CommandParser(SealedParser, OneLineParser):
    """The parser of the command line: with errors in one line, and with the texts that a checkpoint records."""


_BEGINNING = ("ckpt_path", "init_weights", "weights_only")
"""Options that say where one run began, and nothing of another from the same configuration."""


class MetaCLI(LightningCLI):
    """LightningCLI with a run's folder, in which checkpoints, logs, results and the configuration lie."""

    owner: FolderOwner | None = None
    _earlier: Path | None = None  # where the run that lay in the folder was moved

    def __init__(self, *args: Any, only: str | None = None, **kwargs: Any) -> None:
        self.only = only  # the parsers of the other commands take as long to make
        super().__init__(*args, **{"parser_class": CommandParser, **kwargs})

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # of one command line, where Lightning's are of all
        known = LightningCLI.subcommands()
        return {self.only: known[self.only]} if self.only in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_argument(
            "--init_weights",
            type=str | None,
            help="Meta-checkpoint (file, run's folder, RUN/last, wandb:// or hf:// reference, zoo:NAME) whose weights "
            "a new run starts from; to resume a run use --ckpt_path.",
        )
        parser.add_argument("--imports", type=list[str] | None, help=HELP)
        parser.add_argument(
            "--float32_matmul_precision",
            type=Float32Precision,
            default="highest",
            help="How exact matrix products and convolutions of float32 are: highest; high takes TF32 on GPUs that "
            "have it, for several times the speed; medium bfloat16 for matrix products.",
        )
        parser.add_lightning_class_args(Report, "report")
        parser.add_lightning_class_args(Preemption, "preemption")

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's arguments win over those typed; see ``with_records``."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        for name in ("trainer", "checkpoint", "report", "preemption"):  # of which jsonargparse takes anything
            if name in config and not isinstance(config[name], Namespace):
                raise ValueError(f"{name}: is a group of options, such as {name}: {{}}, got {config[name]!r}")
        _check_groups(config.data.tasks, "data.tasks")
        set_float32_precision(config.float32_matmul_precision)
        take_sizes(config)
        # With the nulls in it, for one may stand where the default is another; one at the top is an option left out.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "\\s*Unable to serialize instance")  # of a default, which is left out
            written = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=False, skip_unset=False))
        resolved = unseal(without_defaults(written))
        self.resolved: dict[str, Any] = resolved.get(self.subcommand, resolved)
        self.save_config_kwargs["recorded"] = {
            name: value for name, value in self.resolved.items() if value is not None and name not in _BEGINNING
        }
        folder = local_folder(config.trainer.default_root_dir or DEFAULT_FOLDER)
        config.trainer.default_root_dir = str(folder)
        if config.trainer.barebones:
            config.trainer.enable_checkpointing = False
        elif self.subcommand != "fit" and config.trainer.logger is None:
            config.trainer.logger = False  # results are written by Report; logs belong to training
        elif config.trainer.logger in (None, True):
            config.trainer.logger = _logger("lightning.pytorch.loggers.CSVLogger", name="logs", save_dir="")
        for logger in config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]:
            # Not every logger has a folder: some write to a service only.
            if isinstance(logger, Namespace) and unseal(logger.init_args.get("save_dir", True)) in ("", None):
                logger.init_args.save_dir = str(folder)
        if self.subcommand == "predict":
            config.return_predictions = False  # Predictions writes them
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # Report prints the table, with intervals

    def before_fit(self) -> None:
        """Own the folder and make room in it, once all that was typed has proved right."""
        check_trains(self.trainer)
        check_monitors(self.trainer, self.model)
        if self.config.fit.trainer.fast_dev_run or not _is_first_process():
            return
        folder = Path(self.trainer.default_root_dir)
        self.owner = claim(folder)
        if not self._starts_in(folder):
            if moved := set_aside(folder):
                self._earlier = moved
                self.owner.release(moved)
                rank_zero_info(f"{folder} held an earlier run: it is now {moved}")
                folder.resolve().mkdir(parents=True, exist_ok=True)  # where it is a link
                self.owner = claim(folder)
            check_configuration(folder)
        check_places(folder, (logger.log_dir for logger in self.trainer.loggers))
        remove_unfinished(folder)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it outside the class
            if isinstance(callback, LastCheckpoint | SaveConfig):
                callback.owner = self.owner

    def before_test(self) -> None:
        """See that the results can be kept, before hours are spent on them, and take the place of no other run's."""
        folder = Path(self.trainer.default_root_dir)
        check_writable(folder, "trainer.default_root_dir")
        if checkpoints_in(folder) and not self._starts_in(folder):
            named = self.config[self.subcommand].ckpt_path or "no checkpoint"
            raise ValueError(
                f"trainer.default_root_dir: {str(folder)!r} holds a run, whose own results would be replaced by those "
                f"of {named}; name another folder for these"
            )

    before_predict = before_test

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except BaseException:
            end_others(self.trainer)
            raise
        finally:
            folder = Path(self.trainer.default_root_dir)
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it outside the class
            stepped = any(isinstance(each, SaveConfig) and each.stepped(self.trainer) for each in callbacks)
            if self._earlier is not None and not stepped and put_back(self._earlier, folder):
                rank_zero_info(f"{self._earlier} is {folder} again: the new run did not come to its first step")
            if self.owner is not None:
                self.owner.release()

    def _starts_in(self, folder: Path) -> bool:
        """Whether a command starts from a checkpoint of the run in this folder, not of another run's."""
        named = self.config[self.subcommand].ckpt_path
        if named is None:
            return False
        # Also where it lies there by a link, which ``check_places`` then refuses.
        return any(path.is_relative_to(folder.resolve()) for path in (Path(named).resolve(), _in_place(Path(named))))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = list(given) if isinstance(given, list) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(DurableCheckpointIO())
        if SLURMEnvironment.detect() and not any(isinstance(p, ClusterEnvironment) for p in plugins):
            # Lightning's requeueing saves inside the signal handler; Preemption and train.sbatch do it.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        return super().instantiate_trainer(**kwargs, plugins=plugins)

    def instantiate_classes(self) -> None:
        # What an object does not keep of its arguments is taken from those that were parsed.
        with not_warned_of(["the task data", *vars(self._get(self.config, "model"))]):
            super().instantiate_classes()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        last = LastCheckpoint()
        last.configuration = self.save_config_kwargs.get("recorded", {})  # a diagnosis records none
        callbacks = [*callbacks, Predictions(), Resumption(last.configuration), last]
        if config["enable_checkpointing"] is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        config = unseal(config)
        check_device_names(config["devices"])
        trainer = super()._instantiate_trainer(config, callbacks)
        check_devices(trainer)
        check_backend(trainer)
        check_numbers(trainer)
        for logger in trainer.loggers if _is_first_process() else ():
            guard(logger)
        return trainer

    def after_instantiate_classes(self) -> None:
        # The parsed arguments rebuild also those classes that do not keep them as attributes.
        self.model.remember(self.resolved["model"])
        self.datamodule.remember(self.resolved["data"])
        if named := self.config[self.subcommand].init_weights:
            start_from(self.model, named)
            rank_zero_info(f"starting from the weights of {named}")

    def after_fit(self) -> None:
        best = best_checkpoint(self.trainer)
        last = Path(self.trainer.default_root_dir) / CHECKPOINTS / LAST
        kept = best or (last if self.trainer.checkpoint_callback and last.is_file() else None)
        if self.trainer.is_global_zero and kept is not None:
            path = python_path(users_modules(self.resolved))
            test = f"{path}litmaml test --ckpt_path {shlex.quote(str(kept))}{self._needed_again()}"
            which = "best checkpoint" if best else "last checkpoint (no validation has chosen a best one)"
            rank_zero_info(f"{which}: {kept}\ntest it: {test}")

    def _needed_again(self) -> str:
        """What has to be typed for the run's checkpoints to be loaded."""
        recorded = [dict(self.model.hparams), dict(self.datamodule.hparams)]
        if NEEDED.keys() - recorded[0].keys():
            return f" -c {shlex.quote(str(Path(self.trainer.default_root_dir) / 'config.yaml'))}"
        return imports_again(*recorded)


def _check_groups(made: Any, where: str) -> None:
    """Refuse what is no group in the place of an episode, a format or another group of options of the task source, of
    which jsonargparse takes anything; also within the sources that it is made of."""
    for k, part in enumerate(made if isinstance(made, list) else ()):
        _check_groups(part, f"{where}[{k}]")
    if not isinstance(made, Namespace) or "class_path" not in made or not made.get("init_args"):
        return
    known, _ = parameters(pkgutil.resolve_name(made.class_path))
    for name, value in made.init_args.items():
        if is_dataclass(known.get(name)) and not isinstance(value, Namespace):
            got = "null" if value is None else value
            raise ValueError(
                f"{where}.init_args.{name}: is a group of options, got {got}; leave it out for its defaults, or give "
                f"some of them, such as {name}: {{}}"
            )
        _check_groups(value, f"{where}.init_args.{name}")


def _in_place(checkpoint: Path) -> Path:
    """Where a checkpoint of a run seems to lie, as if its folder of checkpoints were no link."""
    return checkpoint.parent.parent.resolve() / checkpoint.parent.name / checkpoint.name


def _is_first_process() -> bool:
    # Lightning starts the other processes by running the same command again.
    return getattr(rank_zero_only, "rank", 0) == 0


def _logger(class_path: str, **init_args: Any) -> Any:
    return Namespace(  # type: ignore[no-untyped-call]  # untyped in jsonargparse
        class_path=class_path,
        init_args=Namespace(init_args),  # type: ignore[no-untyped-call]  # untyped too
    )
