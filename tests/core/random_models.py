"""Cases drawn by number: a model of one to three parts, tasks, inner optimizer, outer gradient, chunks and steps."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
from grid_parts import GRID
from model_parts import SEQUENCE, VECTOR, WORDS, Apply, Make, Parts, W
from shared_parts import PARAMETRIZED, SHARED
from stateful_parts import RANDOM, STATEFUL
from torch import Tensor, nn
from trouble import Trouble
from troublesome_ends import EMBEDDINGS, INPUTS, OUTPUTS, PROBLEMS, WHOLE, Problem
from written_parts import WRITTEN

from cases import INNER, OUTER, Smoothing
from litmaml.outer import GaussianSmoothing, ZerothOrder
from litmaml.tasks import Batch, Tasks

TASKS, SUPPORT, QUERY = 3, 4, 3
SAMPLES = 3
SMOOTHING: Smoothing = {GaussianSmoothing: 1e-4, ZerothOrder: 1e-2}
# Each feature meets the exact gradient, another way to it, and any, in three of its cases.
_OUTER_IN_TURN = [["SecondOrder"], ["SecondOrder recompute", "FiniteDifference"], [*OUTER]]
_INNER_OFTEN = ["SGD", "momentum", "Nesterov", "weight decay", *INNER]

_SHAPES = {"vector": (3,), "sequence": (3, 3), "grid1": (3, 6), "grid2": (3, 4, 4), "grid3": (3, 4, 2, 4)}
_KINDS: dict[str, Parts] = {"vector": VECTOR, "sequence": SEQUENCE, **{f"grid{d}": parts for d, parts in GRID.items()}}


_SHRINKING = re.compile("Pool|stride|unfold")


def _plain(parts: Parts) -> dict[str, Trouble]:
    return {name: Trouble(make, "equal") for name, make in parts.items()}


# The feature that a case is about: its place in a model, its name, and what it is.
_FAMILIES: list[Mapping[tuple[str, str], Trouble | Problem]] = [
    *({(kind, name): part for name, part in _plain(parts).items()} for kind, parts in _KINDS.items()),
    *({("vector", name): part for name, part in parts.items()} for parts in (SHARED, PARAMETRIZED, RANDOM)),
    *({("vector", name): part for name, part in parts.items()} for parts in (STATEFUL, WRITTEN)),
    {("input", name): part for name, part in INPUTS.items()},
    {("words", name): part for name, part in EMBEDDINGS.items()},
    {("whole", name): part for name, part in WHOLE.items()},
    {("output", name): part for name, part in OUTPUTS.items()},
    {("problem", name): part for name, part in PROBLEMS.items()},
]
FEATURES = [
    feature for feature in chain.from_iterable(zip_longest(*(family.items() for family in _FAMILIES))) if feature
]
"""Of each family in turn, so that few cases see every family."""


@dataclass
class Case:
    """A drawn case. The model is made anew by ``make``, always alike; ``make(True)``: one that can be copied."""

    number: int
    feature: str
    features: list[str]
    make: Callable[[bool], nn.Module]
    loss: Callable[[], nn.Module]
    tasks: Callable[[], Tasks]
    outer: str
    inner: str
    steps: int
    chunk: int | None
    part: float | None
    training: bool
    must: str
    random: bool
    single: bool

    def fast(self, model: nn.Module) -> list[str]:
        """The names of the fast weights: all or a part."""
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        if self.part is None or not names:
            return names
        some = random.Random(self.number).sample(names, max(1, round(self.part * len(names))))
        return [name for name in names if name in some]

    def __str__(self) -> str:
        return (
            f"case {self.number}: {' + '.join(self.features)}; {self.outer}, {self.inner}, {self.steps} steps, chunk "
            f"{self.chunk}, {'all' if self.part is None else 'part'} fast, {'train' if self.training else 'eval'}"
        )


class Composed(nn.Module):
    """Stem, parts in a container, pooling and head."""

    def __init__(self, stem: nn.Module, parts: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.parts, self.head = stem, parts, head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if isinstance(self.parts, nn.Sequential):
            x = self.parts(x)
        else:
            assert isinstance(self.parts, nn.ModuleDict | nn.ModuleList)
            for part in self.parts.values() if isinstance(self.parts, nn.ModuleDict) else self.parts:
                x = part(x)
        result: Tensor = self.head(x)
        return result


def case(number: int) -> Case:
    """The case of this number."""
    draw = random.Random(number)
    (place, feature), what = FEATURES[number % len(FEATURES)]
    problem_name = feature if place == "problem" else draw.choice([n for n, p in PROBLEMS.items() if p.must == "equal"])
    problem = PROBLEMS[problem_name]
    kind = {"words": "sequence", "whole": "sequence"}.get(place, place)
    if kind not in _KINDS:
        kind = draw.choice(list(_KINDS))
    if place == "whole":
        problem_name = draw.choice(["CrossEntropyLoss of words", "MSELoss of words"])
        problem = (
            Problem(nn.CrossEntropyLoss, WORDS, lambda n: torch.randint(WORDS, (n,)))
            if problem_name.startswith("Cross")
            else Problem(nn.MSELoss, WORDS, lambda n: torch.randn(n, WORDS))
        )
    trouble = what if isinstance(what, Trouble) else Trouble(nn.Identity, problem.must)
    keeping = [(name, make) for name, make in _KINDS[kind].items() if not _SHRINKING.search(name)]
    others = draw.sample(keeping, draw.choice([0, 1, 1, 2]))
    makes: list[Make | None] = [make for _, make in others]
    if place == kind:
        makes.insert(draw.randrange(len(makes) + 1), None)
    container = draw.choice(["Sequential", "Sequential", "ModuleList", "ModuleDict"])
    words = place in ("words", "whole")

    def make(plain: bool = False) -> nn.Module:
        torch.manual_seed(number)
        own = trouble.plain if plain and trouble.plain else trouble.make
        if place == "whole":
            model = own()
        else:
            stem = own() if words else _stem(kind)
            parts = [(make or own)() for make in makes]
            model = Composed(stem, _contained(container, parts), nn.Sequential(_Pool(), nn.Linear(W, problem.outputs)))
            ends = [own()] if place == "input" else [], [own()] if place == "output" else []
            after = [problem.after()] if problem.after else []
            if ends[0] or ends[1] or after:
                model = nn.Sequential(*ends[0], model, *after, *ends[1])
        with torch.no_grad():  # scales and shifts that are no longer one and zero
            for weight in model.parameters():
                if not isinstance(weight, nn.parameter.UninitializedParameter):
                    weight.add_(0.2 * torch.randn_like(weight))
        return model

    steps = draw.choice([1, 2, 2, 3])
    supports, hessians = draw.choice([1, 1, 1, steps]), draw.choice([0, 0, 0, 0, steps, 1])
    if trouble.random:  # what is drawn for a Hessian product of other data is another step's
        hessians = 0
    outer = draw.choice(_OUTER_IN_TURN[sum(divmod(number, len(FEATURES))) % len(_OUTER_IN_TURN)])

    def tasks() -> Tasks:
        torch.manual_seed(number + 1)

        def batch(n: int) -> Batch:
            shape = (n, 3) if words else (n, *_SHAPES[kind])
            inputs = torch.stack([torch.randint(WORDS, shape) if words else torch.randn(shape) for _ in range(TASKS)])
            return Batch(inputs, torch.stack([problem.targets(n) for _ in range(TASKS)]))

        support = tuple(batch(SUPPORT) for _ in range(supports))
        query = batch(QUERY)
        return Tasks(support, query, torch.arange(TASKS) + 7, tuple(batch(SUPPORT) for _ in range(hessians)) or None)

    return Case(
        number,
        feature,
        [feature, *(name for name, _ in others), problem_name, container],
        make,
        problem.loss,
        tasks,
        outer=outer,
        inner=draw.choice(_INNER_OFTEN),
        steps=steps,
        # What is drawn for several tasks at once can only be told by the exact gradient's being that of the loss.
        chunk=1 if trouble.random and outer != "SecondOrder" else draw.choice([None, 1, 2, TASKS]),
        part=draw.choice([None, None, 0.3, 0.7]),
        training=trouble.random or draw.random() < 0.8,
        must=trouble.must,
        random=trouble.random,
        single=trouble.single,
    )


class _Pool(nn.Module):
    """(n, W), (n, t, W) or (n, W, ...) -> (n, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3 and x.shape[-1] == W and x.shape[1] != W:
            return x.mean(1)
        return x.flatten(2).mean(2) if x.dim() > 2 else x


def _stem(kind: str) -> nn.Module:
    if kind.startswith("grid"):
        return Apply(
            lambda m, x: torch.tanh(m.mix(x.movedim(1, -1)).movedim(-1, 1)), mix=nn.Linear(_SHAPES[kind][0], W)
        )
    return nn.Linear(_SHAPES[kind][-1], W)


def _contained(container: str, parts: list[nn.Module]) -> nn.Module:
    if container == "ModuleDict":
        return nn.ModuleDict({f"part{i}": part for i, part in enumerate(parts)})
    return nn.ModuleList(parts) if container == "ModuleList" else nn.Sequential(*parts)
