"""The YAML of the test problems runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from litmaml.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
OVERLAYS = {"sinusoid_adaptive_step.yaml": ["sinusoid.yaml"]}


@pytest.mark.parametrize("path", sorted((CONFIGS / "theory").glob("*.yaml")), ids=lambda path: path.stem)
def test_fit(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    end = Trainer._run

    def keep(trainer: Trainer, *arguments: object, **named: object) -> object:
        result = end(trainer, *arguments, **named)  # type: ignore[arg-type]
        losses.append(float(trainer.callback_metrics["train/loss"]))
        return result

    monkeypatch.setattr(Trainer, "_run", keep)
    below = [f"--config={CONFIGS / name}" for name in OVERLAYS.get(path.name, [])]
    main(["fit", *below, f"--config={path}", f"--trainer.default_root_dir={tmp_path}", "--trainer.fast_dev_run=2"])
    assert len(losses) == 1
    assert math.isfinite(losses[0])
