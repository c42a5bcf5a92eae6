"""The checkpoint that is best on validation, under one name wherever the run's folder lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.monitored import metric_of, no_such_metric
from litmaml.runs.checkpoint import checksum_file
from litmaml.runs.checkpoint_io import link_checkpoint
from litmaml.runs.folder import BEST, CHECKPOINTS
from litmaml.runs.training_form import cannot_go_on


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best model of all validations as ``checkpoints/best.ckpt`` in the run's folder.

    What was best so far, and by how much, goes into every checkpoint by file name. So a resumed run keeps its best also
    where the folder was moved, and where another metric decides from now on.

    Args:
        monitor: The validation metric that decides: val/loss, or val/NAME of a metric; null for the newest.
        mode: Whether the least (min) or the most (max) is best; by default as the metric has it.
        save_top_k: How many to keep. If not 1, each has a name epoch=E-step=S.ckpt, too; 0 keeps none, -1 all.

    Raises:
        ValueError: There is no such metric, nobody says which of its values are good, or save_top_k is below -1.
    """

    def __init__(
        self, monitor: str | None = "val/loss", mode: Literal["min", "max"] | None = None, save_top_k: int = 1
    ) -> None:
        if not isinstance(save_top_k, int) or save_top_k < -1:
            raise ValueError(f"checkpoint.save_top_k: has to be -1 for all, 0 for none, or more, got {save_top_k}")
        super().__init__(
            monitor=monitor,
            mode=mode or "min",
            save_top_k=save_top_k,
            filename=BEST.removesuffix(".ckpt") if save_top_k == 1 else "epoch={epoch}-step={step}",
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self._typed_mode = mode
        self._metrics: dict[str, dict[str, float]] = {}
        self._elsewhere: Mapping[str, Tensor] = {}  # the best ones of a run that goes on in another folder
        self._fetched: list[Path] = []  # and the copies of these
        self._began = 0

    @property
    def state_key(self) -> str:
        return type(self).__name__  # whatever decides

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.monitor is not None and isinstance(pl_module, MetaLearner):
            mode = self._typed_mode or _mode_of(self.monitor, pl_module, trainer)
            self.mode, self.kth_value = mode, torch.tensor(float("inf") if mode == "min" else -float("inf"))
        self.dirpath = str(Path(trainer.default_root_dir) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._began = trainer.global_step
        if trainer.is_global_zero and trainer.ckpt_path is not None and self.dirpath is not None:
            self._fetch(Path(trainer.ckpt_path).parent, Path(self.dirpath))
        # Each process looked for the files; where they share no disk the first one knows.
        self._take(trainer.strategy.broadcast(self.best_k_models))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if trainer.global_step == self._began:  # a run that has done nothing leaves nothing
            for file in self._fetched:
                file.unlink(missing_ok=True)
                checksum_file(file).unlink(missing_ok=True)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        known = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._metrics[Path(filepath).name] = known
        super()._save_checkpoint(trainer, filepath)
        best = Path(filepath).with_name(BEST)
        if filepath == self.best_model_path and Path(filepath) != best and trainer.is_global_zero:
            link_checkpoint(Path(filepath), best)

    def state_dict(self) -> dict[str, Any]:
        """The names of the files that are kept, with their scores and all metrics of their validations."""
        kept = {Path(path).name: score for path, score in self.best_k_models.items()}
        return {"monitor": self.monitor, "kept": kept, "metrics": {k: v for k, v in self._metrics.items() if k in kept}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.dirpath is None:
            return  # a test
        if not _is_state(state_dict):
            raise cannot_go_on("callbacks.BestCheckpoint", "is no record of scores by files")
        kept: Mapping[str, Tensor] = state_dict["kept"]
        self._metrics = dict(state_dict["metrics"])
        if state_dict["monitor"] != self.monitor:
            values = {name: self._metrics.get(name, {}).get(str(self.monitor)) for name in kept}
            kept = {name: torch.tensor(value) for name, value in values.items() if value is not None}
            rank_zero_info(f"checkpoint.monitor: the best was chosen by {state_dict['monitor']}, now by {self.monitor}")
        folder = Path(self.dirpath)
        self._elsewhere = {}
        # A worse one is removed in the end: only files of this folder, whatever the checkpoint says.
        kept = {name: score for name, score in kept.items() if Path(name).name == name and name.endswith(".ckpt")}
        there = {str(folder / name): score for name, score in kept.items() if (folder / name).is_file()}
        if not there:
            self._elsewhere = kept
        if self.save_top_k == 1 and there:
            score = (min if self.mode == "min" else max)(there.values(), key=float)
            there = {str(folder / BEST): score} if (folder / BEST).is_file() else {}
        elif str(folder / BEST) in there:  # there was one; it needs a name of its own beside the others
            own = folder / f"earlier-{BEST}"
            link_checkpoint(folder / BEST, own)
            self._metrics[own.name] = self._metrics.pop(BEST, {})
            there[str(own)] = there.pop(str(folder / BEST))
        self._take(there)

    def _fetch(self, earlier: Path, folder: Path) -> None:
        """Let the best checkpoints of a run that goes on in another folder be the first there, as copies."""
        kept, self._elsewhere = self._elsewhere, {}
        if earlier.resolve() == folder.resolve() or not kept or self.save_top_k == 0:
            return
        best = (min if self.mode == "min" else max)(kept, key=lambda name: float(kept[name]))
        # Where several are kept, best.ckpt is a second name of one.
        source = earlier / (BEST if self.save_top_k == 1 else best)
        if not source.is_file():
            rank_zero_info(f"the best checkpoint so far is not in {earlier}: the best is the best from now on")
            return
        folder.mkdir(parents=True, exist_ok=True)
        own = f"earlier-{BEST}" if source.name == BEST and self.save_top_k != 1 else source.name
        for name in dict.fromkeys([own, BEST]):
            link_checkpoint(source, folder / name)
            self._fetched.append(folder / name)
        rank_zero_info(f"best so far, in {folder} too: {source} ({self.monitor} {float(kept[best]):.4g})")
        self._metrics[own] = self._metrics.get(best, {})
        self._take({str(folder / own): kept[best]})

    def _take(self, kept: Mapping[str, Tensor]) -> None:
        self.best_k_models = dict(kept)
        if not kept:
            return
        in_order = sorted(kept, key=lambda path: float(kept[path]), reverse=self.mode == "max")
        self.best_model_path, self.kth_best_model_path = in_order[0], in_order[-1]
        self.best_model_score, self.kth_value = kept[in_order[0]], kept[in_order[-1]]


def _is_state(state: Any) -> bool:
    """Whether this is what ``BestCheckpoint.state_dict`` gives."""
    if not isinstance(state, Mapping) or state.keys() != {"monitor", "kept", "metrics"}:
        return False
    tables = [state["kept"], *(state["metrics"].values() if isinstance(state["metrics"], Mapping) else [None])]
    return isinstance(state["monitor"], str | None) and all(
        isinstance(table, Mapping)
        and all(
            isinstance(name, str)
            and (isinstance(score, int | float) or (isinstance(score, Tensor) and score.dim() == 0))
            for name, score in table.items()
        )
        for table in tables
    )


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The file of the best checkpoint, if there is one; of the user's other callbacks none counts."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it outside the class
        if isinstance(callback, BestCheckpoint) and callback.best_model_path:
            return Path(callback.best_model_path).with_name(BEST)
    return None


def _mode_of(monitor: str, learner: MetaLearner, trainer: Trainer) -> Literal["min", "max"]:
    """Which values of a metric are good.

    Raises:
        ValueError: There is no such metric, or it does not say.
    """
    metrics: Any = learner.metrics  # metrics in a ModuleDict lose their type
    found = metric_of(monitor, metrics)
    if found is None:
        own = [c for c in trainer.callbacks if not type(c).__module__.startswith(("lightning.", "litmaml."))]  # type: ignore[attr-defined]  # as above
        if own or type(learner) is not MetaLearner:
            return "min"  # they may log it
        raise no_such_metric("checkpoint.monitor", monitor, metrics)
    higher = False if found[0] == "loss" else metrics[found[0]].higher_is_better
    if higher is None:
        raise ValueError(
            f"checkpoint.mode: the metric {monitor!r} does not say whether more is better; set it to min or max"
        )
    return "max" if higher else "min"
