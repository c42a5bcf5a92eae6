"""Steps of a simulation per second of one core: of the simulation alone, of rollouts, and with the meta-gradient.

    OMP_NUM_THREADS=1 python scripts/rl_throughput.py

By default HalfCheetah with half of the published batch, 20 tasks with 20 trajectories of 100 steps before and after one
inner step, which is 80,000 steps an iteration; --make_env takes another class, and needs its parameters. The simulation
alone is as many copies stepped in turn with random actions. Seconds are of the processor, so that other programs count
less; the middle of --iterations is told.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import statistics
import time
import warnings

import torch

from litmaml import MetaLearner
from litmaml.inner import SGD
from litmaml.rl import GaussianPolicy, GymnasiumTasks, PolicySurrogate, Rollouts
from litmaml.tasks import Tasks


def measure(source: GymnasiumTasks, tasks: int, iterations: int) -> dict[str, float]:
    """The rates, and the seconds of a meta-gradient."""
    experience = Rollouts()
    policy = GaussianPolicy(source.observations, source.actions)
    with warnings.catch_warnings(action="ignore"):  # of a source that no checkpoint could name
        learner = MetaLearner(policy, SGD(0.1), loss=PolicySurrogate(), experience=experience)
    experience.connect(learner.inner_loop.model, source, 0, 1)
    steps = 2 * tasks * source.trajectories * source.horizon
    simulation, rollouts, gradients = [], [], []
    for k in range(iterations + 1):  # the first makes the copies
        drawn = source.sample("train", range(k * tasks, (k + 1) * tasks), 0)
        began = time.process_time()
        found = experience.collect(learner.inner_loop, drawn, 1, "train")
        acted = time.process_time()
        learner.meta_gradient(found.tasks)
        ended = time.process_time()
        experience.end_batch()
        if k:
            rollouts.append(acted - began)
            gradients.append(ended - acted)
            simulation.append(alone(source, drawn))
    alone_seconds, acting, gradient = map(statistics.median, (simulation, rollouts, gradients))
    return {
        "steps": steps,
        "simulation_per_second": round(steps / 2 / alone_seconds),
        "rollouts_per_second": round(steps / acting),
        "whole_per_second": round(steps / (acting + gradient)),
        "gradient_seconds": round(gradient, 3),
    }


def alone(source: GymnasiumTasks, tasks: Tasks) -> float:
    """The seconds of one round of trajectories without a policy."""
    environments = source.environments(tasks.query.inputs.squeeze(1))
    shape = (tasks.size, source.trajectories)
    actions, going = torch.randn(*shape, source.actions), torch.ones(shape, dtype=torch.bool)
    environments.start(torch.zeros(shape, dtype=torch.int64))
    began = time.process_time()
    for _ in range(source.horizon):
        going = going & ~environments.step(actions, actions[..., 0], going).ended
    seconds = time.process_time() - began
    environments.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make_env", default="litmaml.rl.HalfCheetahDirection")
    parser.add_argument("--parameters", type=json.loads, default={"direction": {"choices": [-1.0, 1.0]}})
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--trajectories", type=int, default=20)
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = GymnasiumTasks(pkgutil.resolve_name(given.make_env), given.parameters, given.horizon, given.trajectories)
    print(json.dumps({"make_env": given.make_env} | measure(source, given.tasks, given.iterations)))


if __name__ == "__main__":
    main()
