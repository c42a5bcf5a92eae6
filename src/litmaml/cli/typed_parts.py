"""A run's configuration, for the commands that take only some parts of its learner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

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
