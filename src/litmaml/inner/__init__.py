"""The inner loop: how a task's weights move from the meta-learnt start."""

from litmaml.inner.adam import Adam as Adam
from litmaml.inner.adam import AdamW as AdamW
from litmaml.inner.higher import HigherOptimizer as HigherOptimizer
from litmaml.inner.meta_curvature import MetaCurvature as MetaCurvature
from litmaml.inner.optimizer import InnerOptimizer as InnerOptimizer
from litmaml.inner.proximal import Proximal as Proximal
from litmaml.inner.sgd import SGD as SGD
