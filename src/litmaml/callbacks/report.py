"""What a validation or test leaves behind: a table on screen, a JSON file and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from torch import Tensor

from litmaml.learner.experience import Drawing
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.screen.results_table import describe_protocol, print_results, title_of
from litmaml.runs.json_text import json_text
from litmaml.runs.paths import unlinked
from litmaml.runs.plain_files import NotPlain, read_json
from litmaml.runs.whole_files import write_text, write_whole
from litmaml.shown import printable
from litmaml.statistics.plots import Fit, grid_over, plot_adaptation, plot_fits
from litmaml.tasks import Batch, Tasks, select, stacks_of


class Report(Callback):
    """Writes ``test_results.json`` and ``adaptation.png`` to the run's folder and prints the table of a test.

    For each inner step the mean and the half-width of the 95% interval of every metric over the test tasks, with the
    protocol beside them: data, ways, shots, queries, number of tasks, split and normalisation policy. Of a classifier
    also what its features are worth without adaptation (``Baselines``). Where a task is a function of one variable,
    ``functions.png`` shows what was fitted to the first few; where a policy acts, ``trajectories.png`` where it goes,
    and ``trajectories.gif``, where its environment renders, one of its trajectories before and after.
    """

    shows_results = True
    """Whether it takes the place of the table that a learner shows by itself."""
    _fits: Sequence[Fit] = ()
    _drawn: Drawing | None = None

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and trainer.is_global_zero and isinstance(pl_module, MetaLearner):
            tasks = stacks_of(batch)[0]
            if pl_module.experience is not None:
                self._drawn = pl_module.experience.draw(pl_module.inner_loop, tasks, pl_module.evaluation_steps, "test")
            self._fits = _fits(pl_module, tasks) if _of_one_variable(tasks) else ()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # In fit the progress bar and the logs have it.
        if trainer.is_global_zero and isinstance(pl_module, MetaLearner) and trainer.state.fn == TrainerFn.VALIDATING:
            protocol = describe_protocol(trainer, pl_module, "val")
            print_results(pl_module.results, protocol, sources=pl_module.source_results)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, MetaLearner):
            return
        folder = Path(trainer.default_root_dir)
        protocol = describe_protocol(trainer, pl_module, "test")
        steps = len(next(iter(pl_module.results.values())))
        results = {
            "protocol": protocol,
            "steps": [
                {
                    "inner_steps": step,
                    **{name: curve[step]._asdict() for name, curve in pl_module.results.items()},
                }
                for step in range(steps)
            ],
        }
        if sources := pl_module.source_results:
            results["sources"] = {
                source: {name: [result._asdict() for result in curve] for name, curve in found.items()}
                for source, found in sources.items()
            }
        if baselines := pl_module.baseline_results:
            results["baselines"] = {
                baseline: {name: result._asdict() for name, result in found.items()}
                for baseline, found in baselines.items()
            }
        # First: a disk that is full by now does not take them along.
        print_results(pl_module.results, protocol, baselines, sources)
        replaced = _replaced(folder / "test_results.json", protocol["checkpoint"])
        write_text(folder / "test_results.json", json_text(results))
        title = title_of(protocol)
        write_whole(
            folder / "adaptation.png", lambda fresh: plot_adaptation(fresh, pl_module.results, title, baselines)
        )
        written = "test_results.json, adaptation.png"
        if self._fits:
            write_whole(folder / "functions.png", lambda fresh: plot_fits(fresh, self._fits, title))
            written += ", functions.png"
        if self._drawn is not None:
            (name, figure, film), self._drawn = self._drawn, None
            write_whole(folder / f"{name}.png", lambda fresh: figure.savefig(unlinked(fresh), dpi=120))
            written += f", {name}.png"
            if film is not None:
                write_whole(folder / f"{name}.gif", lambda fresh: unlinked(fresh).write_bytes(film))
                written += f", {name}.gif"
        Console().print(printable(f"written to {folder}: {written}{replaced}"), soft_wrap=True, markup=False)


def _replaced(file: Path, checkpoint: str | None) -> str:
    """What to say of results that lie in the place of these, if they are of another checkpoint."""
    try:
        before = read_json(file)["protocol"]["checkpoint"]
    except (NotPlain, OSError, KeyError, TypeError):  # there are none, or not of ours
        return ""
    return "" if before == checkpoint else f", in place of those of {before or 'no checkpoint'}"


def _of_one_variable(tasks: Tasks) -> bool:
    inputs, targets = tasks.query
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        return False
    return inputs.shape[2:] == targets.shape[2:] == (1,) and targets.is_floating_point()


def _fits(learner: MetaLearner, tasks: Tasks, most: int = 3) -> list[Fit]:
    """The functions of the first few tasks after each inner step."""
    tasks = select(tasks, slice(most))
    x = grid_over(*(batch.inputs for batch in (*tasks.support, tasks.query)))
    on_grid = x[:, None].expand(tasks.size, -1, 1)
    with torch.no_grad():
        path = learner.inner_loop.path(tasks, learner.evaluation_steps)
        values = torch.stack([learner.inner_loop.predict(fast, on_grid)[..., 0] for fast in path], dim=1)
    return [
        Fit(x, values[k], {"support": _points(tasks.support, k), "query": _points([tasks.query], k)})
        for k in range(tasks.size)
    ]


def _points(batches: Sequence[Batch], k: int) -> tuple[Tensor, Tensor]:
    """The points of a task, also those of later steps' batches."""
    return torch.cat([batch.inputs[k, :, 0] for batch in batches]), torch.cat([b.targets[k, :, 0] for b in batches])
