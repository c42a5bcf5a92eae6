"""What reinforcement learning adds: policies, environments as tasks, trajectories as data, and losses of these."""

from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.evolution import EvolutionOfReturns
from litmaml.rl.gymnasium_tasks import GymnasiumTasks
from litmaml.rl.metaworld import MetaWorld
from litmaml.rl.mujoco import AntDirection, HalfCheetahDirection, HalfCheetahVelocity
from litmaml.rl.navigation import Navigation
from litmaml.rl.outer_losses import ProMP, ScoreCorrection
from litmaml.rl.policies import CategoricalPolicy, GaussianPolicy
from litmaml.rl.rollouts import Rollouts
from litmaml.rl.surrogate import ClippedSurrogate, PolicySurrogate
from litmaml.rl.tabular import TabularMDP
from litmaml.rl.trust_region import RepeatedAdam, TrustRegion

__all__ = [
    "AntDirection",
    "CategoricalPolicy",
    "ClippedSurrogate",
    "ControlTasks",
    "EvolutionOfReturns",
    "GaussianPolicy",
    "GymnasiumTasks",
    "HalfCheetahDirection",
    "HalfCheetahVelocity",
    "MetaWorld",
    "Navigation",
    "PolicySurrogate",
    "ProMP",
    "RepeatedAdam",
    "Rollouts",
    "ScoreCorrection",
    "TabularMDP",
    "TrustRegion",
]
