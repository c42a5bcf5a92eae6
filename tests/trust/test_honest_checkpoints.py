"""What users make themselves is read by every command, also where it was moved or copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hostile import KEPT
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanAbsoluteError

import cases
import litmaml
from litmaml.cli.main import main
from litmaml.cli.recorded import configuration
from litmaml.cli.sealed import unseal
from litmaml.data import Episode, Glyphs, Sinusoid, TaskDataModule
from litmaml.finetuning.meta_checkpoint import open_checkpoint
from litmaml.inner import SGD, Adam, AdamW, HigherOptimizer
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.trial.model_copy import copy_of
from litmaml.models import MLP, Conv4, Vector
from litmaml.outer import FiniteDifference, FirstOrder, GaussianSmoothing, ZerothOrder
from litmaml.problems import HalfSquaredLoss, LinearRegression, LogCoshLoss, RankOne, RankOneLoss
from litmaml.runs.checkpoint import FORMAT, FORMAT_KEY, read_checkpoint
from quiet_trainer import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{part}")
    for part in ("The number of training batches", "The dirpath has changed", "checkpoints will not rebuild")
]
QUICK = ["--trainer.accelerator=cpu", "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false"]
OWN = """
from typing import Any, Callable, Sequence
from torch import nn
from litmaml.models import MLP

class Wrapped(nn.Module):
    def __init__(self, body: nn.Module, tag="a: b", scale: float | None = None, **more: Any):
        super().__init__()
        self.body, self.tag, self.scale, self.more = body, tag, scale, more
    def forward(self, x):
        return self.body(x)

class Wide(MLP):
    def __init__(self, name: str = "null", **kwargs):
        super().__init__(**kwargs)
        self.name = name
"""

OUTER = [row.make(3, {GaussianSmoothing: 0.1, ZerothOrder: 0.1}) for row in cases.OUTER.values()]
OUTER.append(FiniteDifference(1e-3))
INNER = [
    SGD(0.1),
    SGD(0.1, 0.9, True, 0.01),
    SGD(0.1, learn="one"),
    SGD(0.1, learn="tensor", per_step=True),
    SGD(0.1, learn="parameter"),
    Adam(0.1, (0.8, 0.9), learn="tensor", per_step=True),
    AdamW(0.1, (0.8, 0.9), weight_decay=0.1, learn="one"),
    HigherOptimizer("torch.optim.Adam", {"lr": 0.1, "betas": [0.8, 0.9]}),
    HigherOptimizer("SGD", {"lr": 0.1, "momentum": 0.5}, "one"),
]
assert {type(inner) for inner in INNER} == {type(row.make()) for row in cases.INNER.values()}
MODELS: list[tuple[nn.Module, nn.Module, Any]] = [
    (MLP(hidden=[3], activation="gelu", init="fan_in"), nn.MSELoss(), Sinusoid()),
    (MLP(hidden=[]), nn.HuberLoss(delta=0.5), Sinusoid(noise=0.1)),
    (nn.Linear(6, 1, bias=False), HalfSquaredLoss(), LinearRegression()),
    (nn.Linear(6, 1, bias=False), LogCoshLoss(), LinearRegression(curvature=(0.5, 2.0))),
    (Vector(4), RankOneLoss(), RankOne(size=4)),
    (Conv4(ways=3, filters=2), nn.CrossEntropyLoss(label_smoothing=0.1), Glyphs(Episode(ways=3, queries=2))),
    (
        Conv4(ways=3, filters=2, norm="group"),
        nn.CrossEntropyLoss(),
        Glyphs(Episode(ways=3, queries=2), test=Episode(queries=3)),
    ),
]


def made(
    folder: Path, model: nn.Module, loss: nn.Module, tasks: Any, inner: Any = None, outer: Any = None, **more: Any
) -> Path:
    """The checkpoint of a learner that was not trained."""
    learner = MetaLearner(model, inner, outer, loss, inner_steps=2, **more)
    data = TaskDataModule(tasks, meta_batch=2, train_tasks=4, val_tasks=2, test_tasks=2)
    trainer = quiet_trainer(folder, max_steps=1, limit_val_batches=0)
    trainer.fit(learner, data)
    file = folder / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(file)
    return file


def use(file: Path, commands: tuple[str, ...], *others: str) -> None:
    """Give a checkpoint to every loader and to commands; each ends without an error."""
    learner, again = MetaLearner.load_from_checkpoint(file), open_checkpoint(file).learner
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in learner.state_dict().items())
    root = f"--trainer.default_root_dir={file.parent.parent / 'out'}"
    tasks = file.parent.parent / "tasks.yaml"
    # As the record reads now: one of version 0.1 has other names.
    recorded = unseal(configuration(read_checkpoint(file), others))
    tasks.write_text(yaml.safe_dump({"data": {"tasks": recorded["data"]["tasks"]}}))
    for command in commands:
        option = "init_weights" if command == "init" else "ckpt_path"
        data = [] if command != "init" else ["-c", str(tasks)]
        main(["fit" if command == "init" else command, f"--{option}={file}", *QUICK, root, *data, *others])


ALL = ("test", "validate", "predict", "fit", "init")
SMALL = "--model.inner_steps=2"


def use_everywhere(file: Path, *others: str) -> None:
    """Give a checkpoint to every command and loader that takes examples of any kind."""
    use(file, ALL, SMALL, *others)
    diagnose(file, *others)
    examples = open_checkpoint(file).learner
    inputs = torch.randn(6, *_shape(examples))
    classes = isinstance(examples.inner_loop.loss, nn.CrossEntropyLoss)
    model = litmaml.adapt(file, inputs, [0, 1, 2, 0, 1, 2] if classes else torch.randn(6, 1), steps=2)
    assert model(inputs).shape == (6, 3 if classes else 1)


def diagnose(file: Path, *others: str) -> None:
    """Give a checkpoint to ``litmaml diagnose``."""
    out = file.parent.parent / "diagnosis"
    where = [f"--checkpoint={file}", f"--trainer.default_root_dir={out}"]
    main(["diagnose", *where, "--trainer.accelerator=cpu", "--diagnose.tasks=2", *others])
    assert (out / "diagnosis.json").is_file()


def _shape(learner: MetaLearner) -> tuple[int, ...]:
    first = next(module for module in learner.inner_loop.model.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return (first.in_features,) if isinstance(first, nn.Linear) else (first.in_channels, 28, 28)


def use_on_images(file: Path, folder: Path) -> None:
    """Adapt a checkpoint to files, load what that gives, and classify with it."""
    stream = np.random.default_rng(0)
    for k in range(9):
        (folder / "abc"[k % 3]).mkdir(parents=True, exist_ok=True)
        pixels = stream.integers(0, 255, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "abc"[k % 3] / f"{k}.png")
        Image.fromarray(255 - pixels).save(folder.with_name("loose.png"))
    adapted = folder.with_name("adapted")
    main(["finetune", f"--checkpoint={file}", f"--data={folder}", f"--output={adapted}", "--steps=2"])
    assert litmaml.load(adapted).classes == ["a", "b", "c"]
    (folder / "more").mkdir()
    shutil.move(folder.with_name("loose.png"), folder / "more")
    table = folder.with_name("table.csv")
    main(["classify", f"--model={adapted}", f"--images={folder / 'more'}", f"--output={table}"])
    assert len(table.read_text().splitlines()) == 2


@pytest.mark.parametrize("outer", OUTER, ids=lambda part: type(part).__name__)
def test_outer_gradients(outer: Any, tmp_path: Path) -> None:
    use(made(tmp_path, MLP(hidden=[3]), nn.MSELoss(), Sinusoid(), SGD(0.1), outer), ())


@pytest.mark.parametrize("inner", INNER, ids=lambda part: type(part).__name__)
def test_inner_optimizers(inner: Any, tmp_path: Path) -> None:
    use(made(tmp_path, MLP(hidden=[3]), nn.MSELoss(), Sinusoid(), inner), ())


@pytest.mark.parametrize("commands", [(), pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("model", "loss", "tasks"), MODELS, ids=lambda part: type(part).__name__)
def test_models_losses_and_tasks(
    model: nn.Module, loss: nn.Module, tasks: Any, commands: tuple[str, ...], tmp_path: Path
) -> None:
    file = made(tmp_path, copy_of(model), loss, tasks, SGD(0.01))
    use(file, commands, *([SMALL] if commands else []))
    if commands:
        diagnose(file)


@pytest.mark.slow
@pytest.mark.parametrize("outer", OUTER, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("inner", INNER, ids=lambda part: type(part).__name__)
def test_every_pair_in_every_command(outer: Any, inner: Any, tmp_path: Path) -> None:
    use_everywhere(made(tmp_path, MLP(hidden=[3]), nn.MSELoss(), Sinusoid(), inner, outer))


PAIRS = [(SGD(0.1), outer) for outer in OUTER] + [(inner, FirstOrder()) for inner in INNER]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("inner", "outer"),
    [PAIRS[0], *(pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS[1:])],
    ids=lambda part: type(part).__name__,
)
def test_images_in_every_command(inner: Any, outer: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    glyphs = Glyphs(Episode(ways=3, queries=2))
    file = made(tmp_path / "run", Conv4(ways=3, filters=2), nn.CrossEntropyLoss(), glyphs, inner, outer)
    use_on_images(file, tmp_path / "images")
    if "slow" in request.keywords:
        use_everywhere(file)


def test_metrics(tmp_path: Path) -> None:
    metrics = {"mae": MeanAbsoluteError()}
    use(made(tmp_path, MLP(hidden=[3]), nn.MSELoss(), Sinusoid(), metrics=metrics), ("test",))
    top = {"top-2": MulticlassAccuracy(3, top_k=2)}
    use(made(tmp_path, Conv4(3, 2), nn.CrossEntropyLoss(), Glyphs(Episode(ways=3, queries=2)), metrics=top), ())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--model.model=own_trust.Wrapped", "--model.model.body=MLP", "--model.model.tag=x.y"], "Wrapped"),
        pytest.param(["--model.model=own_trust.Wide", "--model.model.hidden=[3]"], "Wide", marks=pytest.mark.slow),
    ],
)
def test_the_users_own_classes(
    typed: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import sys

    (tmp_path / "own_trust.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    small = ["--data.train_tasks=4", "--data.meta_batch=2", "--data.val_tasks=2", "--data.test_tasks=2"]
    config = str(Path(__file__).parents[2] / "configs" / "sinusoid.yaml")
    base = ["fit", "-c", config, *small, *typed, "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    base.append("--trainer.enable_progress_bar=false")
    # The configuration's model is an MLP with arguments of its own, which another class does not take.
    main([*base, f"--trainer.default_root_dir={folder}"])
    for others in (["--imports", "own_trust"], ["--imports=own_trust"], ["--imports=[own_trust]"], typed[:1]):
        monkeypatch.delitem(sys.modules, "own_trust")
        main(["test", f"--ckpt_path={folder}", "--trainer.accelerator=cpu", *others])
        assert f"model: {expected}" in capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "own_trust")
    with pytest.raises((ValueError, SystemExit), match=r"'own_trust\.\w+' is not loaded.*type --imports own_trust"):
        main(["test", f"--ckpt_path={folder}", "--trainer.accelerator=cpu"])
    assert "own_trust" not in sys.modules


def test_a_class_that_is_typed_takes_an_unknown_ones_place(tmp_path: Path) -> None:
    saved = torch.load(KEPT, weights_only=True)
    saved["hyper_parameters"]["model"]["class_path"] = "renamed_since.MLP"
    saved["hyper_parameters"]["outer_gradient"] = {"class_path": "gone.Gradient", "init_args": {"x": "y"}}
    file = tmp_path / "checkpoints" / "best.ckpt"
    file.parent.mkdir()
    torch.save(saved, file)
    with pytest.raises((ValueError, SystemExit), match=r"'renamed_since\.MLP' is not loaded"):
        main(["test", f"--ckpt_path={file}", *QUICK])
    typed = ["--model.model=litmaml.models.MLP", "--model.model.hidden=[4]", "--model.outer_gradient=FirstOrder"]
    main(["test", f"--ckpt_path={file}", *QUICK, *typed])
    # A file is one whatever it is called.
    config = tmp_path / "settings"
    config.write_text("model:\n  model: {class_path: MLP, init_args: {hidden: [4]}}\n  outer_gradient: FirstOrder\n")
    main(["test", f"--ckpt_path={file}", *QUICK, "-c", str(config)])
    part = tmp_path / "part"
    part.write_text("{class_path: MLP, init_args: {hidden: [4]}}")
    main(["test", f"--ckpt_path={file}", *QUICK, typed[-1], f"--model.model={part}"])


def test_what_is_typed_lies_on_what_is_recorded(tmp_path: Path) -> None:
    root = f"--trainer.default_root_dir={tmp_path / 'run'}"
    typed = ["--model.inner_optimizer.lr=0.5", "--data.tasks.init_args.noise=0.25", "--trainer.max_epochs=1"]
    main(["fit", f"--init_weights={KEPT}", "-c", _sinusoid(tmp_path), root, "--trainer.accelerator=cpu", *typed])
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    inner = saved["hyper_parameters"]["inner_optimizer"]["init_args"]
    assert (inner["lr"], inner["learn"]) == (0.5, "tensor")  # typed, recorded
    assert saved["hyper_parameters"]["model"]["init_args"]["hidden"] == [4]
    assert saved["datamodule_hyper_parameters"]["tasks"]["init_args"]["noise"] == 0.25
    assert saved[FORMAT_KEY] == FORMAT


def _sinusoid(folder: Path) -> str:
    file = folder / "tasks.yaml"
    file.write_text(
        "data: {tasks: {class_path: litmaml.data.Sinusoid}, meta_batch: 2, train_tasks: 4, val_tasks: 2, "
        "test_tasks: 2}\n"
    )
    return str(file)


def test_a_checkpoint_of_an_earlier_version(tmp_path: Path) -> None:
    """Made by ``fit`` of version 0.1 before checkpoints had a number."""
    file = tmp_path / "checkpoints" / "best.ckpt"
    file.parent.mkdir()
    shutil.copy(KEPT, file)
    assert FORMAT_KEY not in torch.load(file, weights_only=True)
    use(file, ("test", "fit", "init"))
    learner = MetaLearner.load_from_checkpoint(file)
    assert learner.inner_loop.learnt["rate.head.bias"].item() == pytest.approx(0.013036064803600311)


def test_moved_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "a run", MLP(hidden=[3]), nn.MSELoss(), Sinusoid())
    moved = (tmp_path / "a run").rename(tmp_path / "elsewhere, ~ $HOME [1]")
    use(moved / "checkpoints" / "best.ckpt", ("test",))
    (tmp_path / "alone").mkdir()
    copy = Path(shutil.copy(moved / "checkpoints" / "best.ckpt", tmp_path / "alone" / "mine.ckpt"))
    use(copy, ("test",))
    monkeypatch.setenv("WHERE", str(tmp_path))
    main(["test", "--ckpt_path=$WHERE/alone/mine.ckpt", *QUICK])
