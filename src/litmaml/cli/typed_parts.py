"""A run's configuration, for the commands that take only some parts of its learner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from litmaml.runs.arguments import Arguments, read_config


def with_typed_parts(arguments: Sequence[str], parts: Mapping[str, str], scratch: Path) -> list[str]:
    """The arguments with a configuration of the command itself in place of each that is a run's.

    Args:
        arguments: What was typed.
        parts: The options that take parts of the learner, by the part's name there.
        scratch: A folder for what is written.
    """
    taken = list(arguments)
    for number, file in enumerate(Arguments(arguments).files):
        content = read_config(file) if os.path.isfile(file) else None
        learner = content.get("model") if isinstance(content, dict) else None
        if isinstance(learner, dict) and "model" in learner and "class_path" not in learner:
            written = scratch / f"parts_{number}.yaml"
            found = {option: learner[part] for part, option in parts.items() if learner.get(part) is not None}
            written.write_text(yaml.safe_dump(found), encoding="utf-8")
            spelled = {f"-c{file}", f"-c={file}", f"--config={file}"}
            for place, argument in enumerate(taken):
                if argument in spelled:
                    taken[place] = f"--config={written}"
                elif argument == file and taken[place - 1] in ("-c", "--config"):
                    taken[place] = str(written)
    return taken
