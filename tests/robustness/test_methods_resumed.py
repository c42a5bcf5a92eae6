"""Every method stopped in the middle of an epoch, and of what it changes by and by, goes on bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_checkpoints import same
from tiny import fit, saved, slow

METHODS = {
    "multi-step loss and annealing": """\
model:
  outer_loss: {class_path: litmaml.outer.MultiStepLoss, init_args: {epochs: 3}}
  inner_optimizer: {class_path: litmaml.inner.SGD, init_args: {lr: 0.01, learn: tensor, per_step: true}}
  inner_steps: 3
  rates_lr: 0.0001
trainer:
  callbacks:
  - {class_path: litmaml.callbacks.DerivativeOrderAnnealing, init_args: {epoch: 2}}
""",
    "worst case": """\
model:
  model: {class_path: torch.nn.Linear, init_args: {in_features: 3, out_features: 1, bias: false}}
  loss: {class_path: litmaml.problems.HalfSquaredLoss}
  outer_loss: {class_path: litmaml.outer.WorstCaseLoss, init_args: {tasks: 8, rate: 0.1}}
data:
  tasks: {class_path: litmaml.problems.LinearRegression, init_args: {size: 3, curvature: [0.2, 3.0], pool: 8}}
""",
    "learnt outer rate": """\
model:
  inner_optimizer: {class_path: litmaml.inner.SGD, init_args: {lr: 0.01, learn: one}}
  optimizer: {class_path: litmaml.outer.HypergradientSGD, init_args: {lr: 0.01, hyper_lr: 0.01, multiplicative: true}}
  rates_lr: 0.0001
""",
    "rounds": """\
data:
  tasks:
    class_path: litmaml.data.OnlineTasks
    init_args:
      tasks: {class_path: litmaml.data.Sinusoid, init_args: {train: {shots: 5, queries: 5}}}
      every: 10
trainer:
  callbacks:
  - {class_path: litmaml.callbacks.Regret}
""",
    "averaged": """\
trainer:
  callbacks:
  - {class_path: lightning.pytorch.callbacks.WeightAveraging}
""",
    "implicit": """\
model:
  outer_gradient: {class_path: litmaml.outer.Implicit, init_args: {iterations: 3}}
  inner_optimizer:
    class_path: litmaml.inner.Proximal
    init_args:
      optimizer: {class_path: litmaml.inner.SGD, init_args: {lr: 0.02}}
      strength: 10.0
      learn: true
  inner_steps: 16
""",
    "evolution": """\
model:
  outer_gradient: {class_path: litmaml.outer.EvolutionStrategies, init_args: {samples: 2}}
""",
    "curvature": """\
model:
  inner_optimizer:
    class_path: litmaml.inner.MetaCurvature
    init_args: {optimizer: {class_path: litmaml.inner.SGD, init_args: {lr: 0.01}}}
""",
    "reptile": """\
model:
  outer_gradient: {class_path: litmaml.outer.Reptile}
""",
}


FIRST = ("multi-step loss and annealing", 6)


@pytest.mark.parametrize(
    ("method", "stop"),
    [
        FIRST,
        *slow(*((method, stop) for method in METHODS for stop in (6, 10) if (method, stop) != FIRST)),
    ],
)
def test_goes_on_as_if_it_had_not_stopped(method: str, stop: int) -> None:
    Path("method.yaml").write_text(METHODS[method])
    fit("-c", "method.yaml", "--trainer.default_root_dir=whole", "--trainer.max_epochs=3")
    fit("-c", "method.yaml", f"--trainer.max_steps={stop}")
    fit("-c", "method.yaml", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert same("runs/tiny", "whole")
    found, whole = (saved(folder)["callbacks"] for folder in ("runs/tiny", "whole"))
    assert found.get("Regret") == whole.get("Regret")
    if method == "worst case":
        p = saved("runs/tiny")["state_dict"]["outer_loss.p"]
        assert not torch.equal(p, torch.full_like(p, 1 / 8))


def test_the_rate_of_what_is_learnt_is_obeyed_or_refused() -> None:
    learnt = ["--model.inner_optimizer.learn=one", "--model.rates_lr=0.0001"]
    fit(*learnt, "--trainer.max_epochs=1")
    fit(*learnt[:1], "--model.rates_lr=0.0002", "--model.optimizer.lr=0.5", "--ckpt_path=last")
    assert [group["lr"] for group in saved("runs/tiny")["optimizer_states"][0]["param_groups"]] == [0.5, 0.0002]
    with pytest.raises(ValueError, match=r"model.rates_lr: the run has 0.0002 and weights in groups by it, got None"):
        fit(*learnt[:1], "--model.rates_lr=null", "--ckpt_path=last", "--trainer.max_epochs=3")
