"""Each overlay of a method trains, over every experiment that it is for, and its checkpoint is tested."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

from litmaml.cli.main import main
from litmaml.runs.checkpoint import read_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
SINUSOID, GLYPHS, QUADRATICS = "sinusoid.yaml", "glyphs.yaml", "theory/quadratics.yaml"
BOTH = (SINUSOID, GLYPHS)
SMALL = {
    SINUSOID: ["--model.model.init_args.hidden=[4]"],
    GLYPHS: ["--model.model.init_args.filters=2", "--data.tasks.init_args.train.queries=1"],
    QUADRATICS: [],
}
# Over which experiments.
FOR: dict[str, tuple[str, ...]] = {
    "alpha_maml": BOTH,
    "anil": BOTH,
    "averaged": BOTH,
    "boil": BOTH,
    "cavia": (SINUSOID,),
    "cavia_images": (GLYPHS,),
    "es_maml": (SINUSOID,),
    "ftml": (SINUSOID,),
    "imaml": (SINUSOID,),
    "imaml_images": (GLYPHS,),
    "maml_pp": BOTH,
    "meta_curvature": BOTH,
    "meta_sgd": BOTH,
    "minibatch_prox": BOTH,
    "multi_step_loss": BOTH,
    "proto_maml": (GLYPHS,),
    "reptile": BOTH,
    "t_net": (SINUSOID,),
    "tr_maml": (QUADRATICS,),
    "tr_maml_images": (GLYPHS,),
}
TYPED = {
    ("cavia", SINUSOID): ["--model.model.init_args.hidden=[4]"],
    ("ftml", SINUSOID): ["--model.model.init_args.hidden=[4]", "--data.tasks.every=2"],
    ("imaml_images", GLYPHS): ["--model.on_nonfinite=skip"],  # of so small a network the loss is not smooth
    ("maml_pp", SINUSOID): ["--model.per_step_weights=[]"],
    ("t_net", SINUSOID): [],
    ("tr_maml_images", GLYPHS): ["--model.model.init_args.filters=2", "--data.tasks.tasks.init_args.train.queries=1"],
}
QUICK = {("imaml", SINUSOID)}
CASES = [(method, below) for method, experiments in FOR.items() for below in experiments]


def test_every_overlay_is_here() -> None:
    assert {path.stem for path in (CONFIGS / "method").glob("*.yaml")} == FOR.keys()


@pytest.mark.filterwarnings("ignore:outer_gradient. the end of the inner steps is no minimiser")
@pytest.mark.parametrize(
    ("method", "below"),
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow], id=" over ".join(case)) for case in CASES],
)
def test_fit_and_test(method: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    end = Trainer._run

    def keep(trainer: Trainer, *arguments: Any, **named: Any) -> object:
        result = end(trainer, *arguments, **named)
        losses.append(float(trainer.callback_metrics["train/loss" if trainer.state.fn == "fit" else "test/loss"]))
        return result

    monkeypatch.setattr(Trainer, "_run", keep)
    overlay = CONFIGS / "method" / f"{method}.yaml"
    few = ["--data.meta_batch=2", "--data.train_tasks=4", "--data.val_tasks=2", "--data.test_tasks=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    typed = [] if method in ("cavia", "t_net", "tr_maml_images") else SMALL[below]
    typed = [*typed, *TYPED.get((method, below), [])]
    run = ["--trainer.max_epochs=1", "--trainer.log_every_n_steps=1", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", f"--config={CONFIGS / below}", f"--config={overlay}", *typed, *few, *quiet, *run])
    main(["test", f"--ckpt_path={tmp_path}", *quiet])
    assert all(map(math.isfinite, losses))
    assert len(losses) == 2
    # What the checkpoint makes again is what the overlay says.
    recorded = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["hyper_parameters"]
    for name, part in yaml.safe_load(overlay.read_text()).get("model", {}).items():
        if name in ("optimizer", "lr_scheduler") or any(option.startswith(f"--model.{name}=") for option in typed):
            continue
        wanted, found = (p.get("class_path") if isinstance(p, dict) else p for p in (part, recorded[name]))
        assert found == wanted


def test_callbacks_of_overlays_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Each brings its own, and none takes those of the files before it away."""
    for path in CONFIGS.rglob("*.yaml"):
        if set(yaml.safe_load(path.read_text())) <= {"model", "trainer"}:  # an overlay
            assert "callbacks" not in yaml.safe_load(path.read_text()).get("trainer", {}), path
    overlays = [f"--config={CONFIGS / name}.yaml" for name in ("method/maml_pp", "method/averaged", "logger/wandb")]
    with pytest.raises(SystemExit):
        main(["fit", f"--config={CONFIGS / SINUSOID}", *overlays, "--model.per_step_weights=[]", "--print_config"])
    callbacks = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    names = [callback["class_path"].rpartition(".")[2] for callback in callbacks]
    assert names == ["DerivativeOrderAnnealing", "WeightAveraging", "WandbReport"]
