"""Lightning callbacks: what a run reports, how it is interrupted, and outer steps from theory."""

from litmaml.callbacks.adaptive_meta_step import AdaptiveMetaStep
from litmaml.callbacks.preemption import Preemption
from litmaml.callbacks.report import Report

__all__ = ["AdaptiveMetaStep", "Preemption", "Report"]
