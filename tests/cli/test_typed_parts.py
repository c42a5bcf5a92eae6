"""A run's configuration for the commands that take some parts of its learner, however it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from litmaml.cli.typed_parts import with_typed_parts
from litmaml.runs.arguments import Arguments

MODEL = {"class_path": "own.Net", "init_args": {"width": 3}}


@pytest.mark.parametrize("spelled", [["-c", "{}"], ["-c{}"], ["-c={}"], ["--config", "{}"], ["--config={}"]])
def test_however_it_is_spelled(spelled: list[str], tmp_path: Path) -> None:
    run, own = tmp_path / "run.yaml", tmp_path / "own.yaml"
    run.write_text(yaml.safe_dump({"model": {"model": MODEL, "inner_steps": 2}, "data": {}}))
    own.write_text(yaml.safe_dump({"network": MODEL}))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    typed = ["--images=x", *(part.format(run) for part in spelled), f"--config={own}", "--output", str(run)]
    taken = with_typed_parts(typed, {"model": "network"}, scratch)
    first, second = Arguments(taken).files
    assert yaml.safe_load(Path(first).read_text()) == {"network": MODEL}
    assert second == str(own)
    assert taken[-2:] == typed[-2:]
