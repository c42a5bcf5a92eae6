"""The inner loop: how a task's weights move from the meta-learnt start."""

from litmaml.inner.adam import Adam, AdamW
from litmaml.inner.higher import HigherOptimizer
from litmaml.inner.meta_curvature import MetaCurvature
from litmaml.inner.optimizer import InnerOptimizer
from litmaml.inner.proximal import Proximal
from litmaml.inner.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "HigherOptimizer",
    "InnerOptimizer",
    "MetaCurvature",
    "Proximal",
]
