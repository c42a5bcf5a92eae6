"""Without a part of the engine the gradients are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import relative
from torch import nn

from cases import OUTER, TWICE, UNPROBED
from litmaml.engine import allocator, batch_norm, convolution, features, linear, pooling, program, twice_differentiable
from litmaml.engine.switches import PARTS, is_on, without
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

# What a program is made and stays right by is off with it.
OF_A_PROGRAM = {"compiler", "traced_numbers", "watched"}
# Rounds on purpose: it is off by default.
ON_REQUEST = {"float32"}


def test_every_file_has_a_switch() -> None:
    files = {path.stem for path in Path(allocator.__file__).parent.glob("*.py")} - {"__init__", "switches"}
    assert files == {*PARTS} | OF_A_PROGRAM | ON_REQUEST


def used(part: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets an entry for every use of a part."""
    uses: list[str] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            uses.append(part)
            return function(*args, **kwargs)

        return noted

    if part == "allocator":
        monkeypatch.setattr("litmaml.outer.meta_gradient.keep_freed_memory", noting(allocator.keep_freed_memory))
    elif part == "batch_norm":
        monkeypatch.setattr(batch_norm, "_takes", noting(batch_norm._takes))
    elif part == "convolution":  # as on a GPU
        monkeypatch.setattr(convolution, "_are_own", noting(lambda weight: True))
    elif part == "features":
        monkeypatch.setattr(features.ConstantCalls, "replay", noting(features.ConstantCalls.replay))
    elif part == "linear":
        rows = noting(lambda: True)
        monkeypatch.setattr(linear, "is_on", lambda part: is_on(part) and rows())
    elif part == "pooling":
        monkeypatch.setattr(batch_norm, "halved", noting(pooling.halved))
    elif part == "twice_differentiable":
        apply = twice_differentiable._Convolution.apply
        monkeypatch.setattr(twice_differentiable._Convolution, "apply", noting(apply))
    elif part == "program":
        monkeypatch.setattr("litmaml.outer.compiled.Program", noting(program.Program))
    else:
        monkeypatch.setattr("litmaml.engine.together.vmap", noting(torch.func.vmap))
    return uses


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("part", "outer"),
    [pytest.param("program", outer, marks=pytest.mark.slow) for outer in ("FirstOrder", "SecondOrder")]
    + [
        (part, outer)
        for part in ("allocator", "batch_norm", "convolution", "features", "linear", "together", "twice_differentiable")
        for outer in UNPROBED
    ],
)
def test_gradients_without_a_part(part: str, outer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: nn.Module = Conv4(ways=3, filters=4)
    images = torch.randn(4, 6, 1, 28, 28)
    if part == "convolution":
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(1352, 3))
    elif part == "linear":
        model, images = (
            nn.Sequential(nn.Linear(28, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(112, 3)),
            images[:, :, 0],
        )
    elif part == "program":  # what is small is compiled soon
        model, images = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), images[..., 0, :3]
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.1), ["head.*"] if part == "features" else ["*"], 1)
    loop._written_out |= part == "convolution"  # as on a GPU too
    batch = Batch(images, torch.arange(3).repeat(2).expand(4, -1))
    tasks, uses = Tasks((batch,), batch, torch.arange(4)), used(part, monkeypatch)

    def gradients() -> Any:
        return MetaGradientOf(loop, OUTER[outer].make(), 1, 4, compile=part == "program")(tasks).gradients

    fast = gradients()
    assert uses or (part in ("batch_norm", "twice_differentiable") and outer not in TWICE)
    uses.clear()
    with without(part):
        plain = gradients()
    assert not uses
    assert relative(fast, plain) < 1e-10


def test_predictions_without_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooling has its other form where there are no gradients alone."""
    loop = InnerLoop(Conv4(ways=3, filters=4), nn.CrossEntropyLoss(), SGD(0.1), ["*"], 1)
    images, uses = torch.randn(4, 6, 1, 28, 28), used("pooling", monkeypatch)
    with torch.no_grad():
        fast = loop.predict(loop.learnt_start(4).fast, images)
        assert uses
        uses.clear()
        with without("pooling"):
            assert torch.equal(loop.predict(loop.learnt_start(4).fast, images), fast)
    assert not uses


def test_switches_come_on_again() -> None:
    with without("together"):
        with without("program", "together"):
            assert not is_on("together")
            assert not is_on("program")
        assert is_on("program")
        assert not is_on("together")
    assert all(map(is_on, PARTS))
    switch = without("vmap")
    with pytest.raises(ValueError, match="parts: there is none called 'vmap'; one of allocator, batch_norm"):
        switch.__enter__()
