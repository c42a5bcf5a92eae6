"""The outer gradient: how what is meta-learnt gets its gradient from adapted tasks."""

from litmaml.outer.estimators import FiniteDifference, GaussianSmoothing, ZerothOrder
from litmaml.outer.evolution import EvolutionStrategies
from litmaml.outer.exact import FirstOrder, SecondOrder
from litmaml.outer.gradient import OuterGradient, PathGradient
from litmaml.outer.hypergradient import HypergradientSGD
from litmaml.outer.implicit import Implicit
from litmaml.outer.loss import OuterLoss
from litmaml.outer.losses import MeanLoss, MultiStepLoss, WorstCaseLoss
from litmaml.outer.reptile import Reptile

__all__ = [
    "EvolutionStrategies",
    "FiniteDifference",
    "FirstOrder",
    "GaussianSmoothing",
    "HypergradientSGD",
    "Implicit",
    "MeanLoss",
    "MultiStepLoss",
    "OuterGradient",
    "OuterLoss",
    "PathGradient",
    "Reptile",
    "SecondOrder",
    "WorstCaseLoss",
    "ZerothOrder",
]
