"""Few-shot learning by MAML in PyTorch Lightning, with a selectable outer gradient."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from litmaml.data import TaskDataModule as TaskDataModule
    from litmaml.finetuning.adaptation import adapt as adapt
    from litmaml.finetuning.adapted_model import AdaptedModel as AdaptedModel
    from litmaml.finetuning.adapted_model import load as load
    from litmaml.finetuning.fine_tuner import FineTuner as FineTuner
    from litmaml.learner.meta_learner import MetaLearner as MetaLearner

# Imported when they are first asked for: lightning takes seconds.
_HOMES = {
    "AdaptedModel": "litmaml.finetuning.adapted_model",
    "FineTuner": "litmaml.finetuning.fine_tuner",
    "MetaLearner": "litmaml.learner.meta_learner",
    "TaskDataModule": "litmaml.data",
    "adapt": "litmaml.finetuning.adaptation",
    "load": "litmaml.finetuning.adapted_model",
}
__all__ = ["AdaptedModel", "FineTuner", "MetaLearner", "TaskDataModule", "adapt", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("litmaml")
    if name not in _HOMES:
        raise AttributeError(f"module 'litmaml' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
