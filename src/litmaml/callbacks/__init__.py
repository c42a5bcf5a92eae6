"""Lightning callbacks: what a run reports and keeps, how it is interrupted, and outer steps from theory."""

from litmaml.callbacks.adaptive_meta_step import AdaptiveMetaStep
from litmaml.callbacks.best_checkpoint import BestCheckpoint
from litmaml.callbacks.derivative_order import DerivativeOrderAnnealing
from litmaml.callbacks.last_checkpoint import LastCheckpoint
from litmaml.callbacks.predictions import Predictions
from litmaml.callbacks.preemption import Preemption
from litmaml.callbacks.regret import Regret
from litmaml.callbacks.report import Report
from litmaml.callbacks.resumption import Resumption

__all__ = [
    "AdaptiveMetaStep",
    "BestCheckpoint",
    "DerivativeOrderAnnealing",
    "LastCheckpoint",
    "Predictions",
    "Preemption",
    "Regret",
    "Report",
    "Resumption",
]
