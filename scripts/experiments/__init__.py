"""The experiments of the papers, one a module; ``scripts/reproduce.py`` runs them."""

from experiments.cost import COST
from experiments.estimators import ESTIMATORS
from experiments.experiment import Experiment
from experiments.fallah_figure_2 import FALLAH_FIGURE_2
from experiments.first_order_floor import FIRST_ORDER_FLOOR
from experiments.ji_figure_1 import JI_FIGURE_1
from experiments.methods import METHODS
from experiments.precision import PRECISION
from experiments.quadratics import QUADRATICS
from experiments.reinforcement_learning import REINFORCEMENT_LEARNING
from experiments.sinusoid import SINUSOID
from experiments.step_size import STEP_SIZE

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    # The longest first: with several processes they would else run alone at the end.
    for experiment in (
        REINFORCEMENT_LEARNING,
        METHODS,
        SINUSOID,
        JI_FIGURE_1,
        FALLAH_FIGURE_2,
        STEP_SIZE,
        ESTIMATORS,
        PRECISION,
        QUADRATICS,
        COST,
        FIRST_ORDER_FLOOR,
    )
}

__all__ = ["EXPERIMENTS", "Experiment"]
