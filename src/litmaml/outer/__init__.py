"""The outer gradient: how what is meta-learnt gets its gradient from adapted tasks."""

from litmaml.outer.estimators import FiniteDifference as FiniteDifference
from litmaml.outer.estimators import GaussianSmoothing as GaussianSmoothing
from litmaml.outer.estimators import ZerothOrder as ZerothOrder
from litmaml.outer.evolution import EvolutionStrategies as EvolutionStrategies
from litmaml.outer.exact import FirstOrder as FirstOrder
from litmaml.outer.exact import SecondOrder as SecondOrder
from litmaml.outer.gradient import OuterGradient as OuterGradient
from litmaml.outer.gradient import PathGradient as PathGradient
from litmaml.outer.hypergradient import HypergradientSGD as HypergradientSGD
from litmaml.outer.implicit import Implicit as Implicit
from litmaml.outer.loss import OuterLoss as OuterLoss
from litmaml.outer.losses import MeanLoss as MeanLoss
from litmaml.outer.losses import MultiStepLoss as MultiStepLoss
from litmaml.outer.losses import WorstCaseLoss as WorstCaseLoss
from litmaml.outer.reptile import Reptile as Reptile
