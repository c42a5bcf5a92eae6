"""The theory's test problems: tasks whose Hessians and optima are known, and their losses."""

from litmaml.problems.linear_regression import LinearRegression
from litmaml.problems.losses import HalfSquaredLoss, LogCoshLoss, RankOneLoss
from litmaml.problems.rank_one import RankOne

__all__ = ["HalfSquaredLoss", "LinearRegression", "LogCoshLoss", "RankOne", "RankOneLoss"]
