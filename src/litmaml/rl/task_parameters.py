"""What distinguishes the tasks of a family, by name: drawn from ranges and choices, or listed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from litmaml.rl.control_tasks import named_numbers

Value = bool | int | float | str
Spec = dict[str, list[float] | dict[str, list[Value]]] | list[dict[str, Value]]
"""A range [low, high] or {choices: [...]} by name, or a list of tasks."""


class TaskParameters:
    """The parameters of a task as numbers, and back.

    Args:
        train: Of training.
        test: Of validation and test; None for the same.

    Raises:
        ValueError: They are no such specification, or do not have the same names.
    """

    def __init__(self, train: Spec, test: Spec | None = None) -> None:
        self._specs = [train] if test is None else [train, test]
        for argument, spec in zip(("parameters", "test_parameters"), self._specs, strict=False):
            _check(argument, spec)
        self.names = [*_names(train)]
        if test is not None and {*_names(test)} != {*self.names}:
            raise ValueError(
                f"test_parameters: has to have the names of parameters, {', '.join(self.names)}, got "
                f"{', '.join(_names(test))}"
            )
        self._tables = {name: table for name in self.names if (table := self._table(name)) is not None}

    def draw(self, number: int, stream: np.random.Generator, test: bool) -> list[float]:
        """A number for each name: a value, or the index of one where there are only choices.

        Of a list of n tasks, task i is that at place i mod n.
        """
        spec = self._specs[-1 if test else 0]
        if isinstance(spec, list):
            chosen = spec[number % len(spec)]
            return [self._number(name, chosen[name]) for name in self.names]
        drawn = []
        for name in self.names:
            one = spec[name]
            if isinstance(one, dict):
                choices = one["choices"]
                drawn.append(self._number(name, choices[int(stream.integers(len(choices)))]))
            else:
                drawn.append(float(stream.uniform(one[0], one[1])))
        return drawn

    def numbers_of(self, named: Mapping[str, Value]) -> list[float]:
        """The numbers of a task by its parameters, the reverse of ``named``.

        Raises:
            ValueError: Other names, or a value that no task has where these are listed.
        """
        plain = named_numbers({name: 0 if name in self._tables else value for name, value in named.items()}, self.names)
        for k, name in enumerate(self.names):
            if name in self._tables:
                if not any(_same(known, named[name]) for known in self._tables[name]):
                    there = ", ".join(map(str, self._tables[name]))
                    raise ValueError(f"task: {name} is one of {there}, got {named[name]!r}")
                plain[k] = self._number(name, named[name])
        return plain

    def named(self, numbers: Sequence[float]) -> dict[str, Value]:
        """The parameters that numbers stand for, by name."""
        pairs = zip(self.names, numbers, strict=True)
        return {name: self._tables[name][round(x)] if name in self._tables else float(x) for name, x in pairs}

    def _number(self, name: str, value: Value) -> float:
        if name not in self._tables:
            return float(value)
        return float(next(k for k, known in enumerate(self._tables[name]) if _same(known, value)))

    def _table(self, name: str) -> list[Value] | None:
        """All values that a parameter may have, None if it is drawn from a range somewhere.

        Raises:
            ValueError: It is drawn from a range, and is no number elsewhere.
        """
        found: list[Value] = []
        for value in (v for spec in self._specs for v in _choices(name, spec) or ()):
            if not any(_same(value, known) for known in found):
                found.append(value)
        if all(_choices(name, spec) is not None for spec in self._specs):
            return found
        if other := [value for value in found if not _is_number(value)]:
            raise ValueError(
                f"parameters: {name} is drawn from a range and has to be a number everywhere, got {other[0]!r}"
            )
        return None


def _check(argument: str, spec: Spec) -> None:
    if isinstance(spec, list):
        if not spec or not spec[0] or any(not isinstance(task, Mapping) for task in spec):
            raise ValueError(f"{argument}: has to list tasks by their parameters, such as {{direction: 1}}, got {spec}")
        for task in spec:
            if task.keys() != spec[0].keys():
                raise ValueError(f"{argument}: tasks have to have the same names, got {spec[0]} and {task}")
        return
    if not isinstance(spec, Mapping) or not spec:
        raise ValueError(
            f"{argument}: has to say what distinguishes tasks, such as {{velocity: [0.0, 2.0]}}, got {spec}"
        )
    for name, one in spec.items():
        if not str(name).isidentifier():
            raise ValueError(f"{argument}: {name!r} can be no argument of make_env; take a name of letters and digits")
        if isinstance(one, Mapping):
            choices = one.get("choices")
            if one.keys() != {"choices"} or not isinstance(choices, list | tuple) or not choices:
                raise ValueError(f"{argument}: {name} has to be {{choices: [...]}} with some, got {one}")
            continue
        if not isinstance(one, list | tuple) or len(one) != 2 or not all(map(_is_number, one)):
            raise ValueError(
                f"{argument}: {name} has to be a range [low, high] or {{choices: [...]}}, got {one}"
                + ("; list what it may be as choices" if isinstance(one, list | tuple) else "")
            )
        if not -math.inf < one[0] <= one[1] < math.inf:
            raise ValueError(f"{argument}: {name} has to be a range of finite numbers, the lower first, got {one}")


def _names(spec: Spec) -> Iterator[str]:
    return iter(spec[0] if isinstance(spec, list) else spec)


def _choices(name: str, spec: Spec) -> list[Value] | None:
    """What a parameter may be, None if it is drawn from a range."""
    if isinstance(spec, list):
        return [task[name] for task in spec]
    one = spec[name]
    return one["choices"] if isinstance(one, dict) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Value, other: Value) -> bool:
    return type(one) is type(other) and one == other  # 1, 1.0 and true are three values
