"""Two processes agree with one, for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import FIT, ONE, TWO, assert_close, checkpoint, finish, start, weights

from litmaml.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
QUADRATICS = ["fit", f"--config={CONFIGS / 'theory' / 'quadratics.yaml'}", *FIT[3:]]
METHODS = {
    "tr_maml": ["--data.tasks.pool=8", "--model.outer_loss.tasks=8"],
    "imaml": [],
    "reptile": [],
    "es_maml": ["--model.outer_gradient.samples=2"],
    "meta_curvature": [],
    "minibatch_prox": [],
    "multi_step_loss": ["--model.outer_loss.epochs=3"],
    "meta_sgd": [],
    "alpha_maml": [],
    "cavia": [],
    "ftml": ["--data.tasks.every=16"],
    "averaged": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_agree_with_one(method: str, tmp_path: Path) -> None:
    base = QUADRATICS if method == "tr_maml" else FIT
    arguments = [*base, f"--config={CONFIGS / 'method' / f'{method}.yaml'}", *METHODS[method]]
    statuses, said = finish(start([*arguments, *TWO, "--trainer.devices=2"], tmp_path / "two"))
    assert statuses == [0], said
    main([*arguments, *ONE, f"--trainer.default_root_dir={tmp_path / 'one'}"])
    assert_close(tmp_path / "two", tmp_path / "one")
    if method == "tr_maml":
        p = weights(tmp_path / "one")["outer_loss.p"]
        assert not torch.equal(p, torch.full_like(p, 1 / 8))
    if method == "ftml":
        two, one = (checkpoint(tmp_path / name)["callbacks"]["Regret"]["losses"] for name in ("two", "one"))
        assert two == pytest.approx(one, rel=1e-9)
        assert len(one) == 6
