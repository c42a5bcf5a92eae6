"""The benchmarks of Meta-World (Yu et al. 2019, arXiv 1910.10897)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any, Literal


class MetaWorld:
    """An arm at a table that reaches, pushes and so on for goals that it does not see, with 500 steps at most.

    ML1 is one kind of environment (``name``) with 50 goals for training, tasks 0 to 49, and 50 for tests, 50 to 99.
    ML10 has 10 kinds with 50 goals each for training, 0 to 499, and 5 for tests, 500 to 749. The parameter ``task`` may
    be drawn from a range, [0, 50] and [50, 100] of ML1: its whole part counts.

    Args:
        task: Which one.
        benchmark: ML1, ML10 or ML45.
        name: The kind of ML1, such as reach-v3 or push-v3.
        seed: Of the goals.

    Raises:
        ImportError: There is no Meta-World.
        ValueError: There is no kind of this name, or no such task.
    """

    _env: Any = None

    def __init__(
        self,
        task: float = 0,
        benchmark: Literal["ML1", "ML10", "ML45"] = "ML1",
        name: str = "reach-v3",
        seed: int = 0,
    ) -> None:
        self._kinds, self._tasks = _benchmark(benchmark, name, seed)
        self.set_task({"task": task})
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space

    def set_task(self, parameters: Mapping[str, Any]) -> None:
        """Take another goal, in another environment where the task is of another kind."""
        number = int(parameters["task"])
        if not 0 <= number < len(self._tasks):
            raise ValueError(f"task: has to be from 0 to {len(self._tasks) - 1}, got {number}")
        chosen = self._tasks[number]
        kind = self._kinds[chosen.env_name]
        if type(self._env) is not kind:
            self.close()
            self._env = kind()
        self._env.set_task(chosen)

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation; the goal is the task's, whatever the seed is."""
        found: tuple[Any, dict[str, Any]] = self._env.reset(seed=seed)
        return found

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step, which tells whether the goal was reached as ``success``."""
        found: tuple[Any, float, bool, bool, dict[str, Any]] = self._env.step(action)
        return found

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


@functools.cache
def _benchmark(benchmark: str, name: str, seed: int) -> tuple[dict[str, Any], list[Any]]:
    """The classes of a benchmark by their names, and its tasks, of training first: seconds to make, so once."""
    try:
        module = importlib.import_module("metaworld")
    except ImportError as error:
        raise ImportError(
            f"litmaml.rl.MetaWorld needs metaworld ({error}): pip install 'litmaml[metaworld]'"
        ) from error
    if benchmark == "ML1" and name not in module.ML1.ENV_NAMES:
        raise ValueError(f"name: Meta-World has no {name!r}; such as {', '.join(module.ML1.ENV_NAMES[:3])}")
    made = module.ML1(name, seed=seed) if benchmark == "ML1" else getattr(module, benchmark)(seed=seed)
    return {**made.train_classes, **made.test_classes}, [*made.train_tasks, *made.test_tasks]
