"""The list of methods is whole, and says of each what its class says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import litmaml.inner
import litmaml.outer
from cases import (
    EXACT,
    INNER,
    LOSSES,
    ONCE,
    OUTER,
    PROBING,
    REPEATING,
    SAMPLED,
    SOLVERS,
    TWICE,
    UNPROBED,
    UNSAMPLED,
    WRAPPERS,
)
from litmaml.inner import SGD, InnerOptimizer
from litmaml.outer import OuterGradient, OuterLoss, PathGradient


def subclasses(of: type) -> Iterator[type]:
    kind: type
    for kind in of.__subclasses__():
        yield kind
        yield from subclasses(kind)


def methods(of: type) -> set[type]:
    """All classes of litmaml that users can choose for this one; tests/rl has oracles for those that act."""
    for package in (litmaml.inner, litmaml.outer):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    return {
        kind
        for kind in subclasses(of)
        if kind.__module__.startswith("litmaml.") and not kind.__module__.startswith("litmaml.rl.")
        if kind.__name__[0] != "_" and not inspect.isabstract(kind)
    }


def test_every_outer_gradient_has_a_row() -> None:
    assert {row.kind for row in OUTER.values()} == methods(PathGradient)
    solved = {type(row.make()) for row in SOLVERS.values()}
    assert solved | {row.kind for row in OUTER.values()} == methods(OuterGradient)
    assert solved >= methods(OuterGradient) - methods(PathGradient)


def test_every_inner_optimizer_has_a_row() -> None:
    wrapped = {type(row.make(SGD())) for row in WRAPPERS.values()}
    assert {type(row.make()) for row in INNER.values()} | wrapped == methods(InnerOptimizer)


def test_every_outer_loss_has_a_row() -> None:
    assert {type(make()) for make in LOSSES.values()} == methods(OuterLoss) - {OuterLoss}


def test_a_method_without_a_row_is_seen() -> None:
    class New(PathGradient):
        __module__ = "litmaml.outer.new"
        hop = OUTER["FirstOrder"].kind.hop  # type: ignore[attr-defined]

    assert methods(PathGradient) - {row.kind for row in OUTER.values()} == {New}
    New.__module__ = __name__  # no longer of litmaml, for the tests that come after


@pytest.mark.parametrize("name", OUTER)
def test_a_row_says_what_its_class_does(name: str) -> None:
    row = OUTER[name]
    assert type(row.make(samples=3)) is row.kind
    assert getattr(row.make(samples=3), "samples", 3) == 3
    assert (row.points is not None) == (row.smoothing is not None) == row.kind.sampled
    assert row.repeats or not row.kind.probes
    assert row.computed is not None or not row.kind.probes
    assert row.tolerance <= 1e-4


def test_no_group_is_empty() -> None:
    for one, other in ((PROBING, UNPROBED), (SAMPLED, UNSAMPLED), (REPEATING, ONCE)):
        assert one
        assert other
        assert {**one, **other} == OUTER
    assert EXACT.keys() & TWICE.keys() == TWICE.keys()
