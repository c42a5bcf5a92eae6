"""Tasks of unequal size, with inputs and targets that are dicts, through the whole of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import finish, start, weights
from safetensors.torch import load_file
from sets import Normalised, Sets, WeighedError
from torch import Tensor
from torchmetrics import Metric

from litmaml import MetaLearner
from litmaml.callbacks import Predictions
from litmaml.cli.main import main
from litmaml.data import TaskDataModule
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks, stacks_of
from quiet_trainer import quiet_trainer

FIT = [
    "fit",
    "--model.model=sets.Normalised",
    "--model.loss=sets.WeighedError",
    "--model.output=value",
    "--model.inner_steps=2",
    "--data.tasks=sets.Sets",
    "--data.train_tasks=24",
    "--data.val_tasks=6",
    "--trainer.max_epochs=1",
    "--trainer.precision=64-true",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]


class Error(Metric):
    """The mean absolute error."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: dict[str, Tensor]) -> None:
        self.total = self.total + (predictions - targets["value"]).abs().sum()
        self.count = self.count + predictions.numel()

    def compute(self) -> Tensor:
        return self.total / self.count


def learner(**options: Any) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(Normalised(), loss=WeighedError(), output="value", inner_steps=2, **options)


def one_by_one(number: int, split: Any = "train") -> Tasks:
    data = Sets()
    (task,) = stacks_of(data.sample(split, [number], 0))
    return data.render(task)


def error_of(predictions: Tensor, task: Tasks) -> float:
    return float((predictions - task.query.targets["value"]).abs().mean())


@pytest.mark.parametrize(("batches", "options"), [(1, {}), (2, {"tasks_per_chunk": 1}), (2, {"on_nonfinite": "skip"})])
def test_an_outer_step_is_the_mean_over_tasks_with_workers(
    tmp_path: Path, batches: int, options: dict[str, Any]
) -> None:
    module = learner(optimizer=lambda p: torch.optim.SGD(p, lr=1.0), metrics={"error": Error()}, **options).double()
    start = {name: weight.detach().clone() for name, weight in module.inner_loop.named_parameters()}
    torch.set_default_dtype(torch.float64)
    try:
        tasks = [one_by_one(k) for k in range(12)]
        each = [MetaGradientOf(module.inner_loop, module.outer_gradient, 2)(task) for task in tasks]
    finally:
        torch.set_default_dtype(torch.float32)
    data = TaskDataModule(Sets(), meta_batch=12 // batches, train_tasks=12, val_tasks=4, num_workers=2)
    train = quiet_trainer(
        tmp_path, max_epochs=1, precision="64-true", accumulate_grad_batches=batches, limit_val_batches=0
    )
    train.fit(module, data)
    for name, weight in module.inner_loop.named_parameters():
        mean = torch.stack([one.gradients[name] for one in each]).mean(0)
        torch.testing.assert_close(weight.detach(), start[name] - mean, rtol=1e-12, atol=1e-13)
    # Of the last batch, each task counting once.
    last = slice(12 - 12 // batches, 12)
    assert batches > 1 or len({stack.size for stack in stacks_of(Sets().sample("train", range(12), 0))}) > 1
    errors = [error_of(one.predictions, task) for one, task in zip(each[last], tasks[last], strict=True)]
    losses = [float(one.loss) for one in each[last]]
    assert float(train.callback_metrics["train/error"]) == pytest.approx(sum(errors) / len(errors), rel=1e-6)
    assert float(train.callback_metrics["train/loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_results_are_means_over_tasks_and_predictions_name_them(tmp_path: Path) -> None:
    module = learner(metrics={"error": Error()})
    data = TaskDataModule(Sets(), meta_batch=3, val_tasks=6, test_tasks=7)
    run = quiet_trainer(tmp_path, callbacks=[Predictions()])
    run.validate(module, data, verbose=False)
    losses, errors = [], []
    for number in range(6):
        task = one_by_one(number, "val")
        *_, fast = module.inner_loop.path(task, 2)
        predictions = module.inner_loop.predict(fast, task.query.inputs)
        losses.append(module.inner_loop.loss_of(predictions, task.query.targets))
        errors.append(error_of(predictions, task))
    assert module.results["loss"][-1].mean == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    assert module.results["error"][-1].mean == pytest.approx(sum(errors) / 6, rel=1e-5)

    run.predict(module, data)
    found = load_file(tmp_path / "predictions.safetensors")
    numbers = {name: part.tolist() for name, part in found.items() if name.startswith("numbers")}
    assert sorted(number for part in numbers.values() for number in part) == [*range(7)]
    for name in numbers:
        k = name.removeprefix("numbers")
        assert found[f"targets['value']{k}"].shape == found[f"predictions{k}"].shape
        assert len(found[f"predictions{k}"]) == len(numbers[name])
    header, *lines = csv.reader((tmp_path / "predictions.csv").read_text().splitlines())
    assert header == ["task", "example", "prediction"]
    assert [int(line[0]) for line in lines] == sorted(int(line[0]) for line in lines)
    assert len(lines) == sum(part.numel() for name, part in found.items() if name.startswith("predictions"))


slow = pytest.mark.slow


PROBES = {
    "FiniteDifference": {"radius": 0.01},
    "GaussianSmoothing": {"samples": 3, "smoothing": 0.1},
    "ZerothOrder": {"samples": 3, "smoothing": 0.3},
}
"""Steps so long that dividing by them does not enlarge the rounding of a sum in another order."""


@pytest.mark.parametrize(
    ("outer", "chunk"),
    [
        pytest.param("SecondOrder", "null", marks=slow),
        pytest.param("GaussianSmoothing", "2", marks=slow),
        pytest.param("SecondOrder", "1", marks=slow),
        pytest.param("FirstOrder", "null", marks=slow),
        pytest.param("FiniteDifference", "2", marks=slow),
        pytest.param("GaussianSmoothing", "null", marks=slow),
        pytest.param("ZerothOrder", "null", marks=slow),
        pytest.param("ZerothOrder", "1", marks=slow),
    ],
)
def test_two_processes_are_one(tmp_path: Path, outer: str, chunk: str) -> None:
    """Also in what the outer loss is told of the tasks of both, and in the weights that it gives them next."""
    method = json.dumps({"class_path": outer, "init_args": PROBES.get(outer, {})})
    options = [
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.init_args.lr=0.05",
        "--model.outer_loss=sets.Ascending",
        f"--model.outer_gradient={method}",
        f"--model.tasks_per_chunk={chunk}",
    ]
    two = ["--data.meta_batch=4", "--trainer.strategy=ddp", "--trainer.devices=2", "--data.num_workers=1"]
    statuses, said = finish(start([*FIT, *options, *two], tmp_path / "two"))
    assert statuses == [0], said
    main([*FIT, *options, "--data.meta_batch=8", f"--trainer.default_root_dir={tmp_path / 'one'}"])
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert (one["outer_loss.total"] > 1).all()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-12)


def test_a_checkpoint_brings_its_output_along(tmp_path: Path) -> None:
    main([*FIT, "--data.train_tasks=8", "--data.meta_batch=8", f"--trainer.default_root_dir={tmp_path / 'one'}"])
    (checkpoint,) = (tmp_path / "one" / "checkpoints").glob("last.ckpt")
    again = MetaLearner.load_from_checkpoint(checkpoint)
    assert again.inner_loop.output == "value"
    folder = f"--trainer.default_root_dir={tmp_path / 'test'}"
    main(["test", f"--ckpt_path={checkpoint}", "--data.test_tasks=5", folder])
    assert json.loads((tmp_path / "test" / "test_results.json").read_text())["protocol"]["tasks"] == 5
