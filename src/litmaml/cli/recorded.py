"""A checkpoint's own configuration, for the command line: admitted, and with no text in it that the parser reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast

from jsonargparse import Namespace, add_instantiator
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from litmaml.callbacks import BestCheckpoint, Preemption, Report
from litmaml.cli.sealed import seal, unseal
from litmaml.data import TaskDataModule
from litmaml.engine.float32 import Float32Precision
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.processes import own_cores
from litmaml.learner.recipe import NEEDED
from litmaml.runs.admission import admit_arguments
from litmaml.runs.admitted import NotAdmitted, Recipe, short, write
from litmaml.runs.proportion import check_size
from litmaml.runs.signatures import parameters
from litmaml.runs.typed import what_was_typed

_MOST_WORKERS = 256
_SECTIONS = {"trainer": Trainer, "checkpoint": BestCheckpoint, "report": Report, "preemption": Preemption}
_NOT_TAKEN = ("default_root_dir", "model_registry")
"""Arguments of the trainer that belong to a place, or would send the model away."""
_FOLDERS = ("save_dir", "dir", "root_dir", "sub_dir", "dirpath")


@dataclass
class _Process:
    """What is recorded of the process itself."""

    seed_everything: bool | int = True
    float32_matmul_precision: Float32Precision = "highest"


def configuration(saved: Mapping[str, Any], arguments: Sequence[str], data: bool = True) -> dict[str, Any]:
    """What a checkpoint records of its learner and its task data, without what was typed in its place.

    Args:
        saved: The checkpoint's content.
        arguments: What was typed.
        data: Whether the task data are wanted, too.

    Raises:
        ValueError: It records something else than how to make a learner and task data.
    """
    typed = what_was_typed(arguments)
    learner = admit_arguments(MetaLearner, saved["hyper_parameters"], "checkpoint.model", typed.within("model"))
    for name in NEEDED:
        if name not in saved["hyper_parameters"] and not typed.within("model").within(name):
            raise ValueError(
                f"model.{name}: the checkpoint does not record how it is made; give the run's configuration, "
                f"-c RUN/config.yaml, or type --model.{name}"
            )
    check_size(learner, saved["state_dict"], "checkpoint.model.")
    recorded = {"model": _for_parser(learner)}
    if data and "datamodule_hyper_parameters" in saved:
        what = saved["datamodule_hyper_parameters"]
        tasks = admit_arguments(TaskDataModule, what, "checkpoint.data", typed.within("data"))
        if tasks.get("num_workers", 0) > _MOST_WORKERS:
            raise ValueError(f"checkpoint.data.num_workers: starts {tasks['num_workers']} processes; type another")
        recorded["data"] = _for_parser(tasks)
    return recorded


def training(recorded: object, arguments: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint records of how its run is trained, without what was typed in its place.

    Args:
        recorded: The configuration of the run, as the checkpoint has it.
        arguments: What was typed.

    Raises:
        ValueError: It records something else than how to make a trainer and what belongs to it, or a part that is not
            made from a checkpoint alone.
    """
    if not isinstance(recorded, Mapping):
        raise ValueError("checkpoint.configuration: is damaged: it holds no options by name")
    typed = what_was_typed(arguments)
    try:
        process = {name: recorded[name] for name in _Process.__annotations__ if name in recorded}
        found: dict[str, Any] = _for_parser(admit_arguments(_Process, process, "checkpoint", typed))
        for name, kind in _SECTIONS.items():
            section = recorded.get(name, {})
            if name == "trainer" and isinstance(section, Mapping):
                section = {key: value for key, value in section.items() if key not in _NOT_TAKEN}
            admitted = admit_arguments(kind, section, f"checkpoint.{name}", typed.within(name))
            if name in recorded:
                _keep_logs(admitted.get("logger"))
                _check_stays(admitted, f"checkpoint.{name}")
                found[name] = _for_parser(admitted)
    except NotAdmitted as error:
        raise ValueError(f"{error}, or give the run's configuration, -c RUN/config.yaml") from error
    return found


def _for_parser(admitted: Any) -> Any:
    """What was admitted as the parser takes it, which does not get to see its texts."""
    for function in _functions(admitted):  # classes come to ``SealedParser`` by themselves
        add_instantiator(cast(Any, _unsealed), cast(Any, function), subclasses=False)
    return write(admitted, seal)


def _functions(admitted: Any) -> Iterator[Callable[..., Any]]:
    if isinstance(admitted, Recipe):
        if not isinstance(admitted.kind, type):
            yield admitted.kind
        admitted = admitted.arguments
    for part in admitted.values() if isinstance(admitted, Mapping) else admitted if isinstance(admitted, list) else ():
        yield from _functions(part)


def _check_stays(admitted: Mapping[str, Any], what: str) -> None:
    """Refuse what would write outside of the run's folder, or start more processes than the machine has cores."""
    for name, text in _texts(admitted, what):
        leads_out = ".." in PurePath(text).parts or text.startswith(("/", "~")) or "$" in text or "://" in text
        if leads_out or name.rpartition(".")[2] in _FOLDERS:
            option = ".".join(name.split(".")[1:3])
            raise NotAdmitted(
                f"{name}: may lead out of the run's folder, which a checkpoint alone does not, got {short(text)}; type "
                f"--{option}"
            )
        if re.search(r"\{[^}]*(\{|:[^}]*\d{3})", text):  # a file's name that metrics are written into, so wide
            raise NotAdmitted(f"{name}: may stand for a text without end, got {short(text)}")
    devices = admitted.get("devices")
    if str(devices).isdecimal() and int(str(devices)) > (cores := own_cores()):
        raise NotAdmitted(
            f"{what}.devices: the run had {devices} processes, and there are {cores} cores here; type --trainer.devices"
        )


def _keep_logs(loggers: Any) -> None:
    """Let recorded loggers write to the run's folder, not to the current one, which is the default of some."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        takes_one = isinstance(logger, Recipe) and "save_dir" in parameters(logger.kind)[0]
        if takes_one and str(logger.arguments.get("save_dir") or ".") == ".":
            logger.arguments["save_dir"] = ""


def _texts(admitted: Any, name: str) -> Iterator[tuple[str, str]]:
    """The texts in what was admitted, but the empty ones, with the names of their arguments."""
    if isinstance(admitted, Recipe):
        admitted = admitted.arguments
    if isinstance(admitted, Mapping):
        for key, value in admitted.items():
            yield from _texts(value, f"{name}.{key}")
    elif isinstance(admitted, list):
        for value in admitted:
            yield from _texts(value, name)
    elif isinstance(admitted, str | PurePath) and str(admitted) not in ("", "."):
        yield name, str(admitted)


class SealedParser(LightningArgumentParser):
    """Makes objects with the texts that a checkpoint records, which it did not get to see itself."""

    def instantiate_classes(self, cfg: Namespace, **kwargs: Any) -> Namespace:
        made: Namespace = self.instantiate(cfg, instantiators=[(_unsealed, object, True)], **kwargs)
        return made


def _unsealed(kind: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return kind(*args, **unseal(kwargs))
