"""Options of the commands that adapt and apply a model: parts of a run's learner, and what may be given twice."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from litmaml.runs.admitted import NotAdmitted
from litmaml.runs.arguments import read_config, with_files


def with_typed_parts(arguments: Sequence[str], parts: Mapping[str, str], scratch: Path) -> list[str]:
    """The arguments with a configuration of the command itself in place of each that is a run's.

    Args:
        arguments: What was typed.
        parts: The options that take parts of the learner, by the part's name there.
        scratch: A folder for what is written.
    """

    def own(file: str) -> str:
        content = read_config(file) if os.path.isfile(file) else None
        learner = content.get("model") if isinstance(content, dict) else None
        if not isinstance(learner, dict) or "model" not in learner or "class_path" in learner:
            return file
        written = scratch / f"parts_{len([*scratch.iterdir()])}.yaml"
        found = {option: learner[part] for part, option in parts.items() if learner.get(part) is not None}
        written.write_text(yaml.safe_dump(found), encoding="utf-8")
        return str(written)

    return with_files(arguments, own)


@contextmanager
def or_another(*options: str) -> Iterator[None]:
    """Tell how another part is given, where the recorded one cannot be made, as of a file that has changed since.

    Args:
        options: Those that take a part: ``loss``, and ``model`` or another for the model.
    """
    try:
        yield
    except ValueError as error:
        said = str(error)
        part = re.split(r"[.:]", said.removeprefix("checkpoint."))[0]
        option = options[0] if part == "model" else part if part in options else None
        unmade = isinstance(error, NotAdmitted) or "cannot be made of what is recorded" in said
        if option is None or not unmade or "--imports" in said:
            raise
        raise ValueError(f"{said}; make its class so again, or give another by --{option} or -c CONFIG") from error


def repeatable(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments, of which an option may be given several times with one value each, as its parser takes it."""
    typed, found = re.compile(rf"--{option}(?=$|=(?!\[))"), list[str]()
    for place, argument in enumerate(arguments):
        whole = arguments[place + 1 : place + 2] and arguments[place + 1].startswith("[") and "=" not in argument
        found.append(argument if whole else typed.sub(f"--{option}+", argument))
    return found
