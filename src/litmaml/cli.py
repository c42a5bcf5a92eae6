"""The command line: ``litmaml fit | validate | test | predict`` by LightningCLI."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from litmaml.callbacks import Preemption, Report
from litmaml.checkpoint import read_checkpoint
from litmaml.checkpoint_io import DurableCheckpointIO
from litmaml.data import TaskDataModule
from litmaml.finetuning.command import COMMANDS, run_command
from litmaml.finetuning.meta_checkpoint import locate, start_from
from litmaml.float32 import Float32Precision, set_float32_precision
from litmaml.imports import HELP, import_named
from litmaml.meta_learner import MetaLearner
from litmaml.paths import expanded
from litmaml.recorded import SealedParser, configuration
from litmaml.run_folder import (
    BEST,
    CHECKPOINTS,
    LAST,
    checkpoints_in,
    folder_of,
    resolve_checkpoint,
    set_aside,
)
from litmaml.sealed import seal, unseal

_DEFAULT_FOLDER = "runs/latest"


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to the logs, and that of ``fit`` to ``config.yaml`` in the run's folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # With the nulls in it, for one may stand where the default is another; one at the top is an option left out.
        resolved = unseal(yaml.safe_load(self.parser.dump(self.config, skip_unset=False)))
        plain = {name: value for name, value in resolved.items() if value is not None}
        if stage == "fit":
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
            (folder / "config.yaml").write_text(text, encoding="utf-8")
        for logger in trainer.loggers:
            # A test in the same log leaves standing how the model was trained.
            logger.log_hyperparams(plain if stage == "fit" else {stage: plain})


class MetaCLI(LightningCLI):
    """LightningCLI with a run's folder, in which checkpoints, logs, results and the configuration lie."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"parser_class": SealedParser, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        # With save_last the callback above would write the last checkpoint only where the best one changes.
        parser.add_lightning_class_args(ModelCheckpoint, "last_checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": BEST.removesuffix(".ckpt"),
                "checkpoint.monitor": "val/loss",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
                "last_checkpoint.filename": LAST.removesuffix(".ckpt"),
                "last_checkpoint.enable_version_counter": False,
            }
        )
        parser.add_argument(
            "--init_weights",
            type=str | None,
            help="Meta-checkpoint (file, run's folder, RUN/last or wandb:// reference) whose weights a new run starts "
            "from; to resume a run use --ckpt_path.",
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
        """Lightning would let the checkpoint's arguments win over those typed; see ``with_checkpoint``."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        set_float32_precision(config.float32_matmul_precision)
        recorded = unseal(config.trainer.default_root_dir)
        typed = recorded == config.trainer.default_root_dir
        folder = expanded(recorded or _DEFAULT_FOLDER) if typed else Path(recorded)
        config.trainer.default_root_dir = str(folder)
        for checkpoint in (config.checkpoint, config.last_checkpoint):
            checkpoint.dirpath = checkpoint.dirpath or str(folder / CHECKPOINTS)
        if self.subcommand != "fit" and config.trainer.logger is None:
            config.trainer.logger = False  # results are written by Report; logs belong to training
        elif config.trainer.logger in (None, True):
            config.trainer.logger = _logger("lightning.pytorch.loggers.CSVLogger", name="logs")
        for logger in config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]:
            if logger and logger is not True and not logger.init_args.get("save_dir"):
                logger.init_args.save_dir = str(folder)
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # Report prints the table, with intervals

    def before_fit(self) -> None:
        """Make room once all that was typed has proved right."""
        if self.config.fit.ckpt_path or self.config.fit.trainer.fast_dev_run or not _is_first_process():
            return
        folder = Path(self.trainer.default_root_dir)
        if moved := set_aside(folder):
            rank_zero_info(f"{folder} held an earlier run: it is now {moved}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = list(given) if isinstance(given, list) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(DurableCheckpointIO())
        if SLURMEnvironment.detect() and not any(isinstance(p, ClusterEnvironment) for p in plugins):
            # Lightning's requeueing saves inside the signal handler; Preemption and train.sbatch do it.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        return super().instantiate_trainer(**kwargs, plugins=plugins)

    def after_instantiate_classes(self) -> None:
        # The parsed arguments rebuild also those classes that do not keep them as attributes.
        typed = unseal(yaml.safe_load(self.parser.dump(self.config, skip_link_targets=False, skip_unset=False)))
        typed = typed.get(self.subcommand, typed)
        self.model.remember(typed["model"])
        self.datamodule.remember(typed["data"])
        if named := self.config[self.subcommand].init_weights:
            start_from(self.model, named)
            rank_zero_info(f"starting from the weights of {named}")

    def after_fit(self) -> None:
        if self.trainer.is_global_zero and self.trainer.checkpoint_callback is not None:
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            if best:
                rank_zero_info(f"best checkpoint: {best}\ntest it: litmaml test --ckpt_path {best}")


def _is_first_process() -> bool:
    # Lightning starts the other processes by running the same command again.
    return getattr(rank_zero_only, "rank", 0) == 0


def _logger(class_path: str, **init_args: Any) -> Any:
    return Namespace(  # type: ignore[no-untyped-call]  # untyped in jsonargparse
        class_path=class_path,
        init_args=Namespace(init_args),  # type: ignore[no-untyped-call]  # untyped too
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ``args`` without the program's name, by default those it was called with."""
    arguments = list(sys.argv[1:] if args is None else args)
    # The arguments are those of the command line, with the checkpoint's own before them.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    # A test does not need the callback that chose the checkpoint, and a resumed run writes where it wrote.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # torch.utils._pytree as lightning 2.6 calls it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        # Advertisements, and a note on every checkpoint about how it is written.
        lambda record: not any(part in record.getMessage() for part in ("Tip:", "`weights_only` was not set"))
    )
    if arguments and arguments[0] in COMMANDS:
        run_command(arguments[0], arguments[1:])
        return
    if arguments[:1] == ["diagnose"]:
        from litmaml.diagnosis.command import run  # builds on MetaCLI

        run(arguments[1:])
        return
    others = ", ".join(f"litmaml {name}" for name in (*COMMANDS, "diagnose"))
    with tempfile.TemporaryDirectory() as scratch:
        MetaCLI(
            MetaLearner,
            TaskDataModule,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_kwargs={
                "prog": "litmaml",
                "description": "Few-shot learning by MAML with a selectable outer gradient.",
                "epilog": f"And, each with its own --help: {others}",
            },
            args=with_checkpoint(import_named(arguments), Path(scratch)),
        )


def with_checkpoint(arguments: list[str], scratch: Path) -> list[str]:
    """Put the checkpoint's own configuration before all that was typed, so that what was typed wins."""
    named, weights = _option(arguments, "--ckpt_path"), _option(arguments, "--init_weights")
    if weights is not None and named is not None:
        raise ValueError("init_weights: is for a new run, ckpt_path to resume or test one; give one of them")
    if weights is not None and arguments[0] == "fit":
        recorded = configuration(read_checkpoint(locate(weights, "init_weights")), arguments, data=False)
        return [arguments[0], "--config", _written(recorded, scratch), *arguments[1:]]
    if named is None or not arguments or arguments[0].startswith("-"):
        return arguments
    command, rest = arguments[0], arguments[1:]
    folder = _folder(rest)
    if command == "fit" and named == "last" and not checkpoints_in(folder):
        # So that a job that is killed before its first checkpoint can be started again as it is.
        rank_zero_info(f"there is no checkpoint in {folder} yet: training starts from the beginning")
        return [command, *_without(rest, "--ckpt_path")]
    path = resolve_checkpoint(named, folder, resume=command == "fit")
    recorded = configuration(read_checkpoint(path), rest)
    recorded["trainer"] = {"default_root_dir": seal(str(folder_of(path)))}
    return [command, "--config", _written(recorded, scratch), *_without(rest, "--ckpt_path"), f"--ckpt_path={path}"]


def _written(recorded: dict[str, Any], scratch: Path) -> str:
    file = scratch / "checkpoint.yaml"
    file.write_text(yaml.safe_dump(recorded), encoding="utf-8")
    return str(file)


def _folder(arguments: Sequence[str]) -> Path:
    """The run's folder by what was typed: an option, or else the last configuration file that names one."""
    if typed := _option(arguments, "--trainer.default_root_dir"):
        return expanded(typed)
    folder = _DEFAULT_FOLDER
    for file in (*_options(arguments, "-c"), *_options(arguments, "--config")):
        if Path(file).is_file():
            read = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
            trainer = read.get("trainer") if isinstance(read, dict) else None
            folder = (trainer or {}).get("default_root_dir") or folder
    return expanded(folder)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value that an option has in the end."""
    return next(reversed(_options(arguments, name)), None)


def _options(arguments: Sequence[str], name: str) -> list[str]:
    """The values of an option, typed as ``--name value`` or ``--name=value``."""
    following = [*arguments[1:], ""]
    return [
        value if argument == name else argument[len(name) + 1 :]
        for argument, value in zip(arguments, following, strict=True)
        if argument == name or argument.startswith(name + "=")
    ]


def _without(arguments: Sequence[str], name: str) -> list[str]:
    preceding = ["", *arguments[:-1]]
    return [
        argument
        for argument, before in zip(arguments, preceding, strict=True)
        if not (argument == name or argument.startswith(name + "=") or before == name)
    ]
